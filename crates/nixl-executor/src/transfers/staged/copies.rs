//! GPU copies between device memory and slots.
#![allow(unsafe_code, reason = "queues copies by address")]

use std::mem;
use std::sync::Arc;
use std::task::Poll;

use nixl_descriptor::DescriptorList;
use nixl_device::SharedError;
use nixl_ops::TransportError;

use super::chunking::Chunking;
use super::granted::SourceGrant;
use crate::local::{
    AllocationBoundaries, BlockCopy, CopyOp, Costs, GpuBackend, GpuCapabilities, GpuError,
    GpuEvent, GpuStream, MemoryKind, Plan, Strategy, StrategyPolicy, starts,
};
use crate::sessions::failed_by;

/// A queue of copies between the GPU memory of one operation and slots.
///
/// Made for memory that the operation leases, or an offer's claim holds, for as long as this lives; a caller that drops this
/// with copies [queued](Self::is_quiet) never gives that memory back, nor the slots.
pub(super) struct Copier {
    /// `Some` until dropped.
    gpu_stream: Option<Box<dyn GpuStream>>,
    batch: bool,
    /// For the choice among copies and kernels where both sides are memory of GPUs.
    chooser: Option<Box<Chooser>>,
    list: DescriptorList,
    boundaries: AllocationBoundaries,
    /// Of blocks that are copied for a reader. Field order: after the stream, whose work may use them.
    grant: Option<Box<SourceGrant>>,
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
            chooser: None,
            list,
            boundaries,
            grant: None,
            queued: 0,
            lost: false,
        })
    }

    /// The same for slots that are memory of a GPU: these costs choose copies or a kernel for each chunk, of which the pieces may be
    /// many and short.
    pub(super) fn between_gpus(mut self, gpu: u32, can: &GpuCapabilities, costs: &Costs) -> Self {
        let (costs, can) = (costs.clone(), can.clone());
        self.chooser = Some(Box::new(Chooser { memory: MemoryKind::Gpu(gpu), can, costs }));
        self
    }

    /// The same for the blocks of a grant, if there is one: each copy out of them is begun and ended under it.
    pub(super) fn of_grant(mut self, grant: Option<SourceGrant>) -> Self {
        self.grant = grant.map(Box::new);
        self
    }

    /// Whether the grant of the memory stands, if it is granted.
    ///
    /// # Errors
    ///
    /// Why it does not.
    pub(super) fn check_grant(&self) -> Result<(), TransportError> {
        self.grant.as_ref().map_or(Ok(()), |grant| grant.check())
    }

    /// Queues the copies of a chunk, whose bytes lie densely in a slot of this side, or of the peer where it is open here: memory at
    /// this address, of this length.
    ///
    /// # Errors
    ///
    /// If the GPU is lost: the slot must be given up then. Or if the grant of the memory does not stand: then nothing was queued.
    pub(super) fn start(
        &mut self,
        chunking: &Chunking,
        chunk: u64,
        slot: (u64, u64),
        towards: CopyDirection,
    ) -> Result<Copying, TransportError> {
        self.grant.as_mut().map_or(Ok(()), |grant| grant.begin())?;
        self.queue(chunking, chunk, slot, towards).map_err(|error| {
            // The GPU's error goes before. A lost one may still read the blocks, so they stay leased.
            let grant = self.grant.as_mut().filter(|_| !self.lost);
            let _ = grant.map(|grant| grant.copied());
            engine_failed("copy", &error)
        })
    }

    fn queue(
        &mut self,
        chunking: &Chunking,
        chunk: u64,
        (slot, slot_len): (u64, u64),
        towards: CopyDirection,
    ) -> Result<Copying, GpuError> {
        let lost =
            || GpuError::Unsupported { reason: SharedError::text("the GPU stream was released") };
        let gpu_stream = self.gpu_stream.as_mut().ok_or_else(lost)?;
        if chunking.len(chunk) > slot_len {
            let reason = format!("{} bytes do not fit a slot of {slot_len}", chunking.len(chunk));
            return Err(GpuError::Unsupported { reason: SharedError::text(reason) });
        }
        let ops = ops((&self.list, &self.boundaries), chunking, chunk, slot, towards);
        // SAFETY (of all calls): the copies stay inside the list, which the operation leases until all of them are
        // done, and inside the slot, which the caller has for itself, or which is memory of a peer that the caller keeps open.
        let queued = match &self.chooser {
            Some(chooser) => {
                let plans = chooser.plans(ops, &self.boundaries)?;
                plans.iter().try_for_each(|plan| match plan.strategy {
                    // SAFETY: above.
                    Strategy::Kernel => unsafe { gpu_stream.launch_copy_kernel(&plan.blocks) },
                    // SAFETY: above.
                    Strategy::Batch => unsafe { gpu_stream.memcpy_batch_async(&plan.ops()) },
                    // SAFETY: above.
                    _ => unsafe { gpu_stream.memcpy_async(&plan.ops()) },
                })
            }
            // SAFETY: above.
            None if self.batch && ops.len() > Self::BATCH => unsafe {
                gpu_stream.memcpy_batch_async(&ops)
            },
            // SAFETY: above.
            None => unsafe { gpu_stream.memcpy_async(&ops) },
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
    /// If some could not be queued, or the GPU is lost: the slot must be given up then. Or if the grant of the memory no longer stands.
    pub(super) fn poll(&mut self, copying: &mut Copying) -> Poll<Result<(), TransportError>> {
        let reached = copying.event.is_complete();
        if reached == Ok(false) {
            return Poll::Pending;
        }
        self.queued = self.queued.saturating_sub(1);
        self.lost |= reached.is_err();
        // The bytes have left the memory, and then its grant is looked at.
        let grant = self.grant.as_mut().filter(|_| !self.lost);
        let stands = grant.map_or(Ok(()), |grant| grant.copied());
        let copied = reached.and_then(|_| copying.failed.take().map_or(Ok(()), Err));
        Poll::Ready(copied.map_err(|error| engine_failed("copy", &error)).and(stands))
    }

    /// Whether the GPU failed, so that it is not known what it still uses.
    pub(super) fn is_lost(&self) -> bool {
        self.lost
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

/// The choice of a strategy for copies between memories of GPUs.
struct Chooser {
    memory: MemoryKind,
    can: GpuCapabilities,
    costs: Costs,
}

impl Chooser {
    /// How to carry out copies, those of one length after those of another.
    fn plans(
        &self,
        mut ops: Vec<CopyOp>,
        boundaries: &AllocationBoundaries,
    ) -> Result<Vec<Plan>, GpuError> {
        ops.sort_by_key(|op| op.len);
        let groups = ops.chunk_by(|a, b| a.len == b.len);
        // Where the slot is another GPU's, the cost differs, and not the order of the strategies.
        let kinds = (self.memory, self.memory);
        let plan = |group: &[CopyOp]| {
            let blocks = BlockCopy::of_ops(group, boundaries);
            Plan::of(blocks, kinds, &self.can, &self.costs, &StrategyPolicy::Auto)
                .map_err(|e| GpuError::Unsupported { reason: e.into() })
        };
        groups.map(plan).collect()
    }
}

/// A GPU failed.
pub(super) fn engine_failed(call: &'static str, error: &GpuError) -> TransportError {
    failed_by(call, error.clone())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn many_short_pieces_are_copied_by_a_kernel_and_long_ones_by_copies() {
        let can = GpuCapabilities { gpus: 1, batch: true, kernel: true, peers: Vec::new() };
        let strategies = |ops: Vec<CopyOp>, can: &GpuCapabilities| -> Vec<_> {
            let (memory, costs) = (MemoryKind::Gpu(0), Costs::default());
            let chooser = Chooser { memory, can: can.clone(), costs };
            let bytes: u64 = ops.iter().map(|op| op.len).sum();
            let plans = chooser.plans(ops, &AllocationBoundaries::default()).unwrap();
            assert_eq!(plans.iter().map(|plan| plan.bytes).sum::<u64>(), bytes);
            plans.iter().map(|plan| (plan.strategy, plan.copies)).collect()
        };
        let op = |index: u64, len| CopyOp { src: index << 24, dst: (1 << 40) + index * len, len };
        let blocks = |count: u64, len| (0..count).map(|index| op(index, len)).collect::<Vec<_>>();
        assert_eq!(strategies(blocks(1, 8 << 20), &can), [(Strategy::Copies, 1)]);
        assert_eq!(strategies(blocks(2048, 4096), &can), [(Strategy::Kernel, 2048)]);
        // The last piece of a chunk is often shorter.
        let uneven = [blocks(2047, 4096), vec![op(5000, 100)]].concat();
        let found = strategies(uneven, &can);
        assert_eq!(found, [(Strategy::Copies, 1), (Strategy::Kernel, 2047)]);
        let without = GpuCapabilities { kernel: false, ..can };
        assert_eq!(strategies(blocks(2048, 4096), &without), [(Strategy::Batch, 2048)]);
    }
}
