//! Posts of transfers: their thread, and whether an engine moves the bytes in them.

use std::sync::atomic::{AtomicU32, Ordering};

/// The thread that posts an execution.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum PostedBy {
    /// The beginning thread, at once.
    Caller,
    /// The first waiter's thread, or else the driver's.
    Waiter,
    /// The driver's.
    Driver,
}

/// The results of the latest posts to an engine.
///
/// Some engines, like UCX's CMA, copy in the post: transfers end there, and a post takes as long as a copy. Others move the
/// bytes later, and a post takes microseconds.
#[derive(Debug, Default)]
pub(crate) struct PostHistory(AtomicU32);

impl PostHistory {
    const MOST: u32 = 16;

    /// Records whether a transfer ended in its post. A post that an engine deferred because another thread was inside counts as
    /// not ended.
    pub(crate) fn note(&self, has_ended: bool) {
        let before = self.0.load(Ordering::Relaxed);
        let after = if has_ended { (before + 1).min(Self::MOST) } else { before.saturating_sub(1) };
        // Of two concurrent records one is lost, which changes little.
        if after != before {
            self.0.store(after, Ordering::Relaxed);
        }
    }

    /// Whether most transfers end in their post.
    pub(crate) fn end_at_once(&self) -> bool {
        self.0.load(Ordering::Relaxed) > Self::MOST / 2
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn some_posts_of_another_kind_change_nothing() {
        let history = PostHistory::default();
        assert!(!history.end_at_once());
        (0..100).for_each(|_| history.note(true));
        for at in 0..100 {
            history.note(at % 3 != 0);
            assert!(history.end_at_once());
        }
        (0..100).for_each(|_| history.note(false));
        for at in 0..100 {
            history.note(at % 3 == 0);
            assert!(!history.end_at_once());
        }
    }
}
