//! Messages of the coordinator and its nodes, and among the nodes.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::tally::Tally;

/// Numbers by the name of what was counted.
pub(crate) type Counts = BTreeMap<String, u64>;

/// How a node is made: its first message. It answers [`Reply::Ready`].
#[derive(Clone, Debug, Deserialize, Serialize)]
pub(crate) struct Setup {
    pub(crate) executor: Executor,
    /// Where it listens for other nodes.
    pub(crate) socket: PathBuf,
    /// Deadline of its offers.
    pub(crate) timeout_ms: u64,
    pub(crate) life_time_ms: u64,
    pub(crate) drain_ms: u64,
}

#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub(crate) enum Executor {
    /// That of a connector without a configured one.
    Transport,
    Path,
}

impl Executor {
    pub(crate) const BOTH: [Self; 2] = [Self::Transport, Self::Path];

    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Transport => "transport",
            Self::Path => "path",
        }
    }
}

#[derive(Clone, Debug, Deserialize, Serialize)]
pub(crate) enum Command {
    /// Use what another node offers. Answered by [`Reply::Ran`] at the end.
    Run(Load),
    /// Answered by [`Reply::State`].
    State,
    /// Call `exit` with this code at once. No answer.
    Exit(u8),
    /// Return from `main` at once. No answer.
    Return,
}

#[derive(Clone, Debug, Deserialize, Serialize)]
pub(crate) enum Reply {
    Ready,
    Ran(Tally),
    State(State),
}

/// What a node knows of itself.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
pub(crate) struct State {
    /// Its offers so far.
    pub(crate) served: Tally,
    /// Operations and offers that have not ended.
    pub(crate) busy: usize,
    /// Bytes of offers that were given up and are held for peers.
    pub(crate) held_bytes: u64,
    /// Bytes that were leaked on purpose.
    pub(crate) leaked_bytes: u64,
    /// Slabs of the buffer pool, each of which is a file.
    pub(crate) pool_slabs: u64,
    /// Mappings of the buffer pool: slabs, and places of slabs that it keeps for late writes. It bounds them itself.
    pub(crate) pool_mappings: u64,
    /// Bytes of the pool's slabs, with or without pages.
    pub(crate) pool_bytes: u64,
    /// Pieces of peers' memory that are open here, each a mapping.
    pub(crate) imports: u64,
    /// Peers that the connector knows.
    pub(crate) peers: u64,
}

/// Operations of some tasks, one after another each, until a time is over.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub(crate) struct Load {
    /// Where the node listens whose offers are used.
    pub(crate) socket: PathBuf,
    pub(crate) tasks: usize,
    /// How long; each task begins at least one operation.
    pub(crate) ms: u64,
    pub(crate) seed: u64,
    pub(crate) work: Work,
    pub(crate) memory: Memory,
    /// The longest offer; lengths vary.
    pub(crate) longest: usize,
    /// Deadline of each operation.
    pub(crate) timeout_ms: u64,
    /// Offers that each task takes beforehand, to use while the owner is silent.
    pub(crate) ahead: usize,
    /// The peer may end or be silent: no error is one of the program's.
    pub(crate) lenient: bool,
}

#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub(crate) enum Work {
    Reads,
    /// Reads and writes in turns.
    Both,
    /// As [`Both`](Self::Both), and most offers come to another end.
    Abandoned,
    /// Writes of the longest length.
    LongWrites,
    /// Reads of blocks by tickets of an export, so many at most by each.
    Blocks,
}

#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub(crate) enum Memory {
    /// `Region::try_from(vec)`, a new one for each operation.
    Vec,
    /// `Connector::buffer`, a new one for each operation.
    Buffer,
    /// One buffer for each task on both sides, of the longest length.
    Kept,
}

#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub(crate) enum Access {
    Read,
    Write,
    /// By a ticket; a length is a number of reads.
    Blocks,
}

/// How an offer ends.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub(crate) enum Fate {
    /// It is used.
    Used,
    /// It is not used, and times out.
    Untaken,
    /// Its owner revokes it before its peer knows of it.
    Revoked,
    /// Its owner revokes it while its peer uses it.
    RevokedLate,
    /// Its owner drops it before its peer knows of it.
    Dropped,
    /// Its peer declines it.
    Declined,
}

impl Fate {
    pub(crate) const ALL: [Self; 6] = [
        Self::Used,
        Self::Untaken,
        Self::Revoked,
        Self::RevokedLate,
        Self::Dropped,
        Self::Declined,
    ];
}

/// Asks a node for an offer.
#[derive(Clone, Copy, Debug, Deserialize, Serialize)]
pub(crate) struct Ask {
    pub(crate) access: Access,
    pub(crate) memory: Memory,
    pub(crate) len: usize,
    /// Which bytes are read or written.
    pub(crate) seed: u64,
    pub(crate) fate: Fate,
    pub(crate) lenient: bool,
}
