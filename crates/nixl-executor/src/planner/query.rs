//! The question that a path plan answers.

use nixl_device::Device;
use nixl_ops::{OperationKind, PathPolicy};

use crate::facts::{Engine, OfferFacts};
use crate::local::MemoryKind;

/// What a plan is asked for. All descriptors of each side are memory of one kind; for an operation that mixes them, ask
/// for each pair.
#[derive(Clone, Copy, Debug, PartialEq)]
#[allow(clippy::exhaustive_structs, reason = "a query must set each field")]
pub struct PathQuery {
    /// `Read` moves remote to local, `Write` local to remote.
    pub(crate) operation: OperationKind,
    /// Memory of this process.
    pub(crate) local: MemoryKind,
    /// Whether another process can open all of it. Asked of GPU memory alone, and only where the other side's cannot be opened.
    pub(crate) exportable: bool,
    /// Memory of the other side, in its numbering.
    pub(crate) remote: Device,
    /// What moves the bytes where the executor does not.
    pub(crate) engine: Engine,
    /// What came with the offer.
    pub(crate) offered: OfferFacts,
    /// Which ways are allowed.
    pub(crate) policy: PathPolicy,
}

impl PathQuery {
    /// An operation between `local` memory of this process and memory of `remote` at the other side, in its numbering.
    pub fn new(
        operation: OperationKind,
        (local, remote): (MemoryKind, Device),
        engine: Engine,
        offered: OfferFacts,
        policy: PathPolicy,
    ) -> Self {
        Self { operation, local, exportable: false, remote, engine, offered, policy }
    }

    /// Whether another process can open all of the local memory: GPU memory that has a handle of CUDA IPC.
    #[must_use]
    pub fn exportable(mut self, exportable: bool) -> Self {
        self.exportable = exportable;
        self
    }
}
