//! Overdue executions: past their drain time, polled rarely until their end or the driver's.

use std::sync::Arc;
use std::time::Duration;

use crate::sync::{Mutex, lock};
use crate::task::{SlotState, TaskSlot};
use crate::telemetry::GaugeShare;

/// Executions whose engines were not quiet at the end of the drain time.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Overdue {
    operations: usize,
    pub(crate) bytes: u64,
}

impl Overdue {
    /// Their number.
    #[must_use]
    pub fn operations(&self) -> usize {
        self.operations
    }

    /// The bytes of their memory, which stays leased.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.bytes
    }
}

/// The counter of a driver, shared with the counted executions.
#[derive(Debug, Default)]
pub(crate) struct OverdueTotal(Mutex<Overdue>);

impl OverdueTotal {
    pub(crate) fn get(&self) -> Overdue {
        *lock(&self.0)
    }

    /// Counts one more, also in the gauges `nixl_overdue_operations` and `nixl_overdue_bytes`.
    pub(crate) fn count(self: &Arc<Self>, bytes: u64) -> CountedOverdue {
        let mut total = lock(&self.0);
        total.operations += 1;
        total.bytes = total.bytes.saturating_add(bytes);
        drop(total);
        let gauges = [
            GaugeShare::new("nixl_overdue_operations", 1),
            GaugeShare::new("nixl_overdue_bytes", bytes),
        ];
        CountedOverdue { total: Arc::clone(self), _gauges: gauges, bytes }
    }
}

/// A counted execution, until the drop.
pub(crate) struct CountedOverdue {
    total: Arc<OverdueTotal>,
    _gauges: [GaugeShare; 2],
    bytes: u64,
}

impl Drop for CountedOverdue {
    fn drop(&mut self) {
        let mut total = lock(&self.total.0);
        total.operations -= 1;
        total.bytes = total.bytes.saturating_sub(self.bytes);
    }
}

/// The overdue executions of one driver, each with the time of its next poll.
#[derive(Default)]
pub(crate) struct OverdueList(Vec<OverdueSlot>);

struct OverdueSlot {
    slot: Arc<TaskSlot>,
    at: Duration,
    pause: Duration,
}

impl OverdueList {
    const FIRST_PAUSE: Duration = Duration::from_secs(1);
    /// A peer that is reachable again becomes usable within 5 s.
    const LONGEST_PAUSE: Duration = Duration::from_secs(4);
    /// After a step: the engine progresses.
    const SHORT_PAUSE: Duration = Duration::from_millis(1);

    pub(crate) fn add(&mut self, slot: Arc<TaskSlot>, now: Duration) {
        let pause = Self::FIRST_PAUSE;
        self.0.push(OverdueSlot { slot, at: now.saturating_add(pause), pause });
    }

    /// Polls those that are due. A poll without progress doubles the pause before the next.
    pub(crate) fn poll(&mut self, now: Duration, poll: impl Fn(&Arc<TaskSlot>) -> SlotState) {
        self.0.retain_mut(|late| {
            if now < late.at && !late.slot.is_woken() {
                return true;
            }
            late.pause = match poll(&late.slot) {
                SlotState::Ended | SlotState::Gone => return false,
                SlotState::Stepped => Self::SHORT_PAUSE,
                _ => (2 * late.pause).min(Self::LONGEST_PAUSE),
            };
            late.at = now.saturating_add(late.pause);
            true
        });
    }

    /// The time of the next poll.
    pub(crate) fn due(&self) -> Option<Duration> {
        self.0.iter().map(|late| late.at).min()
    }

    /// All of them; none has a waiter any more.
    pub(crate) fn take(&mut self) -> impl Iterator<Item = Arc<TaskSlot>> {
        std::mem::take(&mut self.0).into_iter().map(|late| late.slot)
    }
}
