//! GPU copies between device memory and pinned slots.
#![allow(unsafe_code, reason = "queues copies by address")]

use std::mem;
use std::sync::Arc;
use std::task::Poll;

use nixl_descriptor::DescriptorList;
use nixl_ops::TransportError;

use super::chunking::Chunking;
use crate::local::{
    AllocationBoundaries, CopyOp, GpuBackend, GpuError, GpuEvent, GpuStream, starts,
};
use crate::pinned_slots::Slot;
use crate::sessions::failed;

/// A queue of copies between the GPU memory of one operation and slots.
///
/// Made for memory that the operation leases, or an offer's claim holds, for as long as this lives; a caller that drops this
/// with copies [queued](Self::is_quiet) never gives that memory back.
pub(super) struct Copier {
    /// `Some` until dropped.
    gpu_stream: Option<Box<dyn GpuStream>>,
    batch: bool,
    list: DescriptorList,
    boundaries: AllocationBoundaries,
    queued: usize,
    /// The GPU failed. What was queued may or may not have run, and no more will.
    lost: bool,
}

/// Copies of one chunk. The slot is the copier's until they are done.
pub(super) struct Copying {
    event: Box<dyn GpuEvent>,
    /// Some copies could not be queued; those that were must be waited for all the same.
    failed: Option<GpuError>,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum CopyDirection {
    Slot,
    Gpu,
}

impl Copier {
    /// From here on one call queues all copies of a chunk, where the driver has it.
    const BATCH: usize = 4;

    pub(super) fn new(
        gpus: &Arc<dyn GpuBackend>,
        gpu: u32,
        list: DescriptorList,
    ) -> Result<Self, GpuError> {
        let batch = gpus.capabilities().batch;
        let boundaries = AllocationBoundaries::of(starts(&list));
        Ok(Self {
            gpu_stream: Some(gpus.create_stream(gpu)?),
            batch,
            list,
            boundaries,
            queued: 0,
            lost: false,
        })
    }

    /// Queues the copies of a chunk, whose bytes lie densely in `slot`.
    ///
    /// # Errors
    ///
    /// If the GPU is lost. The slot must be given up then.
    pub(super) fn start(
        &mut self,
        chunking: &Chunking,
        chunk: u64,
        slot: &Slot,
        towards: CopyDirection,
    ) -> Result<Copying, GpuError> {
        let lost = || GpuError::Unsupported { reason: "the lane has been given back".to_owned() };
        let gpu_stream = self.gpu_stream.as_mut().ok_or_else(lost)?;
        if chunking.len(chunk) > slot.len() {
            let reason =
                format!("{} bytes do not fit a slot of {}", chunking.len(chunk), slot.len());
            return Err(GpuError::Unsupported { reason });
        }
        let ops = ops((&self.list, &self.boundaries), chunking, chunk, slot.address(), towards);
        // SAFETY (of both calls): the copies stay inside the list, which the operation leases until all of them are
        // done, and inside the slot, which nothing else uses until then.
        let queued = match self.batch && ops.len() > Self::BATCH {
            // SAFETY: above.
            true => unsafe { gpu_stream.memcpy_batch_async(&ops) },
            // SAFETY: above.
            false => unsafe { gpu_stream.memcpy_async(&ops) },
        };
        match gpu_stream.record_event() {
            Ok(event) => {
                self.queued += 1;
                Ok(Copying { event, failed: queued.err() })
            }
            Err(error) => {
                self.lost = true;
                Err(error)
            }
        }
    }

    /// Whether copies are done. Not to be asked again once they are.
    ///
    /// # Errors
    ///
    /// If some could not be queued, or the GPU is lost. The slot must be given up then.
    pub(super) fn poll(&mut self, copying: &mut Copying) -> Poll<Result<(), GpuError>> {
        let reached = copying.event.is_complete();
        if reached == Ok(false) {
            return Poll::Pending;
        }
        self.queued = self.queued.saturating_sub(1);
        self.lost |= reached.is_err();
        reached?;
        Poll::Ready(copying.failed.take().map_or(Ok(()), Err))
    }

    /// Whether no copies are queued.
    pub(super) fn is_quiet(&self) -> bool {
        self.queued == 0
    }
}

impl Drop for Copier {
    fn drop(&mut self) {
        // A stream goes back to its pool only when its work is known to be done.
        if let Some(gpu_stream) = self.gpu_stream.take().filter(|_| self.lost || !self.is_quiet()) {
            mem::forget(gpu_stream);
        }
    }
}

fn ops(
    (list, boundaries): (&DescriptorList, &AllocationBoundaries),
    chunking: &Chunking,
    chunk: u64,
    slot: u64,
    towards: CopyDirection,
) -> Vec<CopyOp> {
    let mut ops: Vec<CopyOp> = Vec::new();
    let mut at = slot;
    for piece in chunking.pieces(chunk) {
        let Some(descriptor) = list.as_slice().get(piece.index) else { continue };
        let memory = descriptor.address() + piece.offset;
        let (src, dst) = match towards {
            CopyDirection::Slot => (memory, at),
            CopyDirection::Gpu => (at, memory),
        };
        at += piece.len;
        // The slot's side is dense: neighbours in memory become one copy.
        CopyOp { src, dst, len: piece.len }.append(&mut ops, boundaries);
    }
    ops
}

/// A GPU failed.
pub(super) fn engine_failed(call: &'static str, error: &GpuError) -> TransportError {
    failed(call, error.to_string())
}
