//! Parts that the connections of an executor have in common.

use std::sync::Arc;

use nixl_descriptor::Rendezvous;

use super::maintenance::Maintenance;
use crate::facts::LocalFacts;
use crate::local::{CopyWorkers, Costs, GpuBackend};
use crate::pinned_slots::{SlotPools, StagingConfig};
use crate::planner::PathCosts;
use crate::remote_memory::ImportLimits;

/// The settings of an executor.
#[derive(Clone, Default)]
pub(super) struct Settings {
    pub(super) costs: Costs,
    pub(super) path_costs: PathCosts,
    pub(super) staging: StagingConfig,
    pub(super) imports: ImportLimits,
    /// Kept as long as the executor.
    pub(super) rendezvous: Option<Arc<Rendezvous>>,
}

/// What the connections of an executor have in common.
pub(super) struct Common {
    pub(super) gpus: Arc<dyn GpuBackend>,
    pub(super) facts: Arc<LocalFacts>,
    pub(super) threads: CopyWorkers,
    pub(super) settings: Settings,
    pub(super) slots: SlotPools,
    pub(super) maintenance: Maintenance,
}
