//! Copying by the processor, on several threads when there is much.
#![allow(unsafe_code, reason = "copies by address")]

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::Waker;
use std::{fmt, io, thread};

use super::block_copy::CopyOp;

/// Threads that copy. They end when it is dropped, after the copies in hand.
pub(crate) struct CopyPool {
    jobs: Sender<Job>,
}

struct Job {
    op: CopyOp,
    group: Arc<Group>,
}

/// Copies that are awaited together.
struct Group {
    left: AtomicUsize,
    waker: Option<Waker>,
}

/// Tells whether a group of copies is done.
pub(crate) struct Copying(Arc<Group>);

impl Copying {
    pub(crate) fn is_done(&self) -> bool {
        self.0.left.load(Ordering::Acquire) == 0
    }
}

impl CopyPool {
    /// Bytes that one thread takes at a time: 20 us at 12 GB/s, so that threads share the work evenly.
    const PIECE: u64 = 256 * 1024;

    pub(crate) fn new(threads: usize) -> io::Result<Self> {
        let (jobs, queue) = channel::<Job>();
        let queue = Arc::new(Mutex::new(queue));
        for index in 0..threads.max(1) {
            let queue = Arc::clone(&queue);
            thread::Builder::new()
                .name(format!("nixl-copy-{index}"))
                .spawn(move || work(&queue))?;
        }
        Ok(Self { jobs })
    }

    /// Copies all of `ops`, and wakes `waker` when done.
    ///
    /// # Safety
    ///
    /// All ranges are host memory; nobody writes what is read or touches what is written, and all of it stays so until
    /// [`Copying::is_done`].
    pub(crate) unsafe fn start(&self, ops: &[CopyOp], waker: Option<Waker>) -> Copying {
        let pieces: Vec<CopyOp> = ops.iter().flat_map(|op| cut(*op, Self::PIECE)).collect();
        let group = Arc::new(Group { left: AtomicUsize::new(pieces.len()), waker });
        for op in pieces {
            let job = Job { op, group: Arc::clone(&group) };
            if let Err(unsent) = self.jobs.send(job) {
                // The threads live as long as this sender; were they gone, the copy is done here.
                // SAFETY: the caller vouches for the ranges.
                unsafe { run(unsent.0) };
            }
        }
        Copying(group)
    }
}

fn work(queue: &Mutex<Receiver<Job>>) {
    loop {
        let job = queue.lock().unwrap_or_else(PoisonError::into_inner).recv();
        let Ok(job) = job else { return };
        // SAFETY: whoever started the group vouched for its ranges until it is done.
        unsafe { run(job) };
    }
}

/// # Safety
///
/// As for [`CopyPool::start`].
unsafe fn run(job: Job) {
    // SAFETY: the caller vouches for the ranges.
    unsafe { copy(job.op) };
    if job.group.left.fetch_sub(1, Ordering::AcqRel) == 1
        && let Some(waker) = &job.group.waker
    {
        waker.wake_by_ref();
    }
}

/// Copies on this thread.
///
/// # Safety
///
/// Both ranges are host memory that nobody else writes, or reads the target of, meanwhile.
pub(crate) unsafe fn copy(op: CopyOp) {
    let (src, dst) = (op.src as *const u8, op.dst as *mut u8);
    // SAFETY: the caller vouches for both ranges. `copy` allows them to overlap.
    unsafe { std::ptr::copy(src, dst, op.len as usize) };
}

/// Pieces of at most `longest` bytes that make up `op`.
pub(crate) fn cut(op: CopyOp, longest: u64) -> impl Iterator<Item = CopyOp> {
    (0..op.len).step_by(longest.max(1) as usize).map(move |at| CopyOp {
        src: op.src + at,
        dst: op.dst + at,
        len: longest.min(op.len - at),
    })
}

impl fmt::Debug for CopyPool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("CopyPool")
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn pieces_make_up_the_whole(len in 1u64..5000, longest in 1u64..700) {
            let op = CopyOp { src: 1 << 40, dst: 7, len };
            let pieces: Vec<_> = cut(op, longest).collect();
            prop_assert!(pieces.iter().all(|p| p.len <= longest && p.len > 0));
            let mut at = 0;
            for piece in pieces {
                prop_assert_eq!((piece.src, piece.dst), (op.src + at, op.dst + at));
                at += piece.len;
            }
            prop_assert_eq!(at, len);
        }
    }

    #[test]
    fn a_pool_copies_everything() {
        let pool = CopyPool::new(3).unwrap();
        let src: Vec<u8> = (0..3_000_000u32).map(|i| ((i * 31) >> 3) as u8).collect();
        let mut dst = vec![0u8; src.len()];
        let op = CopyOp {
            src: src.as_ptr() as u64,
            dst: dst.as_mut_ptr() as u64,
            len: src.len() as u64,
        };
        // SAFETY: both vectors live, untouched, until the loop below has seen the end.
        let copying = unsafe { pool.start(&[op], None) };
        while !copying.is_done() {
            thread::yield_now();
        }
        assert!(src == dst);
    }
}
