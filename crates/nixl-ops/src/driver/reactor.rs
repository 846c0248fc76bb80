//! The loop body of a driver, free of threads and of real time.

use std::collections::VecDeque;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use super::Shared;
use super::next_look::{LookState, Next, next_look};
use crate::overdue::OverdueList;
use crate::parking::DoorbellListener;
use crate::task::TaskSlot;
use crate::unexpected::IdleLooks;

/// The driver's loop body, free of threads and of real time.
pub struct Reactor {
    pub(super) shared: Arc<Shared>,
    /// In polling order: the longest waiting first.
    pub(super) active: VecDeque<Arc<TaskSlot>>,
    pub(super) overdue: OverdueList,
    pub(super) last_progress: Duration,
    /// New operations are not polled by the driver before this time, since their callers usually spin on them: two threads in
    /// one engine slow each other down.
    callers_first_until: Option<Duration>,
    /// While the waiters of all transfers that have to be polled spin: the earliest end of their spinning.
    pub(super) callers_spin_until: Option<Duration>,
    pub(super) listener: DoorbellListener,
    pub(super) idle_looks: IdleLooks,
    /// The time of the last receipt of messages.
    pub(super) taken: Duration,
    pub(super) notifications_failed: bool,
    /// The last receipt of messages left out those of the engine.
    pub(super) is_engine_deferred: bool,
    /// The time since which only memory that peers may be reading is left.
    pub(super) closed: Option<Duration>,
    /// Turns in a row that have panicked.
    pub(super) panics: u32,
}

impl Reactor {
    pub(super) fn new(shared: Arc<Shared>) -> Self {
        let last_progress = shared.clock.now();
        Self {
            shared,
            active: VecDeque::new(),
            overdue: OverdueList::default(),
            last_progress,
            callers_first_until: None,
            callers_spin_until: None,
            listener: DoorbellListener::new(),
            idle_looks: IdleLooks::new(),
            taken: last_progress,
            notifications_failed: false,
            is_engine_deferred: false,
            closed: None,
            panics: 0,
        }
    }

    /// Polls everything outstanding once.
    pub fn turn(&mut self) -> Next {
        let started = self.shared.clock.now();
        self.listener.listen(&self.shared.parking);
        let idle = self.active.is_empty();
        // A peer's completion, whose waiter is woken before anything else is polled.
        let rung = self.listener.rang().then(|| self.take_page());
        let new_waiter = self.shared.new_waiter.swap(false, Ordering::SeqCst);
        let mut progress = self.shared.admit(&mut self.active) | new_waiter;
        if self.shared.closing.load(Ordering::SeqCst) {
            self.dismiss_served();
        }
        if new_waiter {
            self.callers_first_until = None;
        } else if idle && progress && !self.waiters_look(started) {
            self.callers_first_until = Some(started.saturating_add(self.shared.config.inline_spin));
        }
        if self.callers_first_until.is_none_or(|until| started >= until) {
            progress |= self.callers_first_until.take().is_some();
            progress |= self.poll_transfers(started);
        } else {
            self.callers_spin_until = None;
        }
        progress |= self.take_messages(rung);
        self.idle_looks.missed(self.shared.unexpected.unreadable());
        let now = self.shared.clock.now();
        let shared = &self.shared;
        shared.departures.look(now);
        self.overdue.poll(now, |slot| shared.poll(slot));
        if self.shared.passive.expire(now)
            && let Some(owner) = self.shared.owner.get()
        {
            owner.query(&self.shared.passive);
        }
        if progress {
            self.last_progress = now;
        }
        if self.is_over() {
            self.dismiss_overdue();
            self.closed.get_or_insert(now);
        }
        next_look(&self.look_state(now), now)
    }

    /// Whether the waiters of all transfers spin, or will.
    fn waiters_look(&self, now: Duration) -> bool {
        self.active.iter().all(|slot| slot.caller_spins_until(now).is_some())
    }

    /// The facts for the time of the next poll. Wakes waiters near their expected end.
    fn look_state(&self, now: Duration) -> LookState {
        let shared = &self.shared;
        let mut state = LookState {
            backoff: shared.config.backoff,
            last_progress: self.last_progress,
            has_polled: false,
            awaits_message: shared.awaits_message(),
            callers_first_until: self.callers_first_until,
            callers_spin_until: self.callers_spin_until,
            posts_expected_until: shared.posts_expected_until(),
            wake_waiter_at: None,
            poll_closely_from: None,
            due: [
                self.overdue.due(),
                shared.passive.next_expiry(),
                shared.departures.due(),
                self.messages_due(),
            ]
            .into_iter()
            .flatten()
            .min(),
            ending: self.ending(),
        };
        for slot in &self.active {
            earliest(&mut state.wake_waiter_at, slot.wake_early(now));
            earliest(&mut state.poll_closely_from, slot.poll_closely_from(now));
            match slot.look_by() {
                Some(by) => earliest(&mut state.due, Some(by)),
                None => state.has_polled = true,
            }
        }
        state
    }
}

fn earliest(first: &mut Option<Duration>, other: Option<Duration>) {
    *first = first.iter().copied().chain(other).min();
}

impl fmt::Debug for Reactor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reactor").field("active", &self.active.len()).finish_non_exhaustive()
    }
}
