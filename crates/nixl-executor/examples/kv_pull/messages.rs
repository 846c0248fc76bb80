//! The requests of the decode side, and their replies, as JSON.

use nixl_executor::Ticket;
use serde::{Deserialize, Serialize};

/// The worker that owns the cache.
pub(crate) const PREFILL: &str = "prefill";

/// The worker that reads from it.
pub(crate) const DECODE: &str = "decode";

/// A request to the prefill side. One that is sent again has the same effect.
#[derive(Serialize, Deserialize)]
pub(crate) enum Asked {
    /// Blocks are to be filled and granted for the request of this number.
    Prefill { request: u64, blocks: usize },
    /// The request is over: its grant ends.
    Cancel { request: u64 },
}

/// The reply.
#[derive(Clone, Serialize, Deserialize)]
pub(crate) enum Reply {
    /// The blocks of the request, and by what each was filled.
    Prefilled {
        ticket: Ticket,
        seeds: Vec<u64>,
    },
    Cancelled,
    /// There are no free blocks now.
    Busy,
}
