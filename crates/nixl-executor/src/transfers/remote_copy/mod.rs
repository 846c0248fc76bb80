//! Remote copies: the target's GPU copies to or from GPU memory that the initiator exports.

mod initiator;
mod remote_copies;
mod target;

pub(crate) use remote_copies::{RemoteCopies, RemoteCopyContext};
