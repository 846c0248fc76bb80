//! Rings of pinned slots: pageable memory to a GPU and back, and between GPUs without peer access.
//!
//! One slot fills while others drain. A drained slot is reused at once.
#![allow(unsafe_code, reason = "queues copies by address")]

use std::collections::VecDeque;
use std::sync::Arc;
use std::task::Poll;

use crate::local::gpu::gpu_backend::{
    GpuBackend, GpuEvent, GpuStream, StreamHandle, TransferBuffer,
};
use crate::local::host::host_copy::{CacheHint, CopyPool, Copying, Work, copy};
use crate::local::host::progress::Reporter;
use crate::local::plan::block_copy::CopyOp;
use crate::local::plan::boundaries::AllocationBoundaries;
use crate::local::{GpuError, MemoryKind};

/// The largest slot: 80 us at 55 GB/s, long enough to hide its fixed costs. Eight slots of 2 MiB were slower (22 against 29
/// GB/s for 256 MiB).
const SLOT: u64 = 4 * 1024 * 1024;
/// Slots of one transfer: one being filled, one crossing, one being drained, one spare.
const SLOTS: usize = 4;
/// Bytes of the first load. Loads double up to a slot, and the last ones are short again: one side is idle during the first
/// load, the other during the last. The polling thread copies a load of this size itself, within 55 us: waking a thread takes
/// longer.
const FIRST: u64 = 512 * 1024;

/// A transfer through pinned slots.
pub(crate) struct Ring {
    /// Loads without a slot yet.
    loads: VecDeque<Vec<CopyOp>>,
    slots: Vec<Slot>,
    fill: Side,
    drain: Side,
    boundaries: AllocationBoundaries,
    pool: Arc<CopyPool>,
    reporter: Option<Arc<Reporter>>,
    /// There is only one load.
    is_short: bool,
    /// No load begins and no filled slot drains: the transfer failed or was abandoned.
    stopped: bool,
    /// The first error.
    error: Option<GpuError>,
}

/// The access to one side of the slots.
enum Side {
    /// By the processor.
    Host(CacheHint),
    /// By a stream, in order.
    Gpu { gpu_stream: Box<dyn GpuStream>, queued: u64 },
}

struct Slot {
    buffer: Box<dyn TransferBuffer>,
    state: SlotState,
}

enum SlotState {
    Idle,
    Filling { load: Vec<CopyOp>, done: Done },
    Draining { bytes: u64, done: Done },
}

enum Done {
    Now,
    Host(Copying),
    /// At this point of the stream's work.
    Gpu {
        event: Box<dyn GpuEvent>,
        turn: u64,
    },
}

impl Done {
    /// Queries the GPU only if this is `first` on its stream: a query takes 2 us.
    fn is_done(&self, first: Option<u64>) -> Result<bool, GpuError> {
        match self {
            Self::Now => Ok(true),
            Self::Host(copying) => Ok(copying.is_done()),
            Self::Gpu { turn, .. } if Some(*turn) != first => Ok(false),
            Self::Gpu { event, .. } => event.is_complete(),
        }
    }

    fn turn(&self) -> Option<u64> {
        match self {
            Self::Gpu { turn, .. } => Some(*turn),
            Self::Now | Self::Host(_) => None,
        }
    }
}

/// The begin of a hop, and the reason if part of it could not begin.
struct Begun {
    done: Done,
    error: Option<GpuError>,
}

impl Ring {
    /// Prepares the slots; nothing moves yet.
    pub(crate) fn new(
        gpus: &dyn GpuBackend,
        (src, dst): (MemoryKind, MemoryKind),
        (ops, boundaries): (&[CopyOp], &AllocationBoundaries),
        pool: Arc<CopyPool>,
        reporter: Option<Arc<Reporter>>,
        after: Option<StreamHandle>,
    ) -> Result<Self, GpuError> {
        let loads = pack(ops);
        let side = |kind, target| -> Result<Side, GpuError> {
            let MemoryKind::Gpu(gpu) = kind else { return Ok(Side::Host(target)) };
            let mut gpu_stream = gpus.create_stream(gpu)?;
            if let Some(stream) = after {
                gpu_stream.wait_stream(stream)?;
            }
            Ok(Side::Gpu { gpu_stream, queued: 0 })
        };
        // The GPU reads a slot, best from the caches; bytes drained from a slot are for later.
        let (fill, drain) = (side(src, CacheHint::Cached)?, side(dst, CacheHint::Memory)?);
        let near = match (src, dst) {
            (MemoryKind::Gpu(gpu), _) | (_, MemoryKind::Gpu(gpu)) => gpu,
            _ => 0,
        };
        let is_short = loads.len() <= 1;
        let by_host = matches!(fill, Side::Host(_)) || matches!(drain, Side::Host(_));
        if by_host && !is_short {
            pool.wake();
        }
        // Few lengths, so the pool is likely to have one.
        let longest = loads.iter().map(|load| bytes(load)).max().unwrap_or(0);
        let len = longest.next_power_of_two().clamp(FIRST, SLOT) as usize;
        let mut slots = Vec::with_capacity(SLOTS);
        while slots.len() < SLOTS.min(loads.len()) {
            match gpus.pinned(near, len) {
                Ok(buffer) => slots.push(Slot { buffer, state: SlotState::Idle }),
                Err(error) if slots.is_empty() => return Err(error),
                // Fewer slots are slower, but others may hold the rest for long.
                Err(_) => break,
            }
        }
        let (stopped, error) = (false, None);
        let boundaries = boundaries.clone();
        Ok(Self { loads, slots, fill, drain, boundaries, pool, reporter, is_short, stopped, error })
    }

