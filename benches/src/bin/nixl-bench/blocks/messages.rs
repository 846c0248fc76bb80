//! Messages of the reader and the owner.

use serde::{Deserialize, Serialize};

#[derive(Debug, Deserialize, Serialize)]
pub(crate) enum Request {
    /// Export a cache of so many blocks, and show its memory to this plain agent.
    Export { blocks: usize, plain: Vec<u8> },
    /// Grant each of these lists of blocks of a layout.
    Grant { layout: u16, lists: Vec<Vec<u32>> },
    /// Offer each of these lists of blocks, all chunks of them, to one reader.
    Offer { layout: u16, lists: Vec<Vec<usize>> },
    /// The grants and offers are over.
    Over,
    /// How much CPU time this process has used.
    CpuTime,
    /// Measure grants among many.
    MeasureGrants { rounds: usize },
}

#[derive(Debug, Deserialize, Serialize)]
pub(crate) enum Reply {
    Exported {
        metadata: Vec<u8>,
        plain: Vec<u8>,
        /// Where the layers begin.
        layers: Vec<u64>,
        small: u64,
    },
    /// Tickets, or the metadata of offers.
    Given {
        encoded: Vec<Vec<u8>>,
    },
    Over,
    CpuTime {
        nanos: u64,
    },
    Grants(Grants),
}

/// Nanoseconds of each round.
#[derive(Debug, Deserialize, Serialize)]
pub(crate) struct Grants {
    /// A grant and its end, beside none and beside many.
    pub(crate) grant_and_end: [Vec<u64>; 2],
    /// The end alone, likewise.
    pub(crate) end: [Vec<u64>; 2],
    /// A copy of a block by the owner, likewise.
    pub(crate) copy: [Vec<u64>; 2],
    /// Bytes of a ticket for blocks from anywhere in the cache.
    pub(crate) ticket_bytes: usize,
    /// Bytes of the export's metadata.
    pub(crate) metadata_bytes: usize,
}
