//! The outcomes of cancelled, revoked and settled operations.

use nixl_descriptor::DescriptorList;

use crate::completion::Memory;
use crate::outcome::{Completion, Outcome};
use crate::{OperationError, OperationStatus};

/// What a request to cancel came to.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub enum CancelOutcome {
    /// The operation is cancelled. Its memory comes back when the engine and the peer are quiet.
    Cancelled,
    /// It had ended before, in this state.
    AlreadyEnded(OperationStatus),
}

/// What revoking an offer came to.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub enum RevokeOutcome {
    /// No initiator can use it any more, and the memory is the owner's: it may be read and overwritten. That of a readable
    /// offer stays allocated until its life time is over, since a read may be under way.
    Free,
    /// An initiator may be writing. The memory comes back by its word, or when it is proven to be quiet.
    Held,
    /// It had ended before, in this state.
    AlreadyEnded(OperationStatus),
}

/// An operation's outcome together with its memory.
#[derive(Debug)]
#[non_exhaustive]
pub struct Reclaimed {
    /// How the operation ended.
    pub outcome: Result<Completion, OperationError>,
    /// The memory; `None` if the engine or the peer did not become quiet in time: then the lease of an active operation's memory
    /// ends when its engine is quiet, and the memory of a passive one comes back with a late proof.
    pub memory: Option<DescriptorList>,
}

impl Reclaimed {
    pub(super) fn new(outcome: Outcome, memory: Memory, list: &DescriptorList) -> Self {
        let memory = (memory == Memory::Quiet).then(|| list.clone());
        Self { outcome, memory }
    }
}

/// What became of the memory of an operation that has ended.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub enum MemoryFate {
    /// The engine is done with it, and it is leased no longer.
    Released,
    /// The engine did not become quiet within the drain time: it stays leased until it does, or for good if the connection
    /// ends before.
    Leaked,
}

/// An operation's outcome together with what became of its memory.
#[derive(Debug)]
#[non_exhaustive]
pub struct Settled {
    /// How the operation ended.
    pub outcome: Result<Completion, OperationError>,
    /// Where that leaves the memory.
    pub memory: MemoryFate,
}
