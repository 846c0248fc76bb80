//! One turn's polls of the transfers in flight.

use std::time::Duration;

use super::reactor::Reactor;
use crate::contained::contained;
use crate::task::SlotState;
use crate::wakes::WakeBatch;

impl Reactor {
    /// A turn polls transfers for at most this time, then checks notifications and deadlines.
    const TURN: Duration = Duration::from_millis(1);
    /// Waiters of ended operations wake together, after at most this delay.
    const BATCH: Duration = Duration::from_micros(100);

    /// Polls those that need it. Returns whether any has ended or progressed.
    pub(super) fn poll_transfers(&mut self, started: Duration) -> bool {
        let mut progress = false;
        let (mut spinning_until, mut all_spin) = (None, true);
        let (wakes, mut flushed) = (WakeBatch::begin(), started);
        // Each moves to the end of the queue: the ones that a turn does not reach come first in the next.
        for _ in 0..self.active.len() {
            let Some(slot) = self.active.pop_front() else { break };
            if let Some(until) = slot.caller_spins_until(started) {
                spinning_until =
                    Some(spinning_until.map_or(until, |first: Duration| first.min(until)));
                self.active.push_back(slot);
                continue;
            }
            // Its engine wakes: it is polled after that, or late.
            if slot.look_by().is_some_and(|by| started < by) {
                self.active.push_back(slot);
                continue;
            }
            let state = self.shared.poll(&slot);
            all_spin &= matches!(state, SlotState::Ended | SlotState::Gone);
            progress |= matches!(state, SlotState::Ended | SlotState::Stepped);
            match state {
                // This may be the last handle, whose drop drops a waker.
                SlotState::Ended | SlotState::Gone => {
                    let _ = contained("a waker", || drop(slot));
                }
                SlotState::Overdue => self.overdue.add(slot, self.shared.clock.now()),
                SlotState::Busy | SlotState::Pending | SlotState::Stepped => {
                    self.active.push_back(slot);
                }
            }
            let now = self.shared.clock.now();
            if now.saturating_sub(started) > Self::TURN {
                break;
            }
            if now.saturating_sub(flushed) > Self::BATCH {
                wakes.flush();
                flushed = now;
            }
        }
        self.callers_spin_until = spinning_until.filter(|_| all_spin);
        progress
    }
}
