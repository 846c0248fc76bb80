//! What can go wrong with an engine, and with an operation.

use std::borrow::Cow;
use std::time::Duration;

use thiserror::Error;

use crate::Rejected;

/// An engine refused or failed a call.
#[derive(Clone, Debug, Error, Eq, PartialEq)]
#[non_exhaustive]
pub enum TransportError {
    /// The peer's metadata cannot be used.
    #[error("the peer's metadata is unusable: {reason}; ask the peer for fresh metadata")]
    BadMetadata {
        /// What is wrong with it.
        reason: String,
    },
    /// The metadata names this very agent.
    #[error(
        "the metadata names this agent ({name}) as its own peer; it came back to its sender, or is forged"
    )]
    OwnIdentity {
        /// The agent's name.
        name: String,
    },
    /// A peer that is already known under this name has other connection details.
    #[error(
        "a different peer already uses the agent name {name}; a restarted peer needs a new name (ours carry an incarnation)"
    )]
    IdentityConflict {
        /// The name both claim.
        name: String,
    },
    /// The peer has not been connected, or was forgotten.
    #[error("no metadata is loaded for the peer {name}; connect to it first")]
    UnknownPeer {
        /// The peer's agent name.
        name: String,
    },
    /// The peer has re-registered memory while transfers that use its old registrations are in flight.
    #[error(
        "the peer {name} changed its registrations while transfers to it are in flight; retry when they have ended"
    )]
    PeerBusy {
        /// The peer's agent name.
        name: String,
    },
    /// The peer died, its connection broke, or it cannot be reached at all.
    #[error(
        "the peer {name} is gone or cannot be reached; check that it runs, and ask it for fresh metadata"
    )]
    PeerGone {
        /// The peer's agent name.
        name: String,
    },
    /// The metadata offers memory that the peer has not registered.
    #[error(
        "the peer {name} has not registered {len} bytes of its descriptor {index}; its metadata is stale or forged"
    )]
    NotRegistered {
        /// The peer's agent name.
        name: String,
        /// Which descriptor of the offered list.
        index: usize,
        /// Its length in bytes.
        len: u64,
    },
    /// Work on the local memory, which had to be done first, failed.
    #[error("the work on the memory that the operation had to wait for failed: {reason}")]
    MemoryNotReady {
        /// What went wrong.
        reason: String,
    },
    /// The bytes arrived, but the peer could not be told.
    #[error("the bytes are in place, but the completion notification could not be sent: {reason}")]
    NotificationFailed {
        /// The engine's word for it.
        reason: Cow<'static, str>,
    },
    /// The engine failed the call.
    #[error("{engine} failed in {call}: {reason}")]
    Engine {
        /// The engine, for instance `nixl`.
        engine: &'static str,
        /// The call.
        call: &'static str,
        /// The engine's word for it.
        reason: Cow<'static, str>,
    },
    /// No path is there that the policy allows.
    #[error("no path is there that the policy allows: {}", list(.rejected))]
    NoPath {
        /// Each path, and why not.
        rejected: Vec<Rejected>,
    },
    /// The connection has been shut down.
    #[error("the connection is closed")]
    Closed,
}

/// How an operation ended without completing.
#[derive(Clone, Debug, Error, Eq, PartialEq)]
#[non_exhaustive]
pub enum OperationError {
    /// Its owner cancelled it.
    #[error("the operation was cancelled")]
    Cancelled,
    /// Its deadline passed. The memory stays with the library until the engine is quiet.
    #[error("the operation did not complete within {after:?}")]
    TimedOut {
        /// The time it was given.
        after: Duration,
    },
    /// Too many operations are in flight on this connection.
    #[error("{limit} operations are in flight on this connection; await some before starting more")]
    QueueFull {
        /// The configured bound.
        limit: usize,
    },
    /// The engine failed.
    #[error(transparent)]
    Transport(#[from] TransportError),
}

fn list(rejected: &[Rejected]) -> String {
    let each = rejected.iter().map(|path| format!("{}: {}", path.kind, path.reason));
    each.collect::<Vec<_>>().join("; ")
}
