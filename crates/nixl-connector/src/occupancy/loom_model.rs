//! Models of transfers that end beside a wait for the last of them, run by `cargo xtask loom`.

use std::future::Future;
use std::pin::Pin;
use std::sync::PoisonError;
use std::task::{Context, Poll, Waker};

use loom::future::block_on;
use loom::sync::{Mutex, MutexGuard};
use loom::thread;

use super::*;

/// Tokio's, as far as it is used here: waiters under a lock, and a count of the calls, so that one after
/// [`notified`](Self::notified) is not missed.
#[derive(Debug, Default)]
pub(super) struct Notify(Mutex<(usize, Vec<Waker>)>);

impl Notify {
    fn locked(&self) -> MutexGuard<'_, (usize, Vec<Waker>)> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn notify_waiters(&self) {
        let mut locked = self.locked();
        locked.0 += 1;
        let waiters = std::mem::take(&mut locked.1);
        drop(locked);
        waiters.into_iter().for_each(Waker::wake);
    }

    pub(super) fn notified(&self) -> Notified<'_> {
        Notified { of: self, calls: self.locked().0 }
    }
}

pub(super) struct Notified<'a> {
    of: &'a Notify,
    calls: usize,
}

impl Notified<'_> {
    /// Registered since it was made.
    pub(super) fn enable(self: Pin<&mut Self>) {}
}

impl Future for Notified<'_> {
    type Output = ();

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        let mut locked = self.of.locked();
        if locked.0 != self.calls {
            return Poll::Ready(());
        }
        locked.1.push(context.waker().clone());
        Poll::Pending
    }
}

/// A peer with so many transfers in flight.
fn with(transfers: usize) -> Arc<Occupancy> {
    let peer = Arc::new(Occupancy::default());
    (0..transfers).for_each(|_| peer.enter());
    peer
}

fn leaving(peer: &Arc<Occupancy>) -> thread::JoinHandle<()> {
    let peer = Arc::clone(peer);
    thread::spawn(move || peer.leave())
}

#[test]
fn loom_the_end_of_the_last_transfer_is_not_missed() {
    loom::model(|| {
        let peer = with(2);
        let leaving = [(); 2].map(|()| leaving(&peer));
        let held = block_on(Arc::clone(&peer).until_idle());
        assert!(!peer.is_busy() && peer.is_held());
        drop(held);
        assert!(!peer.is_held());
        leaving.into_iter().for_each(|leaving| leaving.join().unwrap());
    });
}

#[test]
fn loom_all_who_wait_for_a_peer_go_on() {
    loom::model(|| {
        let peer = with(1);
        let leaving = leaving(&peer);
        let other = Arc::clone(&peer);
        let other = thread::spawn(move || drop(block_on(other.until_idle())));
        drop(block_on(Arc::clone(&peer).until_idle()));
        other.join().unwrap();
        leaving.join().unwrap();
        assert!(!peer.is_held() && !peer.is_busy());
    });
}

/// A transfer that was posted by a thread which had not seen the wait.
#[test]
fn loom_a_transfer_that_begins_beside_a_wait_is_waited_for_or_comes_after_it() {
    loom::model(|| {
        let peer = with(1);
        let other = Arc::clone(&peer);
        let other = thread::spawn(move || {
            if !other.is_held() {
                other.enter();
                other.leave();
            }
            other.leave();
        });
        drop(block_on(Arc::clone(&peer).until_idle()));
        other.join().unwrap();
        assert!(!peer.is_busy() && !peer.is_held());
    });
}
