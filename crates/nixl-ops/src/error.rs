//! Errors of engines and of operations.

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
        /// The engine's text.
        reason: Cow<'static, str>,
    },
    /// The engine failed the call.
    #[error("{engine} failed in {call}: {reason}")]
    Engine {
        /// The engine, for instance `nixl`.
        engine: &'static str,
        /// The call.
        call: &'static str,
        /// The engine's text.
        reason: Cow<'static, str>,
    },
    /// No path is there that the policy allows.
    #[error("no path is there that the policy allows: {}", list(.rejected))]
    NoPath {
        /// Each path, and why not.
        rejected: Vec<Rejected>,
    },
    /// The offer cannot be used: no byte was moved.
    #[error("the offer cannot be used: {why}; ask its owner for a new one")]
    OfferEnded {
        /// Why not.
        why: EndedOffer,
    },
    /// The owner ended the offer or the grant while its memory was read, or before.
    #[error(
        "the offer or grant ended before it was read to the end: the bytes that arrived may be of its owner's next use; discard them and ask for a new one"
    )]
    Stale,
    /// The ticket is not the one that the owner gave out.
    #[error(
        "the ticket says other blocks, layers or rights than its owner granted: it was altered or forged; discard the bytes and ask for a new one"
    )]
    NotGranted,
    /// The bytes that were read are not those whose checksum the offer carries.
    #[error(
        "the {bytes} bytes that were read are not those that were offered (their checksums differ): they were damaged on the way, or the owner's memory has changed; discard them, ask for a new offer and read again, and look at the path if it happens again"
    )]
    Corrupted {
        /// How many bytes were read.
        bytes: u64,
    },
    /// Proof that the peer runs on this host, where it says that it runs, is missing.
    #[error(
        "the peer {name} claims this host, and it cannot be proven that it runs here: {reason}; give each machine its own boot identity, or both processes one user and PID namespace"
    )]
    NotHere {
        /// The peer's agent name.
        name: String,
        /// What was found instead.
        reason: String,
    },
    /// The proof that the local memory is leased does not cover it.
    #[error(
        "local descriptor {index} is not covered by a lease in the mode of the transfer; lease the list that is moved"
    )]
    NotLeased {
        /// Its place in the list.
        index: usize,
    },
    /// A waker, an execution, a job or a destructor panicked. Others go on.
    #[error("{what} panicked: {reason}; the operation it was for cannot go on, all others do")]
    Panicked {
        /// What panicked.
        what: &'static str,
        /// The message of the panic.
        reason: String,
    },
    /// A thread that operations need has ended.
    #[error(
        "the thread {thread} of the connection has ended; build a new connector, and report this with the process's log"
    )]
    ThreadEnded {
        /// Its name.
        thread: &'static str,
    },
    /// This process may open no more files.
    #[error(
        "this process has {open} files open and may have {limit}: raise the limit (`ulimit -n`), or close some"
    )]
    OutOfFiles {
        /// Files that are open.
        open: u64,
        /// The soft limit.
        limit: u64,
    },
    /// The engine does not accept connections any more.
    #[error(
        "{engine} has closed its listening socket, which it does when a connection cannot be accepted: peers that are not connected cannot reach this agent; build the connector anew"
    )]
    NotListening {
        /// The engine, for instance `nixl`.
        engine: &'static str,
    },
    /// This process was forked from the one that built the connector, or the executor.
    #[error(
        "this process was forked from the one that built the connector or its executor, whose threads and engine it does not have: build both anew in this process"
    )]
    Forked,
    /// The connection has been shut down.
    #[error("the connection is closed")]
    Closed,
}

/// Why an offer cannot be used.
#[derive(Clone, Copy, Debug, Eq, Error, PartialEq)]
#[non_exhaustive]
pub enum EndedOffer {
    /// Its owner has revoked it, or let it time out.
    #[error("its owner has ended it")]
    Revoked,
    /// Its last use has ended.
    #[error("it has been used")]
    Used,
    /// Another initiator has claimed it for writing.
    #[error("another initiator is writing to it")]
    Claimed,
    /// This process has used it before.
    #[error("this process has used it before")]
    Spent,
    /// Its life time is over.
    #[error("its life time is over")]
    Expired,
    /// Its owner has ended, or has closed the memory that it shares.
    #[error("its owner has ended or has closed its shared memory")]
    OwnerGone,
    /// The message about it does not carry its token.
    #[error("the message about it does not carry its token")]
    WrongToken,
    /// The identifier of this process cannot be written into a claim.
    #[error("the identifier of this process is too large for a claim")]
    Unclaimable,
    /// Its owner demands a claim, and does not answer.
    #[error("its owner demands a claim and does not answer")]
    Unanswered,
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
    /// The peer does not take up the offer, or its transfer failed and has ended.
    #[error("the peer declined the offer, or failed to use it; none of its accesses is in flight")]
    Declined,
    /// The engine failed.
    #[error(transparent)]
    Transport(#[from] TransportError),
}

fn list(rejected: &[Rejected]) -> String {
    let each = rejected.iter().map(|path| format!("{}: {}", path.kind, path.reason));
    each.collect::<Vec<_>>().join("; ")
}
