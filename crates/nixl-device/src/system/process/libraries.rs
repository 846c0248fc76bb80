//! Work in libraries that are loaded at run time: the C library's loader, CUDA's driver, NIXL.
//!
//! Their loading, initialisation and teardown take locks of the loader and of one another, which stay locked in the child of a fork in the
//! middle of it. The next such call of the child would wait for ever. So all crates record this work in one place, and a child inherits the
//! record. What other code had loaded at the fork is in no record; a child therefore tries the loader's lock before it needs it.
#![allow(
    unsafe_code,
    reason = "a walk over the loaded libraries, which takes the lock of their list"
)]

#[cfg(all(test, loom))]
mod loom_model;

use std::ffi::{c_int, c_void};
#[cfg(not(all(test, loom)))]
use std::sync::atomic::AtomicU64;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::channel;
use std::time::Duration;

#[cfg(all(test, loom))]
use super::forks::loom_model::AtomicU64;
use super::forks::{ForkGeneration, PerProcess};
use crate::named_thread;

static LIBRARIES: UnderWay = UnderWay::new();

/// Begins work in libraries: loading, initialising or tearing down. `None` if a thread was at such work when this process was
/// forked, here or in an ancestor, or held the lock of the loader: for good. **Blocks** in the child of a fork for the first time:
/// for a moment, and for some seconds where that lock is held.
pub fn enter_libraries() -> Option<AtWork> {
    static IS_FREE: PerProcess<AtomicBool> = PerProcess::new(AtomicBool::default);
    let at_work = LIBRARIES.begin()?;
    if at_work.generation.is_forked() && !IS_FREE.get().load(Ordering::Relaxed) {
        if !is_loader_free() {
            return None;
        }
        IS_FREE.get().store(true, Ordering::Relaxed);
    }
    Some(at_work)
}

/// Whether a thread of this process is at work in libraries.
#[must_use]
pub fn is_in_libraries() -> bool {
    LIBRARIES.process_at_work().is_some_and(ForkGeneration::is_current)
}

/// Whether a thread was at work in libraries when this process was forked, here or in an ancestor: they are half loaded or half torn down.
#[must_use]
pub fn was_forked_amid_libraries() -> bool {
    LIBRARIES.process_at_work().is_some_and(|of| !of.is_current())
}

/// Whether no thread of the parent held the lock of the list of loaded libraries: the one of the GNU C library's loader that a fork
/// does not reset.
fn is_loader_free() -> bool {
    /// A lock that a thread of this process holds is free sooner.
    const LONGEST: Duration = Duration::from_secs(5);
    extern "C" fn stop(_: *mut c_void, _: usize, _: *mut c_void) -> c_int {
        1
    }
    // SAFETY: it is the C library's function, with its signature.
    unsafe extern "C" {
        fn dl_iterate_phdr(
            callback: extern "C" fn(*mut c_void, usize, *mut c_void) -> c_int,
            data: *mut c_void,
        ) -> c_int;
    }
    let (done, walked) = channel();
    // It is left behind if the lock is held.
    let walk = move || {
        // SAFETY: the function takes what the loader passes, and uses none of it.
        unsafe { dl_iterate_phdr(stop, std::ptr::null_mut()) };
        let _ = done.send(());
    };
    let spawned = named_thread("nixl-forked").spawn(walk);
    // Without a thread it is not known.
    spawned.is_err() || walked.recv_timeout(LONGEST).is_ok()
}

/// The record of the threads at work. A child that is forked meanwhile inherits it, and does not begin such work.
#[derive(Debug, Default)]
struct UnderWay {
    /// The generation that the count is of, above [`THREADS`] bits of the number of threads at work.
    state: AtomicU64,
}

/// Bits of the number of threads.
const THREADS: u32 = 16;

/// A thread's part in work in libraries, until it is dropped.
#[derive(Debug)]
#[must_use]
pub struct AtWork {
    of: &'static UnderWay,
    generation: ForkGeneration,
}

impl UnderWay {
    /// No thread is at work.
    const fn new() -> Self {
        Self { state: AtomicU64::new(0) }
    }

    /// The process that threads of are at work, if any.
    fn process_at_work(&self) -> Option<ForkGeneration> {
        let state = self.state.load(Ordering::SeqCst);
        (state & ((1 << THREADS) - 1) > 0).then_some(ForkGeneration(state >> THREADS))
    }

    /// Begins the work. `None` if this process was forked while a thread was at work: for good, in this process and its children.
    fn begin(&'static self) -> Option<AtWork> {
        let generation = ForkGeneration::current();
        // Not made, and so not dropped, where it does not begin.
        self.enter(generation).then(|| AtWork { of: self, generation })
    }

    /// Counts a thread of a process. Returns whether it may begin.
    fn enter(&self, generation: ForkGeneration) -> bool {
        let first = generation.0 << THREADS | 1;
        let mut seen = self.state.load(Ordering::Relaxed);
        loop {
            let is_of_this = seen >> THREADS == generation.0;
            let next = match (is_of_this, seen & ((1 << THREADS) - 1)) {
                (true, _) => seen + 1,
                (false, 0) => first,
                (false, _) => return false,
            };
            match self.state.compare_exchange(seen, next, Ordering::SeqCst, Ordering::Relaxed) {
                Ok(_) => return true,
                Err(now) => seen = now,
            }
        }
    }

    fn leave(&self) {
        self.state.fetch_sub(1, Ordering::SeqCst);
    }
}

impl Drop for AtWork {
    fn drop(&mut self) {
        if self.generation.is_current() {
            self.of.leave();
        }
    }
}

#[cfg(all(test, not(loom)))]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::super::forks::tests::in_child;
    use super::*;

    #[test]
    fn work_that_a_thread_had_begun_at_a_fork_is_not_begun_in_the_child() {
        static WORK: UnderWay = UnderWay::new();
        let (one, other) = (WORK.begin(), WORK.begin());
        assert!(one.is_some() && other.is_some());
        drop(one);
        let mut inherited = other;
        assert!(in_child(|| {
            drop(inherited.take());
            let is_parents = WORK.process_at_work().is_some_and(|of| !of.is_current());
            is_parents && WORK.begin().is_none() && in_child(|| WORK.begin().is_none())
        }));
        assert_eq!(WORK.process_at_work(), Some(ForkGeneration::current()));
        assert!(WORK.begin().is_some());
        drop(inherited);
        assert!(in_child(|| {
            let begun = WORK.begin();
            begun.is_some() && in_child(|| WORK.begin().is_none())
        }));
    }
}
