//! The report of an execution whose bytes are in place, for the steps that follow it.

use nixl_ops::{Execution, PathReport, PeerMemory};

/// What is asked of an execution after it was dropped.
#[derive(Clone)]
pub(crate) struct Moved {
    pub(crate) report: PathReport,
    pub(crate) steps: u64,
    pub(crate) memory: PeerMemory,
}

impl Moved {
    pub(crate) fn by(execution: &dyn Execution) -> Self {
        let (report, steps) = (execution.report(), execution.steps());
        Self { report, steps, memory: execution.peer_memory() }
    }
}
