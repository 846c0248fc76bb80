//! Copies between GPU memory and slots.
#![allow(unsafe_code, reason = "queues copies by address")]

use std::mem;
use std::sync::Arc;
use std::task::Poll;

use nixl_descriptor::DescriptorList;

use super::cut::Cut;
use super::pool::Slot;
use crate::local::{CopyOp, GpuError, Gpus, Lane, Mark, Seams, starts};

/// A queue of copies between the GPU memory of one operation and slots.
///
/// Made for memory that the operation leases, or an offer's claim holds, for as long as this lives; whoever drops this
/// with copies [queued](Self::is_quiet) never gives that memory back.
pub(super) struct Copier {
    /// `Some` until dropped.
    lane: Option<Box<dyn Lane>>,
    batch: bool,
    list: DescriptorList,
    seams: Seams,
    queued: usize,
    /// The GPU failed. What was queued may or may not have run, and no more will.
    lost: bool,
}

/// Copies of one chunk. The slot is the copier's until they are done.
pub(super) struct Copying {
    mark: Box<dyn Mark>,
    /// Some copies could not be queued; those that were must be waited for all the same.
    failed: Option<GpuError>,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Towards {
    Slot,
    Gpu,
}

impl Copier {
    /// From here on one call queues all copies of a chunk, where the driver has it.
    const BATCH: usize = 4;

    pub(super) fn new(
        gpus: &Arc<dyn Gpus>,
        gpu: u32,
        list: DescriptorList,
    ) -> Result<Self, GpuError> {
        let batch = gpus.abilities().batch;
        let seams = Seams::of(starts(&list));
        Ok(Self { lane: Some(gpus.lane(gpu)?), batch, list, seams, queued: 0, lost: false })
    }

    /// Queues the copies of a chunk, whose bytes lie densely in `slot`.
    ///
    /// # Errors
    ///
    /// If the GPU is lost. The slot must be given up then.
    pub(super) fn start(
        &mut self,
        cut: &Cut,
        chunk: u64,
        slot: &Slot,
        towards: Towards,
    ) -> Result<Copying, GpuError> {
        let lost = || GpuError::Unsupported { reason: "the lane has been given back".to_owned() };
        let lane = self.lane.as_mut().ok_or_else(lost)?;
        if cut.len(chunk) > slot.len() {
            let reason = format!("{} bytes do not fit a slot of {}", cut.len(chunk), slot.len());
            return Err(GpuError::Unsupported { reason });
        }
        let ops = ops((&self.list, &self.seams), cut, chunk, slot.address(), towards);
        // SAFETY (of both calls): the copies stay inside the list, which the operation leases until all of them are
        // done, and inside the slot, which nobody else uses until then.
        let queued = match self.batch && ops.len() > Self::BATCH {
            // SAFETY: above.
            true => unsafe { lane.batch(&ops) },
            // SAFETY: above.
            false => unsafe { lane.copies(&ops) },
        };
        match lane.mark() {
            Ok(mark) => {
                self.queued += 1;
                Ok(Copying { mark, failed: queued.err() })
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
        let reached = copying.mark.reached();
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
        // A lane goes back to its pool only when its work is known to be done.
        if let Some(lane) = self.lane.take().filter(|_| self.lost || !self.is_quiet()) {
            mem::forget(lane);
        }
    }
}

fn ops(
    (list, seams): (&DescriptorList, &Seams),
    cut: &Cut,
    chunk: u64,
    slot: u64,
    towards: Towards,
) -> Vec<CopyOp> {
    let mut ops: Vec<CopyOp> = Vec::new();
    let mut at = slot;
    for piece in cut.pieces(chunk) {
        let Some(descriptor) = list.as_slice().get(piece.index) else { continue };
        let memory = descriptor.address() + piece.offset;
        let (src, dst) = match towards {
            Towards::Slot => (memory, at),
            Towards::Gpu => (at, memory),
        };
        at += piece.len;
        // The slot's side is dense: neighbours in memory become one copy.
        CopyOp { src, dst, len: piece.len }.append(&mut ops, seams);
    }
    ops
}
