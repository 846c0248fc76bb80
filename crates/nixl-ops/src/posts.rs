//! Posts of transfers: the thread that makes them, and whether an engine moves the bytes in them.

use std::sync::atomic::{AtomicU32, Ordering};

/// Which thread posts an execution.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum PostedBy {
    /// The thread that begins it, at once.
    Caller,
    /// The thread that waits for it first, or else the driver's.
    Waiter,
    /// The driver's.
    Driver,
}

/// How the latest posts to an engine ended.
///
/// Some engines copy in the post, as UCX's CMA does: then transfers end where they are posted, and a post takes as long as a copy.
/// Others move the bytes later, and a post takes microseconds.
#[derive(Debug, Default)]
pub(crate) struct PostHistory(AtomicU32);

impl PostHistory {
    const MOST: u32 = 16;

    /// The transfer that was posted has ended there, or not. What an engine did not take because another thread was inside
    /// counts as the latter.
    pub(crate) fn note(&self, has_ended: bool) {
        let before = self.0.load(Ordering::Relaxed);
        let after = if has_ended { (before + 1).min(Self::MOST) } else { before.saturating_sub(1) };
        // Of two at once one is lost, which changes little.
        if after != before {
            self.0.store(after, Ordering::Relaxed);
        }
    }

    /// Whether most transfers end where they are posted.
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