    /// Whether one load is all.
    pub(crate) fn is_short(&self) -> bool {
        self.is_short
    }

    /// Advances every slot as far as possible. Returns whether one advanced, and the result once nothing is in flight.
    ///
    /// # Safety
    ///
    /// The ranges of the copies meet the contract of [`GpuStream::memcpy_async`] until there is a result.
    pub(crate) unsafe fn poll(&mut self) -> (bool, Poll<Result<(), GpuError>>) {
        let (mut moved, mut busy) = (false, false);
        let first = self.first();
        for index in 0..self.slots.len() {
            // SAFETY: the caller vouches for the ranges; the slot is this ring's own.
            match unsafe { self.advance(index, first, &mut moved) } {
                Ok(in_use) => busy |= in_use,
                Err(error) => {
                    self.fail(error);
                    moved = true;
                    // Its work cannot be queried any more; the driver reports it as ended.
                    self.slots[index].state = SlotState::Idle;
                }
            }
        }
        if busy {
            return (moved, Poll::Pending);
        }
        (moved, Poll::Ready(self.error.take().map_or(Ok(()), Err)))
    }

    /// Begins nothing further.
    pub(crate) fn stop(&mut self) {
        self.stopped = true;
    }

    fn fail(&mut self, error: GpuError) {
        self.error.get_or_insert(error);
        self.stop();
    }

    /// The first work on the streams of the two sides.
    fn first(&self) -> (Option<u64>, Option<u64>) {
        let filling = |slot: &Slot| match &slot.state {
            SlotState::Filling { done, .. } => done.turn(),
            _ => None,
        };
        let draining = |slot: &Slot| match &slot.state {
            SlotState::Draining { done, .. } => done.turn(),
            _ => None,
        };
        let slots = &self.slots;
        (slots.iter().filter_map(filling).min(), slots.iter().filter_map(draining).min())
    }

    /// Advances one slot. Returns whether it is in use.
    ///
    /// # Safety
    ///
    /// As for [`poll`](Self::poll).
    unsafe fn advance(
        &mut self,
        index: usize,
        first: (Option<u64>, Option<u64>),
        moved: &mut bool,
    ) -> Result<bool, GpuError> {
        loop {
            let alone = self.is_short;
            let slot = &mut self.slots[index];
            match &mut slot.state {
                SlotState::Idle => {
                    if self.stopped {
                        return Ok(false);
                    }
                    let Some(load) = self.loads.pop_front() else { return Ok(false) };
                    let into = rebased(
                        &load,
                        slot.buffer.address(),
                        CopyDirection::Slot,
                        &self.boundaries,
                    );
                    // SAFETY: the caller vouches for the sources. The load fits the slot, which `GpuBackend::pinned` gave to this ring
                    // alone, and it is idle.
                    let begun = unsafe { start(&mut self.fill, into, &self.pool, alone) }?;
                    slot.state = SlotState::Filling { load, done: begun.done };
                    begun.error.into_iter().for_each(|error| self.fail(error));
                }
                SlotState::Filling { load, done } => {
                    if !done.is_done(first.0)? {
                        return Ok(true);
                    }
                    if self.stopped {
                        slot.state = SlotState::Idle;
                        return Ok(false);
                    }
                    let out = rebased(
                        load,
                        slot.buffer.address(),
                        CopyDirection::Target,
                        &self.boundaries,
                    );
                    let bytes = bytes(&out);
                    // SAFETY: the caller vouches for the targets. The slot is this ring's alone; it is filled, and not
                    // written now.
                    let begun = unsafe { start(&mut self.drain, out, &self.pool, alone) }?;
                    slot.state = SlotState::Draining { bytes, done: begun.done };
                    begun.error.into_iter().for_each(|error| self.fail(error));
                }
                SlotState::Draining { bytes, done } => {
                    if !done.is_done(first.1)? {
                        return Ok(true);
                    }
                    if let Some(reporter) = self.reporter.as_ref().filter(|_| !self.stopped) {
                        reporter.advance(*bytes);
                    }
                    slot.state = SlotState::Idle;
                }
            }
            *moved = true;
        }
    }
}

