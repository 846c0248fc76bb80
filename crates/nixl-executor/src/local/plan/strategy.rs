//! Copy strategies, and their applicability between two kinds of memory.

use std::borrow::Cow;
use std::fmt;

use serde::{Deserialize, Serialize};

use crate::local::MemoryKind;

/// A way to run a plan.
#[derive(Clone, Copy, Debug, Deserialize, Eq, Hash, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum Strategy {
    /// The processor copies, on one thread or, for large copies, on several.
    Memcpy,
    /// One asynchronous copy of the driver for each chunk.
    Copies,
    /// One call of the driver for all chunks (`cuMemcpyBatchAsync`).
    Batch,
    /// One kernel reads and writes all chunks, over PCIe if one side is pinned.
    Kernel,
    /// A kernel packs the chunks on the GPU, and copies carry them, slice by slice; or the other way round.
    PackedCopy,
    /// Through a ring of pinned slots, the processor copying on the host's side.
    PinnedRing,
    /// From GPU to GPU through pinned memory.
    ThroughPinned,
}

impl Strategy {
    /// All of them.
    pub const ALL: [Self; 7] = [
        Self::Memcpy,
        Self::Copies,
        Self::Batch,
        Self::Kernel,
        Self::PackedCopy,
        Self::PinnedRing,
        Self::ThroughPinned,
    ];

    /// The name in plans and tuning files.
    pub fn name(self) -> &'static str {
        match self {
            Self::Memcpy => "memcpy",
            Self::Copies => "copies",
            Self::Batch => "batch",
            Self::Kernel => "kernel",
            Self::PackedCopy => "packed-copy",
            Self::PinnedRing => "pinned-ring",
            Self::ThroughPinned => "through-pinned",
        }
    }

    /// Whether it merges contiguous chunks into one copy.
    pub(crate) fn joins_pieces(self) -> bool {
        matches!(self, Self::PackedCopy | Self::PinnedRing | Self::ThroughPinned)
    }

    /// Whether this strategy can copy from `src` to `dst` with the GPUs' capabilities. Total: every pair of memories has an
    /// answer for every strategy, and at least one strategy unless a GPU is missing.
    ///
    /// # Errors
    ///
    /// The reason against it.
    pub fn check(
        self,
        src: MemoryKind,
        dst: MemoryKind,
        can: &GpuCapabilities,
    ) -> Result<(), Cow<'static, str>> {
        use MemoryKind::{Gpu, Pageable, Pinned};
        for kind in [src, dst] {
            if let Gpu(ordinal) = kind
                && ordinal >= can.gpus
            {
                return Err(format!("there is no {kind}: {} GPUs are there", can.gpus).into());
            }
        }
        let both_host = src.is_host() && dst.is_host();
        let pageable = src == Pageable || dst == Pageable;
        let (same_gpu, two_gpus) = match (src, dst) {
            (Gpu(a), Gpu(b)) => (a == b, a != b),
            _ => (false, false),
        };
        let pinned = src == Pinned || dst == Pinned;
        match self {
            Self::Memcpy if both_host => Ok(()),
            Self::Memcpy => Err("the processor cannot reach GPU memory".into()),
            _ if both_host => Err("no GPU takes part".into()),
            Self::PinnedRing if pageable => Ok(()),
            Self::PinnedRing => Err("neither side is pageable".into()),
            _ if pageable => Err("a GPU cannot reach pageable memory without blocking".into()),
            Self::ThroughPinned if two_gpus => Ok(()),
            Self::ThroughPinned => Err("not between two GPUs".into()),
            _ if two_gpus && !can.can_reach(src, dst) => {
                Err("the two GPUs cannot reach each other's memory".into())
            }
            Self::Copies => Ok(()),
            Self::Batch if can.batch => Ok(()),
            Self::Batch => Err("the driver has no cuMemcpyBatchAsync".into()),
            Self::Kernel | Self::PackedCopy if !can.kernel => {
                Err("the copy kernel could not be loaded".into())
            }
            Self::Kernel => Ok(()),
            Self::PackedCopy if pinned => Ok(()),
            Self::PackedCopy => {
                debug_assert!(same_gpu || two_gpus);
                Err("between GPUs a kernel copies directly".into())
            }
        }
    }
}

