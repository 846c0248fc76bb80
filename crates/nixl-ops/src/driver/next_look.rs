//! The schedule of a driver's thread: when it looks again, by what it has found.

use std::time::Duration;

use crate::Backoff;

/// What a driver does next.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[allow(clippy::exhaustive_enums, reason = "a caller of `Reactor::turn` must handle each")]
pub enum Next {
    /// Look again at once.
    Spin,
    /// Look again after this time, or when unparked.
    Sleep(Duration),
    /// Nothing is to be polled: wait to be unparked, for this long at most if there is a bound.
    Park(Option<Duration>),
    /// The driver was dropped and everything has ended.
    Exit,
}

/// What a turn of the driver has found. Times are those of the driver's clock.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct LookState {
    pub(super) backoff: Backoff,
    /// When something last ended, came further or began.
    pub(super) last_progress: Duration,
    /// A transfer is in flight that has to be polled: its engine does not wake, or has woken.
    pub(super) has_polled: bool,
    /// A notification or message of a peer is awaited.
    pub(super) awaits_message: bool,
    /// Until when the transfers that have just begun are left to their callers.
    pub(super) callers_first_until: Option<Duration>,
    /// While the waiters of all transfers that have to be polled spin: the earliest end of their spinning.
    pub(super) callers_spin_until: Option<Duration>,
    /// Until when another transfer is likely to be left to its waiter to post, for which the driver stays awake.
    pub(super) posts_expected_until: Option<Duration>,
    /// When the first waiter is to be woken, shortly before the end that is expected.
    pub(super) wake_waiter_at: Option<Duration>,
    /// From when on the end of a transfer without a spinning waiter is to be seen at once.
    pub(super) poll_closely_from: Option<Duration>,
    /// When something is due that does not keep the driver from parking: a late look at a transfer whose engine wakes, or at one that
    /// is overdue, the end of an offer, messages that are not awaited.
    pub(super) due: Option<Duration>,
    /// Since when nothing is left but memory that peers may be reading, once the driver was dropped.
    pub(super) ending: Option<Ending>,
}

/// The last part of a driver's life.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Ending {
    pub(super) since: Duration,
    /// Peers may be reading memory.
    pub(super) retains: bool,
    /// How long that is waited for.
    pub(super) drain: Duration,
}

/// How often readers' words are looked for once the driver was dropped.
const CLOSING: Duration = Duration::from_millis(10);

/// The driver sleeps rather than parks this long after the last operation ended, since another usually follows, and need then
/// not wake it. An operation that is not awaited is posted, but polled to its end only then.
const SLEEP_BEFORE_PARK: Duration = Duration::from_millis(1);

/// When a driver looks again.
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
    /// While something has to be polled: closely at first, then ever more seldom, and not while its callers do.
    fn polling(&self, now: Duration) -> Next {
        let callers_until = self.callers_first_until.or(self.callers_spin_until);
        let callers = callers_until.map(|until| until.saturating_sub(now));
        match (self.backoff.sleep_after(self.idle(now)), callers) {
            (None, Some(callers)) if !self.awaits_message => Next::Sleep(callers),
            (None, _) => Next::Spin,
            (Some(sleep), callers) => Next::Sleep(callers.map_or(sleep, |c| c.min(sleep))),
        }
    }

    /// While nothing has to be polled.
    fn resting(&self, now: Duration) -> Next {
        match SLEEP_BEFORE_PARK.checked_sub(self.idle(now)) {
            // One sleep, not ticks: the waiter of an operation polls it, and wakes the driver only if that
            // does not help.
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
