//! Staged transfers: chunks through pinned host memory, where the engine reaches GPU memory badly or not at all.
//!
//! The bytes of an operation are one stream, [cut](chunking) into chunks. The sending side (the *source*) copies each
//! chunk to a pinned slot of its own and writes it into a pinned slot of the other side (the *sink*), which copies it to
//! its GPU. A side with host memory needs no slots: chunks leave it, and arrive in it, where they are. Everything is
//! pushed by the source, because engines write faster than they read; only a peer that [takes no part](one_sided) is read from.
//!
//! # Messages
//!
//! The initiator sends `Open`; a target that is the source answers `Accept`. The sink grants slots, or the
//! addresses of its descriptors, and the source writes each chunk with a notification (`Filled`). When the last chunk is
//! in place the sink sends `Done`. After a failure, a sink sends `Stop` and a source `Stopped`, once nothing of it is
//! in flight; until `Stopped` arrives, a sink keeps the memory that it has granted. Source and sink send `Ping` as a keep-alive, so that
//! a dead peer is detected, and one that only waits is not given up.
//!
//! Messages of one session may overtake each other and the chunks. So a sink grants nothing before the first message of
//! the source, every grant of a slot has a round, and `Done` and `Stopped` are sent only when no other message follows.
//! A message counts only if it comes from the session's peer, and is checked against what this side granted.
//!
//! # Why nothing waits in a circle
//!
//! * An outgoing slot is taken only for a chunk whose target is known. From then on the chunk moves by this side's GPU and
//!   engine alone, so outgoing slots always come back.
//! * An incoming slot waits for the peer's outgoing slots, which come back, and then for this side's GPU.
//! * So outgoing slots wait for no other slots, and incoming ones only for outgoing ones. The two directions of a pair of
//!   peers use different pools.
//! * A peer that stops holds the slots it was granted until it goes on or is gone, also if the transfer ends after
//!   its [silence](StagingConfig::with_silence): they are in [quarantine](session) until then. Other sessions go on with the rest,
//!   since no session [gets more than its share](admission) while others want some. Without a usable slot, operations take
//!   another path.
//!
//! # Remote copies
//!
//! Where the initiator has GPU memory and the target host memory of the same machine, no chunks are needed: the target's
//! GPU opens the initiator's memory by CUDA IPC, and copies all of it at once, in either direction ([`remote_copy`]). The
//! initiator sends `RemoteCopyRequest`; the target connects to it, copies, and answers `Done`, or `Stopped` once its GPU is quiet. An
//! initiator that gives up repeats `CancelCopy` until it is answered. A target that has no such transfer answers `NotFound`, and refuses
//! a late request for it during the silence time-out. The target may use the memory until the answer, or until its process has ended:
//! the loss of the engine's connection proves nothing about the peer's GPU.
//!
//! # What a failed write leaves behind
//!
//! If a transfer into an offer's memory fails halfway, the offer does not complete; its memory holds some chunks and not
//! others. It can be written again, as a whole, for as long as it lives.

mod admission;
mod chunking;
mod config;
mod copies;
mod hop_timer;
mod message;
mod offers;
mod one_sided;
mod outbox;
mod pending_connect;
mod pool;
mod pull;
mod refusal;
mod remote_copy;
mod remote_copy_initiator;
mod remote_copy_target;
mod request;
mod session;
mod sink;
mod source;
mod staging;
mod targets;
#[cfg(test)]
mod tests;
mod two_sided;
mod wire;

use std::borrow::Cow;

use nixl_ops::TransportError;

pub use config::StagingConfig;
#[cfg(any(test, fuzzing))]
pub(crate) use message::Message;
pub(crate) use pool::SlotPools;
pub use pool::SlotStats;
pub(crate) use remote_copy::RemoteCopyContext;
pub use staging::StagingStats;
pub(crate) use staging::{Staging, StagingMode};

use crate::local::GpuError;

/// Staging failed.
fn failed(call: &'static str, reason: impl Into<Cow<'static, str>>) -> TransportError {
    TransportError::Engine { engine: "staging", call, reason: reason.into() }
}

/// A GPU failed.
fn engine_failed(call: &'static str, error: &GpuError) -> TransportError {
    failed(call, error.to_string())
}

/// The peer did what it must not.
fn violated(what: impl Into<Cow<'static, str>>) -> TransportError {
    let what: Cow<'static, str> = what.into();
    failed("peer", format!("the peer broke the protocol: {what}"))
}

/// Whether an error says that the peer cannot reach this side any more.
fn gone(error: &TransportError) -> bool {
    matches!(error, TransportError::PeerGone { .. } | TransportError::Closed)
}