impl fmt::Display for Strategy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Capabilities of a machine's GPUs.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct GpuCapabilities {
    pub(crate) gpus: u32,
    pub(crate) batch: bool,
    pub(crate) kernel: bool,
    pub(crate) peers: Vec<(u32, u32)>,
}

impl GpuCapabilities {
    fn can_reach(&self, a: MemoryKind, b: MemoryKind) -> bool {
        match (a, b) {
            (MemoryKind::Gpu(a), MemoryKind::Gpu(b)) => a == b || self.reach_each_other(a, b),
            _ => true,
        }
    }

    /// Whether two different GPUs reach each other's memory.
    pub(crate) fn reach_each_other(&self, a: u32, b: u32) -> bool {
        self.peers.contains(&(a.min(b), a.max(b)))
    }

    /// So many GPUs, with ordinals from 0, that copy one range at a time and reach no memory of each other.
    #[must_use]
    pub fn new(gpus: u32) -> Self {
        Self { gpus, ..Self::default() }
    }

    /// Sets whether the driver has `cuMemcpyBatchAsync`.
    #[must_use]
    pub fn with_batch(mut self, batch: bool) -> Self {
        self.batch = batch;
        self
    }

    /// Sets whether the copy kernel is loaded.
    #[must_use]
    pub fn with_kernel(mut self, kernel: bool) -> Self {
        self.kernel = kernel;
        self
    }

    /// Sets the pairs of ordinals, the smaller first, that reach each other's memory.
    #[must_use]
    pub fn with_peers(mut self, peers: impl Into<Vec<(u32, u32)>>) -> Self {
        self.peers = peers.into();
        self
    }

    /// The number of GPUs.
    #[must_use]
    pub fn gpus(&self) -> u32 {
        self.gpus
    }

    /// The driver has `cuMemcpyBatchAsync`.
    #[must_use]
    pub fn batch(&self) -> bool {
        self.batch
    }

    /// The copy kernel is loaded.
    #[must_use]
    pub fn kernel(&self) -> bool {
        self.kernel
    }

    /// Pairs of ordinals, the smaller first, that reach each other's memory.
    #[must_use]
    pub fn peers(&self) -> &[(u32, u32)] {
        &self.peers
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kinds() -> Vec<MemoryKind> {
        vec![MemoryKind::Pageable, MemoryKind::Pinned, MemoryKind::Gpu(0), MemoryKind::Gpu(1)]
    }

    #[test]
    fn every_pair_has_a_strategy_whatever_the_driver_lacks() {
        for batch in [false, true] {
            for kernel in [false, true] {
                for peers in [vec![], vec![(0, 1)]] {
                    let can = GpuCapabilities { gpus: 2, batch, kernel, peers };
                    for src in kinds() {
                        for dst in kinds() {
                            let some =
                                Strategy::ALL.iter().any(|s| s.check(src, dst, &can).is_ok());
                            assert!(some, "{src} to {dst} with {can:?}");
                        }
                    }
                }
            }
        }
    }

    #[test]
    fn a_gpu_that_is_not_there_has_none_and_is_named() {
        let can = GpuCapabilities { gpus: 1, batch: true, kernel: true, peers: vec![] };
        for strategy in Strategy::ALL {
            for host in [MemoryKind::Pageable, MemoryKind::Pinned, MemoryKind::Gpu(0)] {
                let why = strategy.check(host, MemoryKind::Gpu(1), &can).unwrap_err();
                assert!(why.contains("cuda:1"), "{why}");
            }
        }
    }

    #[test]
    fn gpus_without_peer_access_go_through_pinned_memory() {
        let can = GpuCapabilities { gpus: 2, batch: true, kernel: true, peers: vec![] };
        let (a, b) = (MemoryKind::Gpu(0), MemoryKind::Gpu(1));
        let available: Vec<_> =
            Strategy::ALL.into_iter().filter(|s| s.check(a, b, &can).is_ok()).collect();
        assert_eq!(available, [Strategy::ThroughPinned]);
    }
}
