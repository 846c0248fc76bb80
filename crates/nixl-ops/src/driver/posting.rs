//! The choice of the posting thread, and the spin time of the waiter.

use std::sync::atomic::Ordering;
use std::time::Duration;

use super::Shared;
use crate::Execution;
use crate::posts::PostedBy;
use crate::task::TaskSlot;

impl Shared {
    const SPIN_ALONE: Duration = Duration::from_micros(200);

    /// The longest copy in a post on the beginning thread.
    const LONGEST_POST: Duration = Duration::from_micros(50);

    /// The time for which the driver leaves a post to the waiter, which usually arrives at once.
    const WAITER_COMES: Duration = Duration::from_millis(1);

    /// The usual time until another such post. Until then the driver does not park: waking it for each costs the caller more
    /// than a poll per millisecond costs the driver.
    const ANOTHER_FOLLOWS: Duration = Duration::from_millis(20);

    /// The thread that posts an execution.
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
            // A thread that begins several operations need not copy them all before it continues.
            return match self.typical.of(bytes) <= Self::LONGEST_POST {
                true => PostedBy::Caller,
                false => PostedBy::Waiter,
            };
        }
        // With many tasks the driver is awake, and faster alone in the engine.
        let is_busy = self.awake.load(Ordering::Relaxed) && self.active.load(Ordering::Relaxed) > 0;
        if is_busy { PostedBy::Driver } else { PostedBy::Caller }
    }

    /// Leaves the post of a transfer to its waiter.
    pub(super) fn leave_to_waiter(&self, slot: &TaskSlot, now: Duration) {
        slot.watch(now.saturating_add(Self::WAITER_COMES));
        self.left_to_waiter.set(Some(now));
    }

    /// The end of the time in which another transfer is likely to be left to its waiter.
    pub(super) fn posts_expected_until(&self) -> Option<Duration> {
        self.left_to_waiter.get().map(|at| at.saturating_add(Self::ANOTHER_FOLLOWS))
    }

    /// The first spin of an operation's waiter. One alone in flight spins longer: most end within that, and a spin that sees
    /// the end costs none of the thread's budget.
    pub(crate) fn spin_time(&self, bytes: u64) -> Duration {
        let alone = self.active.load(Ordering::Relaxed) <= 1 && !self.config.inline_spin.is_zero();
        match alone {
            // Twice their typical time: a spin that sees no end takes budget from later ones.
            true => self.config.inline_spin.max(Self::SPIN_ALONE.min(self.typical.of(bytes) * 2)),
            false => self.config.inline_spin,
        }
    }
}
