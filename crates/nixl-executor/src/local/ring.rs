//! Through pinned slots: pageable memory to a GPU and back, and between GPUs that cannot reach each other.
//!
//! While one slot is filled, others are drained. A slot is used again as soon as it is drained.
#![allow(unsafe_code, reason = "queues copies by address")]

use std::collections::VecDeque;
use std::sync::Arc;
use std::task::{Poll, Waker};

use super::block_copy::CopyOp;
use super::engine::{Buffer, Gpus, Lane, Mark};
use super::host_copy::{CopyPool, Copying, cut};
use super::{GpuError, MemoryKind};

/// Bytes of a slot: 80 us at 55 GB/s, long enough that its fixed costs do not show. Eight slots of 2 MiB were slower (22
/// against 29 GB/s for 256 MiB).
const SLOT: u64 = 4 * 1024 * 1024;
/// Slots of one transfer: one being filled, one crossing, one being drained, one spare.
const SLOTS: usize = 4;

/// A transfer through pinned slots.
pub(crate) struct Ring {
    /// Loads that no slot has taken yet.
    loads: VecDeque<Vec<CopyOp>>,
    slots: Vec<Slot>,
    fill: Side,
    drain: Side,
    pool: Arc<CopyPool>,
    waker: Waker,
    /// No further load is taken: the transfer failed or nobody wants it.
    stopped: Option<GpuError>,
}

/// How one side of the slots is reached.
enum Side {
    Host,
    Gpu(Box<dyn Lane>),
}

struct Slot {
    buffer: Box<dyn Buffer>,
    state: SlotState,
}

enum SlotState {
    Idle,
    Filling { load: Vec<CopyOp>, done: Done },
    Draining { done: Done },
}

enum Done {
    Host(Copying),
    Gpu(Box<dyn Mark>),
}

impl Done {
    fn is_done(&self) -> Result<bool, GpuError> {
        match self {
            Self::Host(copying) => Ok(copying.is_done()),
            Self::Gpu(mark) => mark.reached(),
        }
    }
}

impl Ring {
    /// Prepares the slots; nothing moves yet.
    pub(crate) fn new(
        gpus: &dyn Gpus,
        (src, dst): (MemoryKind, MemoryKind),
        ops: &[CopyOp],
        pool: Arc<CopyPool>,
        waker: Waker,
        after: Option<super::StreamHandle>,
    ) -> Result<Self, GpuError> {
        let loads = pack(ops);
        let side = |kind| -> Result<Side, GpuError> {
            let MemoryKind::Gpu(gpu) = kind else { return Ok(Side::Host) };
            let mut lane = gpus.lane(gpu)?;
            if let Some(stream) = after {
                lane.after(stream)?;
            }
            Ok(Side::Gpu(lane))
        };
        let (fill, drain) = (side(src)?, side(dst)?);
        let near = match (src, dst) {
            (MemoryKind::Gpu(gpu), _) | (_, MemoryKind::Gpu(gpu)) => gpu,
            _ => 0,
        };
        let slots = (0..SLOTS.min(loads.len()))
            .map(|_| {
                let buffer = gpus.pinned(near, SLOT as usize)?;
                Ok(Slot { buffer, state: SlotState::Idle })
            })
            .collect::<Result<_, GpuError>>()?;
        Ok(Self { loads, slots, fill, drain, pool, waker, stopped: None })
    }

    /// Moves every slot on as far as it goes now.
    ///
    /// # Safety
    ///
    /// The ranges of the copies stay as [`Lane::copies`] wants them until this returns `Ready`.
    pub(crate) unsafe fn poll(&mut self) -> Poll<Result<(), GpuError>> {
        let mut busy = false;
        for index in 0..self.slots.len() {
            // SAFETY: the caller vouches for the ranges; the slot is this ring's own.
            match unsafe { self.advance(index) } {
                Ok(in_use) => busy |= in_use,
                Err(error) => {
                    self.stopped.get_or_insert(error);
                    // Whether its work still runs cannot be asked any more; the driver says it is over.
                    self.slots[index].state = SlotState::Idle;
                }
            }
        }
        if busy {
            return Poll::Pending;
        }
        match self.stopped.take() {
            Some(error) => Poll::Ready(Err(error)),
            None => Poll::Ready(Ok(())),
        }
    }

