//! No thread is inside NIXL while the process exits.
//!
//! `exit`, and with it returning from `main`, runs the destructors of NIXL's and UCX's libraries while other
//! threads go on: one that is inside NIXL then, perhaps destroying an agent that was just dropped, crashes. So a
//! handler that runs before those destructors waits for whoever is inside and lets nobody in again.
#![allow(unsafe_code, reason = "the C library must be told of the handler")]

use std::ffi::c_int;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use super::library::NixlUnavailable;

/// The longest that an exit is held up. Longer calls are those that wait for a peer, which may be dead.
const PATIENCE: Duration = Duration::from_secs(3);

static GUARD: Guard = Guard::new();

/// A thread is inside NIXL as long as it holds this; none once the process exits.
pub(super) fn enter() -> Option<Busy<'static>> {
    GUARD.enter()
}

/// To be called when an agent has started: handlers run in reverse order, and what the first agent has set up by then
/// must be torn down after ours.
pub(super) fn arm() -> Result<(), NixlUnavailable> {
    // SAFETY: this is the C library's function, with its signature.
    unsafe extern "C" {
        safe fn atexit(handler: extern "C" fn()) -> c_int;
    }
    static ARMED: OnceLock<bool> = OnceLock::new();
    if *ARMED.get_or_init(|| atexit(before_exit) == 0) {
        return Ok(());
    }
    let reason = "the C library has no memory for it".to_owned();
    Err(NixlUnavailable::Start { what: "exit handler", reason })
}

extern "C" fn before_exit() {
    GUARD.close(PATIENCE);
}

/// Counts who is inside, in steps of two; odd once closed.
struct Guard(AtomicUsize);

const CLOSED: usize = 1;
const ONE: usize = 2;

impl Guard {
    const fn new() -> Self {
        Self(AtomicUsize::new(0))
    }

    fn enter(&self) -> Option<Busy<'_>> {
        let busy = Busy(self);
        (self.0.fetch_add(ONE, Ordering::SeqCst) & CLOSED == 0).then_some(busy)
    }

    /// Lets nobody in any more. Returns whether everybody was out in time.
    fn close(&self, patience: Duration) -> bool {
        let until = Instant::now() + patience;
        self.0.fetch_or(CLOSED, Ordering::SeqCst);
        while self.0.load(Ordering::SeqCst) != CLOSED {
            if Instant::now() >= until {
                return false;
            }
            thread::sleep(Duration::from_micros(100));
        }
        true
    }
}

/// See [`enter`].
pub(super) struct Busy<'a>(&'a Guard);

impl Drop for Busy<'_> {
    fn drop(&mut self) {
        self.0.0.fetch_sub(ONE, Ordering::SeqCst);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nobody_gets_in_once_closed() {
        let guard = Guard::new();
        drop(guard.enter().unwrap());
        assert!(guard.close(Duration::ZERO));
        assert!(guard.enter().is_none());
        assert!(guard.close(Duration::ZERO), "who was refused counts no more");
    }

    #[test]
    fn closing_waits_for_those_inside_but_not_for_ever() {
        let guard = Guard::new();
        let (first, second) = (guard.enter(), guard.enter());
        assert!(!guard.close(Duration::from_millis(1)));
        drop(first);
        assert!(!guard.close(Duration::ZERO));
        thread::scope(|scope| {
            scope.spawn(|| drop(second));
            assert!(guard.close(Duration::from_secs(60)));
        });
    }
}
