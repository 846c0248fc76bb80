//! The count of transfers in flight with a peer, and the waiter for the last of them.

#[cfg(all(test, loom))]
mod loom_model;

use std::sync::Arc;
#[cfg(not(all(test, loom)))]
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering;

#[cfg(all(test, loom))]
use loom::sync::atomic::AtomicUsize;
use nixl_ops::Idle;
#[cfg(not(all(test, loom)))]
use tokio::sync::Notify;

#[cfg(all(test, loom))]
use loom_model::Notify;

/// Counter of posted, unfinished transfers with one peer.
#[derive(Debug, Default)]
pub(crate) struct Occupancy {
    in_flight: AtomicUsize,
    /// Waiters for an idle peer, and holders that are about to reload it.
    waiting: AtomicUsize,
    idle: Notify,
}

impl Occupancy {
    /// Counts a posted transfer.
    pub(crate) fn enter(&self) {
        self.in_flight.fetch_add(1, Ordering::AcqRel);
    }

    /// Takes back one [`enter`](Self::enter).
    pub(crate) fn leave(&self) {
        if self.in_flight.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.idle.notify_waiters();
        }
    }

    pub(crate) fn is_busy(&self) -> bool {
        self.in_flight.load(Ordering::Acquire) > 0
    }

    /// Whether posts are blocked, so that transfers in flight drain.
    pub(crate) fn is_held(&self) -> bool {
        self.waiting.load(Ordering::Acquire) > 0
    }

    /// Waits until no transfer is in flight. The returned guard blocks further posts.
    pub(crate) async fn until_idle(self: Arc<Self>) -> Idle {
        let hold = Hold::of(Arc::clone(&self));
        loop {
            let mut notified = std::pin::pin!(self.idle.notified());
            // Registered before the check, so an end in between is not missed.
            notified.as_mut().enable();
            if !self.is_busy() {
                return Idle::holding(hold);
            }
            notified.await;
        }
    }
}

struct Hold(Arc<Occupancy>);

impl Hold {
    fn of(peer: Arc<Occupancy>) -> Self {
        peer.waiting.fetch_add(1, Ordering::AcqRel);
        Self(peer)
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        self.0.waiting.fetch_sub(1, Ordering::AcqRel);
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use std::future::Future;
    use std::task::{Context, Waker};

    use super::*;

    #[test]
    fn a_peer_is_held_from_the_wait_until_what_it_gave_is_dropped() {
        let peer = Arc::new(Occupancy::default());
        peer.enter();
        peer.enter();
        let mut idle = std::pin::pin!(Arc::clone(&peer).until_idle());
        let mut context = Context::from_waker(Waker::noop());
        assert!(idle.as_mut().poll(&mut context).is_pending() && peer.is_held());
        peer.leave();
        assert!(idle.as_mut().poll(&mut context).is_pending());
        peer.leave();
        let held = idle.as_mut().poll(&mut context);
        assert!(held.is_ready() && peer.is_held());
        drop(held);
        assert!(!peer.is_held());
    }

    #[test]
    fn a_wait_that_is_given_up_holds_nothing() {
        let peer = Arc::new(Occupancy::default());
        peer.enter();
        {
            let mut idle = std::pin::pin!(Arc::clone(&peer).until_idle());
            let mut context = Context::from_waker(Waker::noop());
            assert!(idle.as_mut().poll(&mut context).is_pending());
        }
        assert!(!peer.is_held());
    }
}
