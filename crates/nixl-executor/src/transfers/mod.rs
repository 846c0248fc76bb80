//! Transfers between processes: each is an [`Execution`](nixl_ops::Execution).
//!
//! - a [copy](peer_copy) by this process, to or from memory that the peer shares
//! - a [remote copy](remote_copy) by the peer's GPU, to or from GPU memory that this side exports
//! - [staging](staged): chunks through pinned slots, with or without the peer's part, or through slots on a GPU
//!
//! [`Services`] begins transfers of the last two kinds, and routes peers' requests to them.

mod location;
mod opening;
mod peer_copy;
mod remote_copy;
mod services;
mod staged;
#[cfg(test)]
mod tests;

pub(crate) use peer_copy::{PeerCopy, copier, is_not_open, owner_gone};
pub(crate) use remote_copy::RemoteCopyContext;
pub(crate) use services::Services;
pub(crate) use staged::{StagingMode, why_owner_takes_no_part};
