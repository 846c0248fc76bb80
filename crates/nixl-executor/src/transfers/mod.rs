//! Transfers between processes: each is an [`Execution`](nixl_ops::Execution).
//!
//! - a [copy](peer_copy) by this process, to or from memory that the peer shares
//! - a [remote copy](remote_copy) by the peer's GPU, to or from GPU memory that this side exports
//! - [staging](staged): chunks through pinned slots, with or without the peer's part

mod peer_copy;
mod remote_copy;
mod staged;
#[cfg(test)]
mod tests;

pub(crate) use peer_copy::{PeerCopy, copier, is_not_open, owner_gone};
pub(crate) use remote_copy::RemoteCopyContext;
pub use staged::StagingStats;
pub(crate) use staged::{Staging, StagingMode};
