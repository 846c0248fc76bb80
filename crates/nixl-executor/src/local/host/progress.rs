//! Progress reports of a transfer to its caller.

use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use nixl_device::locks::lock;

/// Progress of a transfer.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Progress {
    pub(crate) done: u64,
    total: u64,
}

impl Progress {
    /// Bytes in the destination. Never decreases between calls.
    #[must_use]
    pub fn done(&self) -> u64 {
        self.done
    }

    /// Bytes of the whole transfer.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.total
    }
}

/// The callback of a caller.
#[derive(Clone)]
pub(crate) struct ProgressCallback(pub(crate) Arc<dyn Fn(Progress) + Send + Sync>);

impl fmt::Debug for ProgressCallback {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ProgressCallback")
    }
}

/// Counter of a transfer's bytes, which calls back, one call at a time.
pub(crate) struct Reporter {
    callback: ProgressCallback,
    total: u64,
    done: Mutex<u64>,
    /// The caller has ended: progress is no longer reported.
    closed: AtomicBool,
}

impl Reporter {
    pub(crate) fn new(callback: ProgressCallback, total: u64) -> Self {
        Self { callback, total, done: Mutex::new(0), closed: AtomicBool::new(false) }
    }

    /// Adds bytes in the destination.
    pub(crate) fn advance(&self, bytes: u64) {
        if bytes == 0 || self.closed.load(Ordering::SeqCst) {
            return;
        }
        // Held during the call: calls come in order.
        let mut done = lock(&self.done);
        *done = done.saturating_add(bytes).min(self.total);
        let progress = Progress { done: *done, total: self.total };
        if catch_unwind(AssertUnwindSafe(|| (self.callback.0)(progress))).is_err() {
            // The panic's message is printed already; it concerns the callback alone, which is not called again.
            self.close();
        }
    }

    /// No call begins from here on.
    pub(crate) fn close(&self) {
        self.closed.store(true, Ordering::SeqCst);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn recorded() -> (Arc<Mutex<Vec<u64>>>, ProgressCallback) {
        let seen = Arc::new(Mutex::new(Vec::new()));
        let theirs = Arc::clone(&seen);
        let callback = move |progress: Progress| theirs.lock().unwrap().push(progress.done);
        (seen, ProgressCallback(Arc::new(callback)))
    }

    proptest! {
        #[test]
        fn calls_come_in_order_from_any_thread_and_end_with_the_total(
            steps in proptest::collection::vec(1u64..1000, 1..40),
        ) {
            let (seen, callback) = recorded();
            let reporter = Reporter::new(callback, steps.iter().sum());
            std::thread::scope(|scope| {
                for part in steps.chunks(10) {
                    scope.spawn(|| part.iter().for_each(|bytes| reporter.advance(*bytes)));
                }
            });
            let seen = seen.lock().unwrap();
            prop_assert_eq!(seen.len(), steps.len());
            prop_assert!(seen.is_sorted());
            prop_assert_eq!(seen.last().copied(), Some(reporter.total));
        }
    }

    #[test]
    fn what_is_closed_is_silent() {
        let (seen, callback) = recorded();
        let reporter = Reporter::new(callback, 10);
        reporter.advance(1);
        reporter.close();
        reporter.advance(1);
        assert_eq!(*seen.lock().unwrap(), [1]);
    }

    #[test]
    fn a_panic_is_the_last_call() {
        let (seen, callback) = recorded();
        let calls = ProgressCallback(Arc::new(move |progress| {
            callback.0(progress);
            std::panic::resume_unwind(Box::new("the caller's"));
        }));
        let reporter = Reporter::new(calls, 10);
        reporter.advance(1);
        reporter.advance(1);
        assert_eq!(*seen.lock().unwrap(), [1]);
    }
}
