//! Packed copies through dense scratch memory on the GPU, in slices.
//!
//! A kernel packs the next slice during the copies of the one before, or unpacks one during the copies of the next. Only
//! contiguous chunks make the pinned side dense; a slice takes one copy for each run there.
#![allow(unsafe_code, reason = "queues copies by address")]

use std::ops::Range;

use crate::local::GpuError;
use crate::local::gpu::gpu_backend::GpuStream;
use crate::local::plan::block_copy::{BlockCopy, Direction};

/// The largest number of slices. Nothing overlaps the first pack or the last unpack; an eighth of a kernel that is many times
/// as fast as the link is short.
const SLICES: usize = 8;
/// The smallest slice, unless it is the only one: the link takes 76 us for it, the host some 10 us to queue it.
const SLICE_BYTES: u64 = 4 << 20;

/// Two streams of one GPU: one for the kernels, one for the copies.
pub(crate) struct StreamPair<'a> {
    /// The stream for the first step of each slice.
    pub(crate) first: &'a mut dyn GpuStream,
    /// The stream for the second step, which ends last.
    pub(crate) last: &'a mut dyn GpuStream,
}

/// Queues copies through scratch memory: to pack the source, a kernel on the first stream and copies on the last; otherwise
/// copies on the first and a kernel on the last.
///
/// # Errors
///
/// [`GpuError`]. Some of the work may have been queued, on both streams.
///
/// # Safety
///
/// As for [`GpuStream::memcpy_async`] with the copies of `blocks`, until events recorded later on both streams are complete.
/// `scratch` has as many bytes as `blocks`, in memory of the streams' GPU, which nothing else uses meanwhile. After `Ok`, the
/// last stream's event suffices.
pub(crate) unsafe fn queue(
    gpu_streams: StreamPair<'_>,
    blocks: &BlockCopy,
    scratch: u64,
    packing: bool,
) -> Result<(), GpuError> {
    let StreamPair { first, last } = gpu_streams;
    let into = blocks.with_dense(Direction::Destination, scratch);
    let out = blocks.with_dense(Direction::Source, scratch);
    for slice in slices(blocks) {
        let (into, out) = (into.slice(slice.clone()), out.slice(slice));
        match packing {
            // SAFETY: the caller vouches for the sources and the scratch memory.
            true => unsafe { first.launch_copy_kernel(&into) }?,
            // SAFETY: as above.
            false => unsafe { first.memcpy_async(&into.block_ops()) }?,
        }
        // SAFETY: the stream of the handle lives, and so does its stream; both streams are of one GPU.
        last.wait_stream(unsafe { first.raw_stream() }?)?;
        match packing {
            // SAFETY: the caller vouches for the targets and the scratch memory, whose bytes of this slice were written
            // before, and are not written again.
            true => unsafe { last.memcpy_async(&out.block_ops()) }?,
            // SAFETY: as above.
            false => unsafe { last.launch_copy_kernel(&out) }?,
        }
    }
    Ok(())
}

/// The blocks of each slice. They differ by at most one block.
fn slices(blocks: &BlockCopy) -> impl Iterator<Item = Range<usize>> + use<> {
    let blocks_each = SLICE_BYTES.div_ceil(blocks.block_bytes().max(1)) as usize;
    let (blocks, count) = (blocks.blocks, (blocks.blocks / blocks_each).clamp(1, SLICES));
    (0..count).map(move |index| blocks * index / count..blocks * (index + 1) / count)
}

#[cfg(test)]
mod tests {
    use std::collections::{HashMap, HashSet};
    use std::sync::{Arc, Mutex};
    use std::task::Waker;

    use proptest::prelude::*;

    use super::*;
    use nixl_device::SharedError;

    use crate::local::gpu::gpu_backend::{GpuEvent, StreamHandle};
    use crate::local::plan::block_copy::CopyOp;
    use crate::local::plan::block_copy::tests::{copies, cut, places};

    /// What two streams were told.
    #[derive(Default)]
    struct Log {
        work: Vec<Work>,
        /// For each stream, the work that is done before what is queued next begins.
        before: [HashSet<usize>; 2],
    }

    struct Work {
        gpu_stream: usize,
        is_kernel: bool,
        ops: Vec<CopyOp>,
        before: HashSet<usize>,
    }

    /// A stream that copies nothing and takes notes.
    struct Noting {
        gpu_stream: usize,
        log: Arc<Mutex<Log>>,
    }

    impl Noting {
        fn note(&self, is_kernel: bool, ops: Vec<CopyOp>) -> Result<(), GpuError> {
            let mut log = self.log.lock().unwrap();
            let (index, before) = (log.work.len(), log.before[self.gpu_stream].clone());
            log.work.push(Work { gpu_stream: self.gpu_stream, is_kernel, ops, before });
            log.before[self.gpu_stream].insert(index);
            Ok(())
        }
    }

