//! The thread that posts an execution, and how long its waiter looks.

use std::sync::atomic::Ordering;
use std::time::Duration;

use super::Shared;
use crate::Execution;
use crate::posts::PostedBy;

impl Shared {
    const SPIN_ALONE: Duration = Duration::from_micros(200);

    /// The longest copy in a post that the thread which begins it makes.
    const LONGEST_POST: Duration = Duration::from_micros(50);

    /// Which thread posts an execution.
    pub(crate) fn posted_by(&self, bytes: u64, execution: &dyn Execution) -> PostedBy {
        if execution.posts_quickly() {
            return PostedBy::Caller;
        }
        if bytes > self.config.inline_bytes {
            return PostedBy::Driver;
        }
        if !execution.takes_turns() {
            return PostedBy::Caller;
        }
        if self.posts.end_at_once() {
            // A thread that begins several need not copy them all before it goes on.
            return match self.typical.of(bytes) <= Self::LONGEST_POST {
                true => PostedBy::Caller,
                false => PostedBy::Waiter,
            };
        }
        // With many tasks the driver is awake, and alone at the engine it does more.
        let is_busy = self.awake.load(Ordering::Relaxed) && self.active.load(Ordering::Relaxed) > 0;
        if is_busy { PostedBy::Driver } else { PostedBy::Caller }
    }

    /// How long the waiter of an operation looks at first. One alone in flight is looked at for longer: most end within that,
    /// and a look that sees the end costs nothing of the thread's budget.
    pub(crate) fn spin_time(&self, bytes: u64) -> Duration {
        let alone = self.active.load(Ordering::Relaxed) <= 1 && !self.config.inline_spin.is_zero();
        match alone {
            // Twice what such ones take: a look that sees no end costs the next ones theirs.
            true => self.config.inline_spin.max(Self::SPIN_ALONE.min(self.typical.of(bytes) * 2)),
            false => self.config.inline_spin,
        }
    }
}
