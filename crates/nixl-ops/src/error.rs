//! Errors of engines and of operations.

use std::borrow::Cow;
use std::time::Duration;

use nixl_descriptor::DependencyError;
use nixl_device::SharedError;
use thiserror::Error;

use crate::Rejected;

/// An engine refused or failed a call.
#[derive(Clone, Debug, Error, Eq, PartialEq)]
#[non_exhaustive]
pub enum TransportError {
    /// The peer's metadata cannot be used.
    #[error("the peer's metadata is unusable: {reason}; ask the peer for fresh metadata")]
    BadMetadata {
        /// The fault.
        #[source]
        reason: SharedError,
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
    /// The metadata is older than other metadata of the peer, by which some of the memory has been registered anew.
    #[error(
        "the metadata of the peer {name} is older than what is known of it, and its memory was registered anew since; ask it for a new offer"
    )]
    OutdatedMetadata {
        /// The peer's agent name.
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
    /// The transfer is [bound](crate::TransferSpec::on_connection) to an earlier connection to the peer than the current one.
    #[error(
        "the peer {name} was connected anew, and the transfer may only use the connection before; prepare it again"
    )]
    Reconnected {
        /// The peer's agent name.
        name: String,
    },
    /// The peer died, its connection broke, or it is unreachable.
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
        /// The index in the offered list.
        index: usize,
        /// Its length in bytes.
        len: u64,
    },
    /// Work on the local memory before the operation failed.
    #[error("the work on the memory before the operation failed: {error}")]
    MemoryNotReady {
        /// The failure.
        #[source]
        error: DependencyError,
    },
    /// The bytes arrived, but the peer could not be notified.
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
        /// The engine's error, or its text.
        #[source]
        reason: SharedError,
    },
    /// The policy allows no available path.
    #[error("the policy allows no available path; allow one of these, or remove the reason against it: {}", list(.rejected))]
    NoPath {
        /// Each path, with the reason against it.
        rejected: Vec<Rejected>,
    },
    /// The offer cannot be used: no byte was moved.
    #[error("the offer cannot be used: {why}; ask its owner for a new one")]
    OfferEnded {
        /// The reason.
        why: EndedOffer,
    },
    /// The owner ended the offer or the grant before the end of the read.
    #[error(
        "the offer or grant ended before the end of the read: the bytes may be of the owner's next use; discard them and ask for a new one"
    )]
    Stale,
    /// The ticket is not the one that the owner issued.
    #[error(
        "the ticket names other blocks, layers or rights than the owner granted: it was altered or forged; discard the bytes and ask for a new one"
    )]
    NotGranted,
    /// The owner has not filled the requested layers yet.
    #[error(
        "the layers below {ready} are ready, and those below {asked} are requested: discard the bytes and request them again, by the same ticket, once they are ready"
    )]
    NotReady {
        /// The layers below this one are ready.
        ready: u64,
        /// The end of the layers of the read.
        asked: u64,
    },
    /// The bytes do not match the offer's checksum.
    #[error(
        "the {bytes} bytes do not match the offer's checksum: they were damaged in transit, or the owner's memory has changed; discard them, ask for a new offer and read again, and check the path if it happens again"
    )]
    Corrupted {
        /// The bytes of the read.
        bytes: u64,
    },
    /// The peer claims this host without proof.
    #[error(
        "the peer {name} claims this host without proof: {reason}; give each machine its own boot identity, or both processes one user and PID namespace"
    )]
    NotHere {
        /// The peer's agent name.
        name: String,
        /// The finding.
        reason: String,
    },
    /// The proof that the local memory is leased does not cover it.
    #[error(
        "local descriptor {index} is not covered by a lease in the mode of the transfer; lease the list that is moved"
    )]
    NotLeased {
        /// Its index in the list.
        index: usize,
    },
    /// A waker, an execution, a job or a destructor panicked. Other operations continue.
    #[error("{what} panicked: {reason}; its operation ends, all others continue")]
    Panicked {
        /// The code that panicked.
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
    /// The limit on open files is reached.
    #[error(
        "this process has {open} open files, the limit is {limit}: raise it (`ulimit -n`), or close some"
    )]
    OutOfFiles {
        /// The open files.
        open: u64,
        /// The soft limit.
        limit: u64,
    },
    /// The engine no longer accepts connections.
    #[error(
        "{engine} has closed its listening socket, which it does when a connection cannot be accepted: peers that are not connected cannot reach this agent; build the connector anew"
    )]
    NotListening {
        /// The engine, for instance `nixl`.
        engine: &'static str,
    },
    /// This process was forked from the one that built the connector, or the executor.
    #[error(
        "this process was forked from the one that built the connector or its executor, whose threads and engine it lacks: build both again in this process"
    )]
    Forked,
    /// The connection has been shut down.
    #[error("the connection is closed; build a new connector")]
    Closed,
}

/// The reason why an offer cannot be used.
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
    /// The message about it lacks its token.
    #[error("the message about it lacks its token")]
    WrongToken,
    /// The identifier of this process cannot be written into a claim.
    #[error("the identifier of this process is too large for a claim")]
    Unclaimable,
    /// Its owner demands a claim, and does not answer.
    #[error("its owner demands a claim and does not answer")]
    Unanswered,
}

/// The end of an operation that did not complete.
#[derive(Clone, Debug, Error, Eq, PartialEq)]
#[non_exhaustive]
pub enum OperationError {
    /// Its owner cancelled it.
    #[error("the operation was cancelled")]
    Cancelled,
    /// Its deadline passed. The memory stays with the library until the engine is quiet.
    #[error(
        "the operation did not complete within {after:?}: check that the peer runs, or allow more time"
    )]
    TimedOut {
        /// Its time.
        after: Duration,
    },
    /// Too many operations are in flight on this connection.
    #[error("{limit} operations are in flight on this connection; await some before starting more")]
    QueueFull {
        /// The configured bound.
        limit: usize,
    },
    /// The peer declined the offer, or its transfer failed and has ended.
    #[error(
        "the peer declined the offer, or failed to use it: make a new offer; none of its accesses is in flight"
    )]
    Declined,
    /// The engine failed.
    #[error(transparent)]
    Transport(#[from] TransportError),
}

fn list(rejected: &[Rejected]) -> String {
    let each = rejected.iter().map(|path| format!("{}: {}", path.kind, path.reason));
    each.collect::<Vec<_>>().join("; ")
}
