//! Parking of a worker thread until there is work.

use std::sync::OnceLock;
use std::time::Duration;

use crate::Clock;
use crate::sync::atomic::{AtomicBool, Ordering};
use crate::sync::thread::Thread;
use crate::sync::unpark;

/// Sleep of an idle thread, so that adding work costs a wake-up only while it sleeps.
///
/// The flag of work is written and read sequentially consistently, and written before the thread is [woken](Self::wake): so
/// either the thread sees it before it sleeps, or the waker sees the thread asleep.
#[derive(Debug)]
pub struct Sleeper {
    thread: OnceLock<Thread>,
    asleep: AtomicBool,
}

impl Sleeper {
    /// Makes one before its thread is known.
    #[must_use]
    pub fn new() -> Self {
        Self { thread: OnceLock::new(), asleep: AtomicBool::new(false) }
    }

    /// Sets the thread that sleeps here; only the first one counts.
    pub fn set_thread(&self, thread: Thread) {
        let _ = self.thread.set(thread);
    }

    /// Wakes the thread if it sleeps, or is about to. Returns whether it did.
    pub fn wake(&self) -> bool {
        let rouses = self.is_asleep() && self.asleep.swap(false, Ordering::SeqCst);
        if rouses {
            self.unpark();
        }
        rouses
    }

    /// Called on the thread: sleeps until woken, for at most `time`, unless there `is_work`. May return early.
    pub fn sleep(
        &self,
        clock: &dyn Clock,
        is_work: impl FnOnce() -> bool,
        time: impl FnOnce() -> Option<Duration>,
    ) {
        self.asleep.store(true, Ordering::SeqCst);
        if !is_work() {
            clock.park(time());
        }
        self.asleep.store(false, Ordering::SeqCst);
    }

    pub(crate) fn is_asleep(&self) -> bool {
        self.asleep.load(Ordering::SeqCst)
    }

    pub(crate) fn unpark(&self) {
        if let Some(thread) = self.thread.get() {
            unpark(thread);
        }
    }
}

impl Default for Sleeper {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(all(test, loom))]
mod loom_model {
    use loom::sync::Arc;
    use loom::thread;

    use super::*;
    use crate::sync::ModelClock;

    /// Two threads give work to a third, each once.
    #[test]
    fn loom_no_work_is_slept_through() {
        loom::model(|| {
            let world =
                Arc::new((Sleeper::new(), [AtomicBool::new(false), AtomicBool::new(false)]));
            world.0.set_thread(thread::current());
            let givers = [0, 1].map(|at| {
                let world = Arc::clone(&world);
                thread::spawn(move || {
                    world.1[at].store(true, Ordering::SeqCst);
                    world.0.wake();
                })
            });
            let mut left = 2;
            loop {
                left -= world.1.iter().filter(|work| work.swap(false, Ordering::SeqCst)).count();
                if left == 0 {
                    break;
                }
                let is_work = || world.1.iter().any(|work| work.load(Ordering::SeqCst));
                world.0.sleep(&ModelClock, is_work, || None);
            }
            givers.into_iter().for_each(|giver| giver.join().unwrap());
        });
    }
}
