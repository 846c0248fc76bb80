//! The thread that posts an execution, and how long its waiter looks.

use std::sync::atomic::Ordering;
use std::time::Duration;

use super::Shared;
use crate::Execution;
use crate::posts::PostedBy;
use crate::task::TaskSlot;

impl Shared {
    const SPIN_ALONE: Duration = Duration::from_micros(200);

    /// The longest copy in a post that the thread which begins it makes.
    const LONGEST_POST: Duration = Duration::from_micros(50);

    /// How long the driver leaves a post to the waiter, who usually comes at once.
    const WAITER_COMES: Duration = Duration::from_millis(1);

    /// How long after such a post another one usually follows. Until then the driver does not park: to wake it for each costs the
    /// caller more than it costs the driver to look once a millisecond.
    const ANOTHER_FOLLOWS: Duration = Duration::from_millis(20);

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

    /// Leaves the post of a transfer to its waiter.
    pub(super) fn leave_to_waiter(&self, slot: &TaskSlot, now: Duration) {
        slot.watch(now.saturating_add(Self::WAITER_COMES));
        self.left_to_waiter.set(Some(now));
    }

    /// Until when another transfer is likely to be left to its waiter.
    pub(super) fn posts_expected_until(&self) -> Option<Duration> {
        self.left_to_waiter.get().map(|at| at.saturating_add(Self::ANOTHER_FOLLOWS))
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