/// # Safety
///
/// As for [`GpuStream::memcpy_async`], until the result reports the end.
unsafe fn start(
    side: &mut Side,
    ops: Vec<CopyOp>,
    pool: &CopyPool,
    alone: bool,
) -> Result<Begun, GpuError> {
    match side {
        Side::Host(target) => {
            let target = *target;
            if alone {
                for op in ops {
                    // SAFETY: the caller vouches for the ranges; on this side they are the host's.
                    unsafe { copy(op, target) };
                }
                return Ok(Begun { done: Done::Now, error: None });
            }
            let work = Work { ops: &ops, target, waker: None, reporter: None };
            // SAFETY: the caller vouches for the ranges; on this side they are the host's.
            let copying = unsafe { pool.start(work) };
            Ok(Begun { done: Done::Host(copying), error: None })
        }
        Side::Gpu { gpu_stream, queued } => {
            // SAFETY: the caller vouches for the ranges.
            let outcome = unsafe { gpu_stream.memcpy_async(&ops) };
            // Even after a failure to queue some, the queued ones must be waited for.
            let event = gpu_stream.record_event()?;
            *queued += 1;
            Ok(Begun { done: Done::Gpu { event, turn: *queued }, error: outcome.err() })
        }
    }
}

fn bytes(ops: &[CopyOp]) -> u64 {
    ops.iter().map(|op| op.len).sum()
}

#[derive(Clone, Copy)]
enum CopyDirection {
    Slot,
    Target,
}

/// The copies of a load with the slot on one side.
fn rebased(
    load: &[CopyOp],
    slot: u64,
    towards: CopyDirection,
    boundaries: &AllocationBoundaries,
) -> Vec<CopyOp> {
    let mut at = slot;
    let mut ops: Vec<CopyOp> = Vec::with_capacity(load.len());
    for op in load {
        let (src, dst) = match towards {
            CopyDirection::Slot => (op.src, at),
            CopyDirection::Target => (at, op.dst),
        };
        at += op.len;
        // The slot's side is dense: neighbours on the other side become one copy.
        CopyOp { src, dst, len: op.len }.append(&mut ops, boundaries);
    }
    ops
}

/// Splits and groups copies into loads of at most a slot.
fn pack(ops: &[CopyOp]) -> VecDeque<Vec<CopyOp>> {
    let mut left = bytes(ops);
    let mut loads = VecDeque::new();
    let (mut load, mut most) = (Vec::new(), FIRST);
    let mut room = length(most, left);
    for op in ops {
        let mut rest = *op;
        while rest.len > 0 {
            let len = rest.len.min(room);
            load.push(CopyOp { len, ..rest });
            rest = CopyOp { src: rest.src + len, dst: rest.dst + len, len: rest.len - len };
            room -= len;
            left -= len;
            if room == 0 {
                loads.push_back(std::mem::take(&mut load));
                most = (2 * most).min(SLOT);
                room = length(most, left);
            }
        }
    }
    if !load.is_empty() {
        loads.push_back(load);
    }
    loads
}

/// Bytes of the next load, when `left` are left: half of them towards the end, in whole pages.
fn length(most: u64, left: u64) -> u64 {
    const PAGE: u64 = 4096;
    (left / 2).next_multiple_of(PAGE).clamp(FIRST, most)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn loads_fit_their_slot_and_miss_nothing(
            lens in proptest::collection::vec(1u64..9_000_000, 1..12),
        ) {
            let mut at = 0;
            let ops: Vec<_> = lens
                .iter()
                .map(|len| {
                    let op = CopyOp { src: at, dst: (1 << 40) + at, len: *len };
                    at += len + 5;
                    op
                })
                .collect();
            let loads = pack(&ops);
            let sizes: Vec<u64> =
                loads.iter().map(|load| bytes(load)).collect();
            prop_assert!(sizes.iter().all(|size| (1..=SLOT).contains(size)));
            // It begins and ends with short ones.
            prop_assert!(sizes[0] <= FIRST && sizes[sizes.len() - 1] <= FIRST);
            prop_assert!(sizes.windows(2).all(|w| w[1] <= 2 * w[0]));
            let mut pieces = loads.into_iter().flatten();
            for op in ops {
                let mut done = 0;
                while done < op.len {
                    let piece = pieces.next().unwrap();
                    prop_assert_eq!((piece.src, piece.dst), (op.src + done, op.dst + done));
                    done += piece.len;
                }
                prop_assert_eq!(done, op.len);
            }
            prop_assert_eq!(pieces.next(), None);
        }
    }
}
