//! Host memory copies by the processor, on several threads for large ones.
#![allow(unsafe_code, reason = "copies by address")]

use std::collections::VecDeque;
use std::hint::spin_loop;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::task::Waker;
use std::time::Duration;
use std::{fmt, io, thread};

use nixl_device::locks::lock;
use nixl_device::named_thread;
use nixl_ops::{Clock, Sleeper};

use super::changing::copy_bytes;
use super::progress::Reporter;
use super::streaming::copy_streaming;
use crate::local::plan::block_copy::CopyOp;

/// Threads that copy. They end on drop, after the running copies.
///
/// They are not bound to cores: sources and targets are on any NUMA node, and a bound thread waits for its core while the
/// application uses it.
pub(crate) struct CopyPool {
    shared: Arc<Shared>,
}

struct Shared {
    queue: Mutex<VecDeque<Arc<Group>>>,
    /// The length of the queue, read without its lock.
    waiting: AtomicUsize,
    workers: Vec<Sleeper>,
    closing: AtomicBool,
    clock: Arc<dyn Clock>,
}

/// The copies.
pub(crate) struct Work<'a> {
    pub(crate) ops: &'a [CopyOp],
    pub(crate) target: CacheHint,
    /// Woken at the end.
    pub(crate) waker: Option<Waker>,
    /// Notified every few MiB, and of the rest before the copies count as done.
    pub(crate) reporter: Option<Arc<Reporter>>,
}

/// The cache hint for a copy's destination.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum CacheHint {
    /// In the caches too, for reads soon after.
    Cached,
    /// In memory only.
    Memory,
}

impl CacheHint {
    /// Host to host, this many bytes stay in a cache for the next user; more would evict each other (16 MiB:
    /// 21 GB/s past the caches, 9 through them).
    const CACHED: u64 = 4 * 1024 * 1024;

    /// For a copy between host memories.
    pub(crate) fn of(bytes: u64) -> Self {
        if bytes > Self::CACHED { Self::Memory } else { Self::Cached }
    }
}

/// Copies with one end. Threads take piece by piece.
struct Group {
    ops: Vec<CopyOp>,
    target: CacheHint,
    waker: Option<Waker>,
    reporter: Option<Arc<Reporter>>,
    pieces: Vec<Range<usize>>,
    next: AtomicUsize,
    left: AtomicUsize,
    /// Copied bytes, not yet reported.
    unreported: AtomicU64,
    done: AtomicBool,
}

/// The state of a group of copies.
pub(crate) struct Copying(Arc<Group>);

impl Copying {
    pub(crate) fn is_done(&self) -> bool {
        self.0.done.load(Ordering::Acquire)
    }
}

impl CopyPool {
    /// Bytes that one thread takes at a time: some 10 to 30 us, so that threads share even the smallest slots of a ring.
    const PIECE: u64 = 128 * 1024;
    /// The spin time of an idle thread before it sleeps: waking one takes some 50 us in a virtual machine.
    const SPIN_FOR_WORK: Duration = Duration::from_micros(200);

    pub(crate) fn new(threads: usize, clock: Arc<dyn Clock>) -> io::Result<Self> {
        let shared = Arc::new(Shared {
            queue: Mutex::default(),
            waiting: AtomicUsize::new(0),
            workers: (0..threads.max(1)).map(|_| Sleeper::new()).collect(),
            closing: AtomicBool::new(false),
            clock,
        });
        // Made first: if a thread is refused, its drop ends the others.
        let pool = Self { shared };
        for index in 0..pool.shared.workers.len() {
            let shared = Arc::clone(&pool.shared);
            named_thread(&format!("nixl-copy-{index}")).spawn(move || shared.work(index))?;
        }
        Ok(pool)
    }

    /// Copies all of `work`.
    ///
    /// # Safety
    ///
    /// As for [`copy`], of each of `work` and until [`Copying::is_done`].
    pub(crate) unsafe fn start(&self, work: Work<'_>) -> Copying {
        let (ops, pieces) = share(work.ops, Self::PIECE);
        let count = pieces.len();
        let group = Arc::new(Group {
            ops,
            target: work.target,
            waker: work.waker,
            reporter: work.reporter,
            next: AtomicUsize::new(0),
            left: AtomicUsize::new(count),
            unreported: AtomicU64::new(0),
            done: AtomicBool::new(count == 0),
            pieces,
        });
        if count > 0 {
            let mut queue = lock(&self.shared.queue);
            queue.push_back(Arc::clone(&group));
            self.shared.waiting.store(queue.len(), Ordering::SeqCst);
            drop(queue);
            self.shared.wake(count);
        } else if let Some(waker) = &group.waker {
            waker.wake_by_ref();
        }
        Copying(group)
    }

    /// Wakes the threads for imminent work.
    pub(crate) fn wake(&self) {
        self.shared.wake(usize::MAX);
    }
}

