//! The slots of an executor: one pool for each direction, and one for each GPU.

use std::sync::Arc;

use super::StagingConfig;
use super::budget::{BudgetStats, SlotMemory, StagingBudget, process};
use super::gpu_slots::GpuSlots;
use super::pool::SlotPool;

/// The slots of both directions and on GPUs, for all connections of an executor.
#[derive(Clone, Debug)]
pub(crate) struct SlotPools {
    pub(crate) outgoing: Arc<SlotPool>,
    pub(crate) incoming: Arc<SlotPool>,
    pub(crate) on_gpus: Arc<GpuSlots>,
    pub(super) budget: Arc<StagingBudget>,
}

impl SlotPools {
    /// Within the budget of the process.
    pub(crate) fn new(config: StagingConfig) -> Self {
        Self::within(config, process())
    }

    pub(crate) fn within(config: StagingConfig, budget: &Arc<StagingBudget>) -> Self {
        let config = config.checked();
        let pinned = || {
            let (slots, bytes) = (config.slots, config.slot_bytes);
            SlotPool::new(SlotMemory::Pinned, slots, bytes, Arc::clone(budget))
        };
        let on_gpus = Arc::new(GpuSlots::new(config.gpu_slots, config.gpu_slot_bytes, budget));
        Self { outgoing: pinned(), incoming: pinned(), on_gpus, budget: Arc::clone(budget) }
    }

    /// Use of the budget, also by other executors.
    pub(crate) fn budget(&self) -> BudgetStats {
        self.budget.stats()
    }

    /// Whether the memory of pinned slots is allocated and was not used since the last call.
    pub(crate) fn are_idle(&self) -> bool {
        let used = [&self.outgoing, &self.incoming].map(|pool| pool.take_used());
        self.are_allocated() && used == [false, false]
    }

    pub(crate) fn are_allocated(&self) -> bool {
        [&self.outgoing, &self.incoming].iter().any(|pool| pool.is_allocated())
    }

    /// *Blocking.* Gives pinned memory back, unless it is in use. Connections that keep it registered keep it.
    pub(crate) fn release(&self) {
        [&self.outgoing, &self.incoming].iter().for_each(|pool| pool.release());
    }
}