    fn not_here<T>() -> Result<T, GpuError> {
        Err(GpuError::Unsupported { reason: SharedError::text("it only takes notes") })
    }

    // SAFETY: it copies nothing and makes no events.
    unsafe impl GpuStream for Noting {
        unsafe fn memcpy_async(&mut self, ops: &[CopyOp]) -> Result<(), GpuError> {
            self.note(false, ops.to_vec())
        }

        unsafe fn memcpy_batch_async(&mut self, _: &[CopyOp]) -> Result<(), GpuError> {
            not_here()
        }

        unsafe fn launch_copy_kernel(&mut self, copy: &BlockCopy) -> Result<(), GpuError> {
            self.note(true, copy.ops().collect())
        }

        unsafe fn raw_stream(&self) -> Result<StreamHandle, GpuError> {
            // SAFETY: it only gets back to these streams, which take the number of a stream out of it.
            Ok(unsafe { StreamHandle::from_raw(self.gpu_stream) })
        }

        fn wait_stream(&mut self, stream: StreamHandle) -> Result<(), GpuError> {
            let mut log = self.log.lock().unwrap();
            let theirs = log.before[stream.as_raw()].clone();
            log.before[self.gpu_stream].extend(theirs);
            Ok(())
        }

        fn wait_event(&mut self, _: &dyn GpuEvent) -> Result<(), GpuError> {
            not_here()
        }

        fn record_event(&mut self) -> Result<Box<dyn GpuEvent>, GpuError> {
            not_here()
        }

        fn on_complete(&mut self, _: Waker) -> Result<(), GpuError> {
            not_here()
        }
    }

    /// Copies of up to 160 MiB a block; nothing of them is at `SCRATCH` or below 1 GiB after it.
    fn long_copies() -> impl Strategy<Value = BlockCopy> {
        let shift = prop_oneof![Just(0u32), 16..=20u32];
        (copies(), shift).prop_map(|(mut copy, shift)| {
            copy.len <<= shift;
            copy.src.stride <<= shift;
            copy.dst.stride <<= shift;
            for piece in &mut copy.pieces {
                (piece.src, piece.dst) = (piece.src << shift, piece.dst << shift);
            }
            copy
        })
    }

    const SCRATCH: u64 = 1 << 50;

    proptest! {
        #[test]
        fn slices_are_all_blocks_in_order_and_none_is_short(copy in long_copies()) {
            let all: Vec<_> = slices(&copy).collect();
            let blocks: Vec<_> = all.iter().cloned().flatten().collect();
            prop_assert_eq!(blocks, (0..copy.blocks).collect::<Vec<_>>());
            prop_assert!((1..=SLICES).contains(&all.len()));
            let shortest = all.iter().map(|slice| slice.len()).min().unwrap_or(0);
            prop_assert!(shortest >= 1);
            prop_assert!(all.len() == 1 || shortest as u64 * copy.block_bytes() >= SLICE_BYTES);
            let could_be_more = 2 * SLICE_BYTES <= copy.block_bytes() && all.len() < SLICES;
            prop_assert!(!could_be_more || all.len() == copy.blocks);
        }

        #[test]
        fn every_piece_comes_through_scratch_memory_after_it_got_there(
            copy in long_copies(), packing: bool,
        ) {
            let log = Arc::new(Mutex::new(Log::default()));
            let [mut first, mut last] = [0, 1].map(|gpu_stream| Noting { gpu_stream, log: Arc::clone(&log) });
            let gpu_streams = StreamPair { first: &mut first, last: &mut last };
            // SAFETY: these streams copy nothing.
            unsafe { queue(gpu_streams, &copy, SCRATCH, packing) }.unwrap();
            let log = log.lock().unwrap();
            // Where each piece in the scratch memory came from, and by which work.
            let mut there = HashMap::new();
            let mut carried = Vec::new();
            for (index, work) in log.work.iter().enumerate() {
                prop_assert_eq!(work.is_kernel, (work.gpu_stream == 0) == packing);
                for (src, dst) in cut(&work.ops, copy.len) {
                    if work.gpu_stream == 0 {
                        prop_assert!((SCRATCH..SCRATCH + copy.bytes()).contains(&dst));
                        prop_assert_eq!(there.insert(dst, (src, index)), None, "used twice");
                    } else {
                        let (origin, by) = there[&src];
                        prop_assert!(work.before.contains(&by), "not waited for");
                        carried.push((origin, dst));
                    }
                }
            }
            let mut expected = places(&copy, false);
            carried.sort_unstable();
            expected.sort_unstable();
            prop_assert_eq!(carried, expected);
            prop_assert_eq!(log.before[1].len(), log.work.len(), "the last stream ends last");
            prop_assert_eq!(log.work.len(), 2 * slices(&copy).count());
        }
    }
}