impl Shared {
    /// Wakes up to `count` of those that sleep.
    fn wake(&self, count: usize) {
        self.workers.iter().filter(|worker| worker.wake()).take(count).for_each(drop);
    }

    fn work(&self, index: usize) {
        let Some(me) = self.workers.get(index) else { return };
        me.set_thread(thread::current());
        loop {
            while let Some(group) = self.first() {
                group.copy();
            }
            if self.spin_for_work() {
                continue;
            }
            let is_waiting = || self.waiting.load(Ordering::SeqCst) > 0;
            if self.closing.load(Ordering::SeqCst) && !is_waiting() {
                return;
            }
            let is_work = || is_waiting() || self.closing.load(Ordering::SeqCst);
            me.sleep(&*self.clock, is_work, || None);
        }
    }

    /// Spins for work. Returns whether there is any.
    fn spin_for_work(&self) -> bool {
        let until = self.clock.now().saturating_add(CopyPool::SPIN_FOR_WORK);
        // A manual clock may stand still.
        for _ in 0..10_000 {
            for _ in 0..16 {
                if self.waiting.load(Ordering::SeqCst) > 0 {
                    return true;
                }
                spin_loop();
            }
            if self.closing.load(Ordering::SeqCst) || self.clock.now() >= until {
                return false;
            }
            thread::yield_now();
        }
        false
    }

    /// The first group in the queue that has pieces left.
    fn first(&self) -> Option<Arc<Group>> {
        if self.waiting.load(Ordering::SeqCst) == 0 {
            return None;
        }
        let mut queue = lock(&self.queue);
        while queue.front().is_some_and(|group| group.is_taken()) {
            queue.pop_front();
        }
        self.waiting.store(queue.len(), Ordering::SeqCst);
        queue.front().cloned()
    }
}

impl Group {
    /// Bytes after which progress is reported.
    const GRAIN: u64 = 4 * 1024 * 1024;

    fn is_taken(&self) -> bool {
        self.next.load(Ordering::Relaxed) >= self.pieces.len()
    }

    /// Copies pieces until all are taken.
    fn copy(&self) {
        while let Some(piece) = self.pieces.get(self.next.fetch_add(1, Ordering::Relaxed)) {
            let mut bytes = 0;
            for op in self.ops.get(piece.clone()).unwrap_or_default() {
                // SAFETY: the caller of `start` vouched for the ranges until the group is done.
                unsafe { copy(*op, self.target) };
                bytes += op.len;
            }
            self.finish(bytes);
        }
    }

    /// Records a copied piece.
    fn finish(&self, bytes: u64) {
        if let Some(reporter) = &self.reporter
            && self.unreported.fetch_add(bytes, Ordering::Relaxed) + bytes >= Self::GRAIN
        {
            reporter.advance(self.unreported.swap(0, Ordering::Relaxed));
        }
        // Acquires the writes of the other threads.
        if self.left.fetch_sub(1, Ordering::AcqRel) > 1 {
            return;
        }
        if let Some(reporter) = &self.reporter {
            reporter.advance(self.unreported.swap(0, Ordering::Relaxed));
        }
        self.done.store(true, Ordering::Release);
        if let Some(waker) = &self.waker {
            waker.wake_by_ref();
        }
    }
}

impl Drop for CopyPool {
    fn drop(&mut self) {
        self.shared.closing.store(true, Ordering::SeqCst);
        self.shared.wake(usize::MAX);
    }
}

/// Copies on this thread. The source may change meanwhile: each byte of the copy is one of those that it had.
///
/// # Safety
///
/// As for [`copy_bytes`]: both ranges are host memory, they do not overlap, and nothing else in this process touches the target
/// meanwhile.
pub(crate) unsafe fn copy(op: CopyOp, target: CacheHint) {
    /// Shorter ones are hardly faster past the caches.
    const STREAMED: u64 = 64 * 1024;
    if target == CacheHint::Memory && op.len >= STREAMED {
        // SAFETY: the caller vouches for both ranges.
        return unsafe { copy_streaming(op) };
    }
    let (src, dst) = (op.src as *const u8, op.dst as *mut u8);
    // SAFETY: the caller vouches for both ranges.
    unsafe { copy_bytes(src, dst, op.len as usize) };
}

