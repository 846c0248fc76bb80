//! Queries of a path plan.

use nixl_descriptor::AllocationKind;
use nixl_device::Device;
use nixl_ops::{OperationKind, PathPolicy};

use crate::facts::{Engine, OfferFacts, ShareForm};
use crate::local::MemoryKind;

/// The query of a path plan. All descriptors of each side are memory of one kind; for an operation that mixes them, ask
/// for each pair.
#[derive(Clone, Copy, Debug, PartialEq)]
#[allow(clippy::exhaustive_structs, reason = "a query must set each field")]
pub struct PathQuery {
    /// `Read` moves remote to local, `Write` local to remote.
    pub(crate) operation: OperationKind,
    /// Memory of this process.
    pub(crate) local: MemoryKind,
    /// Whether other processes can open it.
    pub(crate) export: Export,
    /// Whether its GPU may only read it.
    pub(crate) is_read_only: bool,
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
        let (export, is_read_only) = (Export::Unknown, false);
        Self { operation, local, export, is_read_only, remote, engine, offered, policy }
    }

    /// Whether other processes can open all of the local memory.
    #[must_use]
    pub fn export(mut self, export: Export) -> Self {
        self.export = export;
        self
    }
}

/// Memory of the two sides, as far as it decides what a path between them can do: a result between one pair does not apply to
/// another.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub struct MemoryPair {
    local: (Device, Export),
    remote: (Device, Option<ShareForm>),
}

impl MemoryPair {
    /// Memory of which other processes can open none, or nothing is known.
    #[must_use]
    pub const fn new(local: Device, remote: Device) -> Self {
        Self { local: (local, Export::Unknown), remote: (remote, None) }
    }
}

impl PathQuery {
    /// The memory that the query is about.
    #[must_use]
    pub fn memories(&self) -> MemoryPair {
        let local = match self.local {
            MemoryKind::Gpu(gpu) => Device::cuda(gpu),
            _ => Device::HOST,
        };
        MemoryPair { local: (local, self.export), remote: (self.remote, self.offered.share) }
    }
}

/// Whether other processes can open GPU memory of this side.
#[derive(Clone, Copy, Debug, Default, Eq, Hash, PartialEq)]
#[allow(clippy::exhaustive_enums, reason = "a hint of few values")]
pub enum Export {
    /// It is host memory, or nothing is known of it.
    #[default]
    Unknown,
    /// All of it has handles of CUDA IPC.
    ByHandle,
    /// All of it has handles, and some of those are of pieces that come as descriptors.
    ByPieces,
    /// Some of it has none: an allocation of this kind.
    Without(AllocationKind),
}
