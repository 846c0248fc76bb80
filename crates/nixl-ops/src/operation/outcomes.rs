//! The outcomes of cancelled, revoked and settled operations.

use nixl_descriptor::DescriptorList;

use crate::completion::Memory;
use crate::outcome::{Completion, Outcome};
use crate::{OperationError, OperationStatus};

/// Result of a cancellation.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub enum CancelOutcome {
    /// The operation is cancelled. Its memory comes back when the engine and the peer are quiet.
    Cancelled,
    /// The operation had ended before, in this state.
    AlreadyEnded(OperationStatus),
}

/// Result of a revocation.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub enum RevokeOutcome {
    /// No initiator can use the offer any more, and its owner may read and overwrite the memory. A readable offer's memory
    /// stays allocated until the end of the life time, since a read may be in flight.
    Free,
    /// An initiator may be writing. The memory comes back by its message or by a proof.
    Held,
    /// The operation had ended before, in this state.
    AlreadyEnded(OperationStatus),
}

/// An operation's outcome, with its memory.
#[derive(Debug)]
#[non_exhaustive]
pub struct Reclaimed {
    /// The end of the operation.
    pub outcome: Result<Completion, OperationError>,
    /// The memory; `None` if the engine or the peer did not become quiet in time: then the lease of an active operation's memory
    /// ends when its engine is quiet, and the memory of a passive one comes back with a late proof.
    pub memory: Option<DescriptorList>,
}

impl Reclaimed {
    /// An outcome, and the memory that came back with it.
    #[must_use]
    pub fn new(
        outcome: Result<Completion, OperationError>,
        memory: Option<DescriptorList>,
    ) -> Self {
        Self { outcome, memory }
    }

    pub(super) fn of(outcome: Outcome, memory: Memory, list: &DescriptorList) -> Self {
        let memory = (memory == Memory::Quiet).then(|| list.clone());
        Self { outcome, memory }
    }
}

/// State of an ended operation's memory.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub enum MemoryFate {
    /// The engine is done with it, and the lease has ended.
    Released,
    /// The engine did not become quiet within the drain time: it stays leased until it does, or for good if the connection
    /// ends before.
    Leaked,
}

/// An operation's outcome, with the state of its memory.
#[derive(Debug)]
#[non_exhaustive]
pub struct Settled {
    /// The end of the operation.
    pub outcome: Result<Completion, OperationError>,
    /// The state of the memory.
    pub memory: MemoryFate,
}

impl Settled {
    /// An outcome, and the state of its memory.
    #[must_use]
    pub fn new(outcome: Result<Completion, OperationError>, memory: MemoryFate) -> Self {
        Self { outcome, memory }
    }
}
