//! Command-line arguments.

use std::num::{NonZeroU32, NonZeroU64};
use std::time::Duration;

use nixl_memories::Memory;

/// What every example takes.
#[derive(Debug, clap::Args)]
pub(crate) struct Common {
    /// Selects the bytes: of operation `k`, counted from 0, the source holds the pattern of seed `S + k`, and
    /// the destination is filled with the inverse of that pattern beforehand
    #[arg(long, value_name = "S", default_value_t = 0)]
    seed: u64,
    /// How long an operation may take, and how long to wait for the next line of input
    #[arg(long, value_name = "SECONDS", default_value = "30")]
    timeout: NonZeroU64,
    /// The memory that the bytes are moved from or to: host, shared, pinned, cuda:N, pool:N, vmm:N, vmmfd:N or managed:N, where N is
    /// the number of a GPU
    #[arg(long, value_name = "KIND", default_value_t = Memory::Shared)]
    pub(crate) memory: Memory,
}

impl Common {
    /// The seed of operation `k`.
    pub(crate) fn seed(&self, k: u64) -> u64 {
        self.seed.wrapping_add(k)
    }

    pub(crate) fn timeout(&self) -> Duration {
        Duration::from_secs(self.timeout.get())
    }
}

/// What those that offer memory take.
#[derive(Debug, clap::Args)]
pub(crate) struct Offer {
    /// Bytes of each operation; several numbers, with commas between, are as many descriptors
    #[arg(long, value_name = "N", required = true, value_delimiter = ',')]
    bytes: Vec<NonZeroU64>,
    /// How many operations to offer
    #[arg(long, value_name = "K", default_value = "1")]
    pub(crate) count: NonZeroU32,
    #[command(flatten)]
    pub(crate) common: Common,
}

impl Offer {
    /// The size of each descriptor.
    pub(crate) fn sizes(&self) -> Vec<u64> {
        self.bytes.iter().map(|bytes| bytes.get()).collect()
    }
}
