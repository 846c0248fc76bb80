//! One peer, as its transfers see it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use nixl_ops::{Idle, PeerId};
use tokio::sync::Notify;

/// State of a peer that its transfers share.
#[derive(Debug)]
pub(super) struct Peer {
    pub(super) id: PeerId,
    in_flight: AtomicUsize,
    broken: AtomicBool,
    forgotten: AtomicBool,
    /// Those who wait until no transfer is in flight, or have waited and are about to load the peer anew.
    waiting: AtomicUsize,
    idle: Notify,
}

impl Peer {
    pub(super) fn new(id: PeerId) -> Arc<Self> {
        Arc::new(Self {
            id,
            in_flight: AtomicUsize::new(0),
            broken: AtomicBool::new(false),
            forgotten: AtomicBool::new(false),
            waiting: AtomicUsize::new(0),
            idle: Notify::new(),
        })
    }

    /// Counts a posted transfer.
    pub(super) fn enter(&self) {
        self.in_flight.fetch_add(1, Ordering::AcqRel);
    }

    /// Takes back one [`enter`](Self::enter).
    pub(super) fn leave(&self) {
        if self.in_flight.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.idle.notify_waiters();
        }
    }

    pub(super) fn is_busy(&self) -> bool {
        self.in_flight.load(Ordering::Acquire) > 0
    }

    /// A transfer failed: the connection must be made anew before the next.
    pub(super) fn set_broken(&self) {
        self.broken.store(true, Ordering::Release);
    }

    pub(super) fn is_broken(&self) -> bool {
        self.broken.load(Ordering::Acquire)
    }

    /// NIXL does not know the peer any more under this entry. It may have been loaded anew.
    pub(super) fn set_forgotten(&self) {
        self.forgotten.store(true, Ordering::Release);
    }

    pub(super) fn is_forgotten(&self) -> bool {
        self.forgotten.load(Ordering::Acquire)
    }

    /// Whether transfers shall not be posted now, so that those in flight come to an end.
    pub(super) fn is_held(&self) -> bool {
        self.waiting.load(Ordering::Acquire) > 0
    }

    /// Waits until no transfer is in flight. None is posted as long as what this returns is held.
    pub(super) async fn until_idle(self: Arc<Self>) -> Idle {
        let hold = Hold::of(Arc::clone(&self));
        loop {
            let mut notified = std::pin::pin!(self.idle.notified());
            // In its place before the look: an end in between is not missed.
            notified.as_mut().enable();
            if !self.is_busy() {
                return Idle::holding(hold);
            }
            notified.await;
        }
    }
}

struct Hold(Arc<Peer>);

impl Hold {
    fn of(peer: Arc<Peer>) -> Self {
        peer.waiting.fetch_add(1, Ordering::AcqRel);
        Self(peer)
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        self.0.waiting.fetch_sub(1, Ordering::AcqRel);
    }
}

#[cfg(test)]
mod tests {
    use std::future::Future;
    use std::task::{Context, Waker};

    use super::*;

    #[test]
    fn a_peer_is_held_from_the_wait_until_what_it_gave_is_dropped() {
        let peer = Peer::new(PeerId::new("p"));
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
        let peer = Peer::new(PeerId::new("p"));
        peer.enter();
        {
            let mut idle = std::pin::pin!(Arc::clone(&peer).until_idle());
            let mut context = Context::from_waker(Waker::noop());
            assert!(idle.as_mut().poll(&mut context).is_pending());
        }
        assert!(!peer.is_held());
    }
}
