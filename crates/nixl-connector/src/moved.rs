//! The report of a finished execution, for the steps after it.

use nixl_ops::{Execution, PathReport, PeerMemory};

/// The answers of an execution after its drop.
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

    /// The same, of bytes that match their checksum.
    pub(crate) fn verified(self) -> Self {
        Self { report: self.report.with_verified_checksum(true), ..self }
    }
}