/// Splits copies into pieces for threads: ranges of the result, of `piece` to twice as many bytes, the last of any.
fn share(ops: &[CopyOp], piece: u64) -> (Vec<CopyOp>, Vec<Range<usize>>) {
    let ops: Vec<CopyOp> = ops.iter().flat_map(|op| cut(*op, piece)).collect();
    let mut pieces = Vec::new();
    let (mut start, mut bytes) = (0, 0);
    for (index, op) in ops.iter().enumerate() {
        bytes += op.len;
        if bytes >= piece || index + 1 == ops.len() {
            pieces.push(start..index + 1);
            (start, bytes) = (index + 1, 0);
        }
    }
    (ops, pieces)
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
    use nixl_ops::SystemClock;
    use proptest::prelude::*;

    use super::*;

    fn pool(threads: usize) -> CopyPool {
        CopyPool::new(threads, Arc::new(SystemClock::new())).unwrap()
    }

    fn work(ops: &[CopyOp], target: CacheHint) -> Work<'_> {
        Work { ops, target, waker: None, reporter: None }
    }

    fn wait(copying: &Copying) {
        while !copying.is_done() {
            thread::yield_now();
        }
    }

    fn op(src: &[u8], dst: &mut [u8]) -> CopyOp {
        assert_eq!(src.len(), dst.len());
        CopyOp { src: src.as_ptr() as u64, dst: dst.as_mut_ptr() as u64, len: src.len() as u64 }
    }

    fn pattern(len: usize) -> Vec<u8> {
        (0..len).map(|i| ((i * 31) >> 3) as u8).collect()
    }

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

        #[test]
        fn threads_share_short_copies_too(
            lens in proptest::collection::vec(1u64..3000, 0..30), piece in 1u64..1500,
        ) {
            let mut at = 0;
            let ops: Vec<_> = lens.iter().map(|len| {
                let op = CopyOp { src: at, dst: (1 << 40) + at, len: *len };
                at += len + 3;
                op
            }).collect();
            let (cuts, pieces) = share(&ops, piece);
            prop_assert_eq!(cuts.iter().map(|op| op.len).sum::<u64>(), lens.iter().sum::<u64>());
            let mut next = 0;
            for (index, range) in pieces.iter().enumerate() {
                prop_assert_eq!(range.start, next);
                next = range.end;
                let bytes: u64 = cuts[range.clone()].iter().map(|op| op.len).sum();
                prop_assert!(bytes < 2 * piece && (bytes >= piece || index + 1 == pieces.len()));
            }
            prop_assert_eq!(next, cuts.len());
        }
    }

    #[test]
    #[cfg_attr(miri, ignore = "takes an interpreter many minutes")]
    fn a_pool_copies_everything() {
        let pool = pool(3);
        let src = pattern(3_000_000);
        for target in [CacheHint::Cached, CacheHint::Memory] {
            let mut dst = vec![0u8; src.len()];
            let ops = [op(&src, &mut dst)];
            // SAFETY: both vectors live, untouched, until the wait is over.
            let copying = unsafe { pool.start(work(&ops, target)) };
            wait(&copying);
            assert!(src == dst);
        }
    }

    /// Groups from several threads at once, with pauses in which the threads go to sleep, and a pool that is dropped
    /// while it copies.
    #[test]
    #[cfg_attr(miri, ignore = "takes an interpreter many minutes")]
    fn each_caller_sees_its_copies_end() {
        let pool = pool(2);
        let mut targets: Vec<Vec<u8>> = vec![vec![0; 400_000]; 4];
        let src = pattern(400_000);
        let last: Vec<_> = thread::scope(|scope| {
            let threads: Vec<_> = targets
                .iter_mut()
                .map(|dst| {
                    let (pool, src) = (&pool, &src);
                    scope.spawn(move || {
                        let ops = [op(src, dst)];
                        for round in 0..20 {
                            // SAFETY: both vectors live, untouched, until all copies are seen to end, below.
                            let copying = unsafe { pool.start(work(&ops, CacheHint::Cached)) };
                            wait(&copying);
                            if round % 5 == 0 {
                                thread::sleep(Duration::from_micros(500));
                            }
                        }
                        // SAFETY: as above.
                        unsafe { pool.start(work(&ops, CacheHint::Cached)) }
                    })
                })
                .collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).collect()
        });
        drop(pool);
        last.iter().for_each(wait);
        assert!(targets.iter().all(|dst| *dst == src));
    }

    #[test]
    fn nothing_to_copy_is_done_at_once() {
        // SAFETY: there are no ranges.
        assert!(unsafe { pool(1).start(work(&[], CacheHint::Cached)) }.is_done());
    }

    #[test]
    #[cfg_attr(miri, ignore = "takes an interpreter many minutes")]
    fn progress_is_reported_before_the_end() {
        use crate::local::host::progress::{Progress, ProgressCallback};
        let seen = Arc::new(Mutex::new(Vec::new()));
        let theirs = Arc::clone(&seen);
        let callback =
            ProgressCallback(Arc::new(move |p: Progress| theirs.lock().unwrap().push(p.done)));
        let src = pattern(10 << 20);
        let mut dst = vec![0; src.len()];
        let reporter = Some(Arc::new(Reporter::new(callback, src.len() as u64)));
        let ops = [op(&src, &mut dst)];
        let job = Work { reporter, ..work(&ops, CacheHint::Memory) };
        // SAFETY: both vectors live, untouched, until the wait is over.
        wait(&unsafe { pool(2).start(job) });
        let seen = seen.lock().unwrap();
        assert!(seen.is_sorted() && (2..=3).contains(&seen.len()), "{seen:?}");
        assert_eq!(seen.last(), Some(&(10 << 20)));
    }
}
