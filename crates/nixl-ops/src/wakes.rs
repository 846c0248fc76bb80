//! Batches of wake-ups, made by a thread that ends many operations.
//!
//! A sleeping thread of a runtime wakes once for all operations that a turn of the driver ended, not once for each: with many
//! tasks, thread switches cost more than the reads.

use std::cell::RefCell;
use std::task::Waker;

use crate::contained::contained;

thread_local! {
    /// `Some` while this thread collects wakers.
    static BATCH: RefCell<Option<Vec<Waker>>> = const { RefCell::new(None) };
}

/// A waker is code of an async executor, called on the thread that ends the operation.
pub(crate) fn wake(waker: Waker) {
    let waker = BATCH.with_borrow_mut(|batch| match batch {
        Some(batch) => {
            batch.push(waker);
            None
        }
        None => Some(waker),
    });
    waker.into_iter().for_each(call);
}

fn call(waker: Waker) {
    // Logged; the task of this waker is its executor's concern.
    let _ = contained("a waker", || waker.wake());
}

/// Collects the wakers of this thread until the drop or a [flush](Self::flush).
pub(crate) struct WakeBatch(());

impl WakeBatch {
    pub(crate) fn begin() -> Self {
        BATCH.set(Some(Vec::new()));
        Self(())
    }

    /// Wakes those collected so far, in the order in which their operations ended.
    #[expect(clippy::unused_self, reason = "only while there is a batch")]
    pub(crate) fn flush(&self) {
        // The batch is not borrowed while foreign code runs.
        let wakers = BATCH.replace(Some(Vec::new()));
        wakers.into_iter().flatten().for_each(call);
    }
}

impl Drop for WakeBatch {
    fn drop(&mut self) {
        let wakers = BATCH.take();
        wakers.into_iter().flatten().for_each(call);
    }
}
