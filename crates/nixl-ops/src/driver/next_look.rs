//! The schedule of a driver's thread: the time of its next poll, by the facts of a turn.

use std::time::Duration;

use crate::Backoff;

/// The driver's next step.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[allow(clippy::exhaustive_enums, reason = "a caller of `Reactor::turn` must handle each")]
pub enum Next {
    /// Poll again at once.
    Spin,
    /// Poll again after this time, or when unparked.
    Sleep(Duration),
    /// Nothing to poll: park until unparked, or for at most this time.
    Park(Option<Duration>),
    /// The driver was dropped and everything has ended.
    Exit,
}

/// The facts of a turn of the driver. Times are those of the driver's clock.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct LookState {
    pub(super) backoff: Backoff,
    /// The time of the last end, progress or begin.
    pub(super) last_progress: Duration,
    /// Whether a transfer in flight needs polls: its engine does not wake, or has woken.
    pub(super) has_polled: bool,
    /// Whether a notification or message of a peer is awaited.
    pub(super) awaits_message: bool,
    /// The end of the time in which new transfers are left to their callers.
    pub(super) callers_first_until: Option<Duration>,
    /// While the waiters of all transfers that have to be polled spin: the earliest end of their spinning.
    pub(super) callers_spin_until: Option<Duration>,
    /// The end of the time in which another post is likely to be left to a waiter, for which the driver stays awake.
    pub(super) posts_expected_until: Option<Duration>,
    /// The time to wake the first waiter, shortly before its expected end.
    pub(super) wake_waiter_at: Option<Duration>,
    /// The start of close polling for transfers without a spinning waiter.
    pub(super) poll_closely_from: Option<Duration>,
    /// The next due time that allows parking until then: a late poll of a transfer whose engine wakes, or of an overdue one,
    /// the end of an offer, unexpected messages.
    pub(super) due: Option<Duration>,
    /// The time since which only memory that peers may be reading is left, after the drop of the driver.
    pub(super) ending: Option<Ending>,
}

/// The last part of a driver's life.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Ending {
    pub(super) since: Duration,
    /// Peers may be reading memory.
    pub(super) retains: bool,
    /// The bound on that wait.
    pub(super) drain: Duration,
}

/// The interval of polls for readers' completions after the drop of the driver.
const CLOSING: Duration = Duration::from_millis(10);

/// The driver sleeps instead of parking for this time after the last operation, since another usually follows and then need not
/// wake it. An operation without a waiter is posted, but polled to its end only then.
const SLEEP_BEFORE_PARK: Duration = Duration::from_millis(1);

/// The time of the driver's next poll.
pub(super) fn next_look(state: &LookState, now: Duration) -> Next {
    if let Some(ending) = &state.ending {
        return ending.next(now);
    }
    let next = match state.has_polled || state.awaits_message {
        true => state.polling(now),
        false => state.resting(now),
    };
    let until = |at: Duration| at.saturating_sub(now);
    let first = state.wake_waiter_at.into_iter().chain(state.poll_closely_from).min();
    match (next, first.map(until)) {
        (Next::Sleep(_) | Next::Park(_), Some(Duration::ZERO)) => Next::Spin,
        (Next::Sleep(sleep), Some(first)) => Next::Sleep(sleep.min(first)),
        (Next::Park(bound), Some(first)) => {
            Next::Park(Some(bound.map_or(first, |bound| bound.min(first))))
        }
        (next, _) => next,
    }
}

impl LookState {
    /// With transfers to poll: closely at first, then at growing intervals, and not while their callers poll.
    fn polling(&self, now: Duration) -> Next {
        let callers_until = self.callers_first_until.or(self.callers_spin_until);
        let callers = callers_until.map(|until| until.saturating_sub(now));
        match (self.backoff.sleep_after(self.idle(now)), callers) {
            (None, Some(callers)) if !self.awaits_message => Next::Sleep(callers),
            (None, _) => Next::Spin,
            (Some(sleep), callers) => Next::Sleep(callers.map_or(sleep, |c| c.min(sleep))),
        }
    }

    /// Without transfers to poll.
    fn resting(&self, now: Duration) -> Next {
        match SLEEP_BEFORE_PARK.checked_sub(self.idle(now)) {
            // One sleep, not ticks: an operation's waiter polls it, and wakes the driver only if that does not complete it.
            Some(rest) if !rest.is_zero() => Next::Sleep(rest),
            _ if self.posts_expected_until.is_some_and(|until| now < until) => {
                Next::Sleep(SLEEP_BEFORE_PARK)
            }
            _ => Next::Park(self.due.map(|due| due.saturating_sub(now))),
        }
    }

    fn idle(&self, now: Duration) -> Duration {
        now.saturating_sub(self.last_progress)
    }
}

impl Ending {
    /// Memory that peers may be reading beyond the drain time is leaked.
    fn next(&self, now: Duration) -> Next {
        match self.retains && now.saturating_sub(self.since) < self.drain {
            true => Next::Sleep(CLOSING),
            false => Next::Exit,
        }
    }
}

#[cfg(all(test, not(loom)))]
mod tests;
