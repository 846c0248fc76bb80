//! The count of tasks in flight.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};

use metrics::{Gauge, gauge};

use crate::overdue::CountedOverdue;
use crate::telemetry::{GaugeShare, PerRecorder};

/// The counter of a task, until the drop.
#[expect(dead_code, reason = "only their drop matters")]
pub(crate) enum Count {
    InFlight(InFlight),
    /// Its drain time is over.
    Overdue(CountedOverdue),
}

/// The number in flight, also in the gauge `nixl_requests_in_flight`.
#[derive(Debug, Default)]
pub(crate) struct ActiveCount {
    count: AtomicUsize,
    gauge: PerRecorder<OnceLock<Gauge>>,
}

impl ActiveCount {
    pub(crate) fn load(&self, ordering: Ordering) -> usize {
        self.count.load(ordering)
    }

    fn gauge(&self) -> Gauge {
        let look_up = || gauge!("nixl_requests_in_flight");
        self.gauge.with(|gauge| gauge.get_or_init(look_up).clone())
    }
}

/// A counted task in flight, until the drop.
pub(crate) struct InFlight {
    active: Arc<ActiveCount>,
    _gauge: GaugeShare,
}

impl InFlight {
    /// Counts one more, without a limit.
    pub(crate) fn beyond_limit(active: &Arc<ActiveCount>) -> Self {
        let gauge = GaugeShare::of(active.gauge(), 1);
        active.count.fetch_add(1, Ordering::AcqRel);
        Self { active: Arc::clone(active), _gauge: gauge }
    }

    /// Counts one more, unless there are `limit`.
    pub(crate) fn count(active: &Arc<ActiveCount>, limit: usize) -> Option<Self> {
        let gauge = GaugeShare::of(active.gauge(), 1);
        let before = active.count.fetch_add(1, Ordering::AcqRel);
        let counted = Self { active: Arc::clone(active), _gauge: gauge };
        // The drop at the return undoes the excess count.
        (before < limit).then_some(counted)
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        self.active.count.fetch_sub(1, Ordering::AcqRel);
    }
}