    /// Takes no further load. Returns whether nothing is in flight.
    pub(crate) fn stop(&mut self) -> bool {
        self.loads.clear();
        self.slots.iter().all(|slot| matches!(slot.state, SlotState::Idle))
    }

    /// Moves one slot on. Returns whether it is in use.
    unsafe fn advance(&mut self, index: usize) -> Result<bool, GpuError> {
        loop {
            let slot = &mut self.slots[index];
            match &mut slot.state {
                SlotState::Idle => {
                    if self.stopped.is_some() {
                        return Ok(false);
                    }
                    let Some(load) = self.loads.pop_front() else { return Ok(false) };
                    let into = rebased(&load, slot.buffer.address(), Towards::Slot);
                    // SAFETY: the caller vouches for the sources; the slot is idle, so nobody else uses it.
                    let done = unsafe { start(&mut self.fill, &into, &self.pool, &self.waker) }?;
                    slot.state = SlotState::Filling { load, done };
                }
                SlotState::Filling { load, done } => {
                    if !done.is_done()? {
                        return Ok(true);
                    }
                    if self.stopped.is_some() {
                        slot.state = SlotState::Idle;
                        return Ok(false);
                    }
                    let out = rebased(load, slot.buffer.address(), Towards::Target);
                    // SAFETY: the caller vouches for the targets; the slot is filled and nobody writes it now.
                    let done = unsafe { start(&mut self.drain, &out, &self.pool, &self.waker) }?;
                    slot.state = SlotState::Draining { done };
                }
                SlotState::Draining { done } => {
                    if !done.is_done()? {
                        return Ok(true);
                    }
                    slot.state = SlotState::Idle;
                }
            }
        }
    }
}

/// # Safety
///
/// As for [`Lane::copies`], until the result says that it is done.
unsafe fn start(
    side: &mut Side,
    ops: &[CopyOp],
    pool: &CopyPool,
    waker: &Waker,
) -> Result<Done, GpuError> {
    match side {
        // SAFETY: the caller vouches for the ranges; on this side they are the host's.
        Side::Host => Ok(Done::Host(unsafe { pool.start(ops, Some(waker.clone())) })),
        Side::Gpu(lane) => {
            // SAFETY: the caller vouches for the ranges.
            let queued = unsafe { lane.copies(ops) };
            // Even if some could not be queued, what was must be waited for.
            let mark = lane.mark()?;
            if let Err(error) = queued {
                while !mark.reached()? {
                    std::thread::yield_now();
                }
                return Err(error);
            }
            lane.wake(waker.clone())?;
            Ok(Done::Gpu(mark))
        }
    }
}

#[derive(Clone, Copy)]
enum Towards {
    Slot,
    Target,
}

/// The copies of a load with the slot on one side.
fn rebased(load: &[CopyOp], slot: u64, towards: Towards) -> Vec<CopyOp> {
    let mut at = slot;
    let mut ops: Vec<CopyOp> = Vec::with_capacity(load.len());
    for op in load {
        let (src, dst) = match towards {
            Towards::Slot => (op.src, at),
            Towards::Target => (at, op.dst),
        };
        at += op.len;
        match ops.last_mut() {
            // The slot's side is dense: neighbours on the other side become one copy.
            Some(last) if last.src + last.len == src && last.dst + last.len == dst => {
                last.len += op.len;
            }
            _ => ops.push(CopyOp { src, dst, len: op.len }),
        }
    }
    ops
}

/// Cuts and groups copies into loads of at most a slot.
fn pack(ops: &[CopyOp]) -> VecDeque<Vec<CopyOp>> {
    let mut loads = VecDeque::new();
    let (mut load, mut room) = (Vec::new(), SLOT);
    for op in ops {
        let mut rest = *op;
        while rest.len > 0 {
            let len = rest.len.min(room);
            load.extend(cut(CopyOp { len, ..rest }, SLOT));
            rest = CopyOp { src: rest.src + len, dst: rest.dst + len, len: rest.len - len };
            room -= len;
            if room == 0 {
                loads.push_back(std::mem::take(&mut load));
                room = SLOT;
            }
        }
    }
    if !load.is_empty() {
        loads.push_back(load);
    }
    loads
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
            for load in loads.iter().rev().skip(1) {
                prop_assert_eq!(load.iter().map(|op| op.len).sum::<u64>(), SLOT);
            }
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
