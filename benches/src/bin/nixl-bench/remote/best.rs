//! The driver's own copy of as many bytes, of which a transfer is a part at best.
#![allow(unsafe_code, reason = "copies by address")]

use anyhow::{Context as _, Result};
use nixl_descriptor::Region;
use nixl_executor::MemoryKind;

use super::case::Flow;
use super::memory::Memory;
use super::messages::Offer;
use crate::clock;
use crate::gpus::{Gpu, Gpus};

/// Memory of `cuMemAlloc` on the flow's GPUs, and pinned memory for the host's.
pub(crate) struct Best {
    /// The GPU that copies: the source's, or the only one.
    by: MemoryKind,
    src: Region,
    dst: Region,
}

impl Best {
    /// `None` between host memories, where no driver takes part.
    pub(crate) fn new(gpus: &Gpus, flow: Flow, bytes: usize) -> Result<Option<Self>> {
        let Some(ordinal) = flow.src.gpu().or(flow.dst.gpu()) else { return Ok(None) };
        let memory = |memory: Memory| {
            gpus.region(memory.gpu().map_or(MemoryKind::Pinned, MemoryKind::Gpu), bytes)
        };
        let (src, dst) = (memory(flow.src)?, memory(flow.dst)?);
        Ok(Some(Self { by: MemoryKind::Gpu(ordinal), src, dst }))
    }

    /// Nanoseconds of a copy until it is awaited, after some of `warm` bytes as transfers have them.
    pub(crate) fn copy(&self, gpus: &Gpus, bytes: usize, warm: usize) -> Result<u64> {
        let gpu = gpus.of(self.by)?;
        for _ in 0..Offer::WARM_UPS {
            self.once(gpu, warm)?;
        }
        let begun = clock::now();
        self.once(gpu, bytes)?;
        Ok(clock::now() - begun)
    }

    fn once(&self, gpu: &Gpu, bytes: usize) -> Result<()> {
        let bytes = bytes.min(self.src.len()).min(self.dst.len());
        let (dst, src) = (self.dst.address(), self.src.address());
        // SAFETY: both regions are this value's own and have as many bytes, and the copy is awaited below.
        unsafe { gpu.stream.copy_async(dst, src, bytes) }.context("the driver does not copy")?;
        Ok(gpu.stream.synchronize()?)
    }
}
