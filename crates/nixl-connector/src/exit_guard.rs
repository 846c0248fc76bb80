//! The gate that threads pass on their way into NIXL: closed for good by an exit, and for a time by a fork.

#[cfg(all(test, loom))]
mod loom_model;

#[cfg(not(all(test, loom)))]
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

#[cfg(all(test, loom))]
use loom_model::{AtomicUsize, a_moment};

/// Waits for the condition or the deadline. Uses no channel or lock: their thread-local state may be destroyed.
pub(crate) fn wait_until(until: Instant, is_so: impl Fn() -> bool) -> bool {
    while !is_so() {
        if Instant::now() >= until {
            return false;
        }
        a_moment();
    }
    true
}

#[cfg(not(all(test, loom)))]
fn a_moment() {
    std::thread::sleep(Duration::from_micros(100));
}

/// Counts the threads inside.
pub(crate) struct ExitGuard {
    /// In steps of two; odd once closed.
    inside: AtomicUsize,
    /// Forks under way.
    pauses: AtomicUsize,
}

const CLOSED: usize = 1;
const ONE: usize = 2;

impl ExitGuard {
    #[cfg(not(all(test, loom)))]
    pub(crate) const fn new() -> Self {
        Self { inside: AtomicUsize::new(0), pauses: AtomicUsize::new(0) }
    }

    /// Waits while it is paused.
    pub(crate) fn enter(&self) -> Option<Busy<'_>> {
        loop {
            let busy = Busy(self);
            if self.inside.fetch_add(ONE, Ordering::SeqCst) & CLOSED != 0 {
                return None;
            }
            if self.pauses.load(Ordering::SeqCst) == 0 {
                return Some(busy);
            }
            drop(busy);
            a_moment();
        }
    }

    pub(crate) fn is_closed(&self) -> bool {
        self.inside.load(Ordering::SeqCst) & CLOSED != 0
    }

    /// Closes the gate for good. Returns whether all threads were out in time.
    pub(crate) fn close(&self, until: Instant) -> bool {
        self.inside.fetch_or(CLOSED, Ordering::SeqCst);
        wait_until(until, || self.inside.load(Ordering::SeqCst) == CLOSED)
    }

    /// Makes entering threads wait for [`resume`](Self::resume). Returns whether the others were out in time.
    pub(crate) fn pause(&self, until: Instant) -> bool {
        self.pauses.fetch_add(1, Ordering::SeqCst);
        wait_until(until, || self.inside.load(Ordering::SeqCst) & !CLOSED == 0)
    }

    pub(crate) fn resume(&self) {
        self.pauses.fetch_sub(1, Ordering::SeqCst);
    }
}

/// A thread inside, while it is held.
pub(crate) struct Busy<'a>(&'a ExitGuard);

impl Drop for Busy<'_> {
    fn drop(&mut self) {
        self.0.inside.fetch_sub(ONE, Ordering::SeqCst);
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use std::sync::atomic::AtomicBool;
    use std::thread;

    use super::*;

    #[test]
    fn no_thread_gets_in_once_closed() {
        let guard = ExitGuard::new();
        drop(guard.enter().unwrap());
        assert!(!guard.is_closed() && guard.close(Instant::now()));
        assert!(guard.enter().is_none() && guard.is_closed());
        assert!(guard.close(Instant::now()), "one that was refused counts no more");
    }

    #[test]
    fn closing_waits_for_those_inside_but_not_for_ever() {
        let guard = ExitGuard::new();
        let (first, second) = (guard.enter(), guard.enter());
        assert!(!guard.close(Instant::now() + Duration::from_millis(1)));
        drop(first);
        assert!(!guard.close(Instant::now()));
        thread::scope(|scope| {
            scope.spawn(|| drop(second));
            assert!(guard.close(Instant::now() + Duration::from_secs(60)));
        });
    }

    #[test]
    fn a_pause_waits_for_those_inside_and_holds_up_others() {
        let guard = ExitGuard::new();
        let inside = guard.enter().unwrap();
        assert!(!guard.pause(Instant::now()));
        drop(inside);
        // Forks of two threads may overlap.
        assert!(guard.pause(Instant::now()));
        guard.resume();
        let entered = AtomicBool::new(false);
        thread::scope(|scope| {
            let other = scope.spawn(|| {
                let busy = guard.enter();
                entered.store(true, Ordering::SeqCst);
                busy.is_some()
            });
            assert!(!entered.load(Ordering::SeqCst));
            guard.resume();
            assert!(other.join().unwrap());
        });
        assert!(guard.pause(Instant::now()) && !guard.is_closed());
        assert!(guard.close(Instant::now()) && guard.enter().is_none(), "an exit is not paused");
    }
}
