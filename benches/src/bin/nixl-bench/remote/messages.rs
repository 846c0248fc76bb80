//! What the initiator asks of the target, and what it gets.

use serde::{Deserialize, Serialize};

use super::memory::Memory;
use crate::messages::Kind;

#[derive(Debug, Deserialize, Serialize)]
pub(crate) enum Request {
    /// Forget the memory, and have this instead.
    Prepare {
        memory: Memory,
        bytes: usize,
        /// The plain engine's metadata of the initiator, if there is to be one.
        plain: Option<Vec<u8>>,
    },
    /// Fill or poison the memory and offer it.
    Offer(Offer),
    /// The transfers of the last offer are over. Check what arrived, if that is asked for.
    Finish { check: bool },
    /// The last offer leads to nothing.
    Withdraw,
}

/// One iteration, as the target sees it.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Serialize)]
pub(crate) struct Offer {
    /// Plain nixl-sys moves the bytes.
    pub(crate) plain: bool,
    pub(crate) kind: Kind,
    /// Of each operation.
    pub(crate) bytes: usize,
    /// Operations side by side, which follow each other in the memory.
    pub(crate) count: usize,
    /// Of the pattern.
    pub(crate) seed: u64,
    /// The data is going to be checked, so a source must have the pattern.
    pub(crate) check: bool,
}

#[derive(Debug, Deserialize, Serialize)]
pub(crate) enum Reply {
    /// The plain engine's introduction, or why there is none.
    Prepared {
        plain: Option<Result<Introduction, String>>,
    },
    /// The connector's metadata of every operation, none for the plain engine; or why nothing could be offered.
    Offered {
        metadata: Result<Vec<Vec<u8>>, String>,
    },
    /// Where the target's side of it went wrong, if it did.
    Finished {
        fault: Option<String>,
    },
    Withdrawn,
}

/// A plain agent and its memory.
#[derive(Debug, Deserialize, Serialize)]
pub(crate) struct Introduction {
    pub(crate) metadata: Vec<u8>,
    pub(crate) address: u64,
}
