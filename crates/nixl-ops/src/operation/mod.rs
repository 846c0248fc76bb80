//! The kinds of operation: reads, writes and copies by this side, and offers for peers.

mod active;
mod ender;
mod future;
mod handle;
mod kinds;
mod outcomes;
mod passive;

pub use ender::{UnquietOffer, WritableEnder};
pub use future::OperationFuture;
pub use handle::CancelHandle;
pub use kinds::{
    CopyOperation, ReadOperation, ReadableOperation, WritableOperation, WriteOperation,
};
pub use outcomes::{CancelOutcome, MemoryFate, Reclaimed, RevokeOutcome, Settled};
