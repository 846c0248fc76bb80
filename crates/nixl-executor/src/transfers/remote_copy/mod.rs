//! Remote copies: the target's GPU copies to or from GPU memory that the initiator exports.
//!
//! Where the initiator has GPU memory, and the target on the same machine host memory, or GPU memory that no other process can
//! open (of a pool, or of the VMM API), no chunks are needed: the [target]'s GPU opens the initiator's memory by CUDA IPC, and
//! copies all of it at once, in either direction. The [initiator]
//! sends `RemoteCopyRequest`; the target connects to it, copies, and answers `Done`, or `Stopped` once its GPU is quiet. An
//! initiator that gives up repeats `CancelCopy` until it is answered. A target that has no such transfer answers `NotFound`, and
//! refuses a late request for it during the silence time-out. The target may use the memory until the answer, or until its process
//! has ended: the loss of the engine's connection proves nothing about the peer's GPU.

mod context;
mod initiator;
mod remote_copies;
mod target;

pub(crate) use context::RemoteCopyContext;
pub(crate) use remote_copies::RemoteCopies;
