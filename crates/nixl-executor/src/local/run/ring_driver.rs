//! The thread that polls rings of pinned slots.
//!
//! A hop of a slot takes less than 100 us, and a sleeping thread takes half as long to wake. So this thread polls continuously
//! while a ring is active. It sleeps only without an active ring, or while its GPU is busy with other work for long.
#![allow(unsafe_code, reason = "advances copies by address")]

use std::mem;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Poll, Waker};
use std::thread;
use std::time::Duration;
use std::{hint, io};

use nixl_device::cuda::relax_capture;
use nixl_device::locks::{lock, try_lock};
use nixl_device::named_thread;
use nixl_ops::{Backoff, Clock, Sleeper};

use super::ring::Ring;
use crate::local::GpuError;

/// The thread that drives rings. It ends after the drop of this and the end of all rings.
pub(crate) struct RingDriver {
    shared: Arc<Shared>,
}

struct Shared {
    inbox: Mutex<Vec<Arc<ActiveRing>>>,
    /// The inbox has a new ring.
    fresh: AtomicBool,
    closing: AtomicBool,
    sleeper: Sleeper,
    clock: Arc<dyn Clock>,
}

/// An active ring, shared between its transfer and the thread.
struct ActiveRing {
    stage: Mutex<Stage>,
    /// Set after the stage.
    ended: AtomicBool,
    /// The transfer was abandoned.
    unwanted: AtomicBool,
    /// The transfer was dropped in flight: its memory is leaked.
    leaked: AtomicBool,
    is_short: bool,
    waker: Waker,
}

enum Stage {
    ActiveRing(Ring),
    Ended(Option<Result<(), GpuError>>),
}

/// The result of a ring's poll.
enum RingProgress {
    Moved,
    Still,
    /// It ended, in this poll if `now`.
    Ended {
        now: bool,
    },
}

/// A transfer with an active ring. A drop before its end leaks the ring, and its memory.
pub(crate) struct RingTransfer {
    moving: Arc<ActiveRing>,
    rings: Arc<Shared>,
}

impl RingDriver {
    pub(crate) fn new(clock: Arc<dyn Clock>) -> io::Result<Self> {
        let shared = Arc::new(Shared {
            inbox: Mutex::default(),
            fresh: AtomicBool::new(false),
            closing: AtomicBool::new(false),
            sleeper: Sleeper::new(),
            clock,
        });
        let theirs = Arc::clone(&shared);
        let handle = named_thread("nixl-rings").spawn(move || theirs.run())?;
        // Set before any ring can begin, since this has not been handed out.
        shared.sleeper.set_thread(handle.thread().clone());
        Ok(Self { shared })
    }

    /// Begins to drive a ring, and wakes `waker` at its end.
    ///
    /// # Safety
    ///
    /// The ranges of its copies meet the contract of [`GpuStream::memcpy_async`](crate::local::GpuStream::memcpy_async) until
    /// the transfer's [`poll`](RingTransfer::poll) returns `Ready`; for ever after an earlier drop.
    pub(crate) unsafe fn begin(&self, ring: Ring, waker: Waker) -> RingTransfer {
        let moving = Arc::new(ActiveRing {
            is_short: ring.is_short(),
            stage: Mutex::new(Stage::ActiveRing(ring)),
            ended: AtomicBool::new(false),
            unwanted: AtomicBool::new(false),
            leaked: AtomicBool::new(false),
            waker,
        });
        // The first hops begin here, while the thread wakes.
        if !matches!(moving.look(), RingProgress::Ended { .. }) {
            lock(&self.shared.inbox).push(Arc::clone(&moving));
            self.shared.fresh.store(true, Ordering::SeqCst);
            self.shared.wake();
        }
        RingTransfer { moving, rings: Arc::clone(&self.shared) }
    }
}

impl Drop for RingDriver {
    fn drop(&mut self) {
        self.shared.closing.store(true, Ordering::SeqCst);
        self.shared.wake();
    }
}

impl RingTransfer {
    /// The result, once nothing is in flight; not called again after that.
    pub(crate) fn poll(&self) -> Poll<Result<(), GpuError>> {
        // The thread takes longer to wake than a short transfer takes; longer ones are left to it.
        if self.moving.is_short && !self.has_ended() {
            self.moving.look();
        }
        if !self.has_ended() {
            return Poll::Pending;
        }
        match &mut *lock(&self.moving.stage) {
            Stage::Ended(result) => Poll::Ready(result.take().unwrap_or(Ok(()))),
            Stage::ActiveRing(_) => Poll::Pending,
        }
    }

    /// Begins nothing further. Returns whether nothing is in flight.
    pub(crate) fn stop(&self) -> bool {
        if self.has_ended() {
            return true;
        }
        if !self.moving.unwanted.swap(true, Ordering::SeqCst) {
            self.rings.wake();
        }
        false
    }

    fn has_ended(&self) -> bool {
        self.moving.ended.load(Ordering::Acquire)
    }
}

impl Drop for RingTransfer {
    fn drop(&mut self) {
        if !self.has_ended() {
            self.moving.leaked.store(true, Ordering::SeqCst);
            self.rings.wake();
        }
    }
}

impl ActiveRing {
    /// Polls the ring, unless another thread does at this moment.
    fn look(&self) -> RingProgress {
        let Some(mut stage) = try_lock(&self.stage) else { return RingProgress::Still };
        let Stage::ActiveRing(ring) = &mut *stage else {
            return RingProgress::Ended { now: false };
        };
        if self.leaked.load(Ordering::SeqCst) {
            // No memory that a GPU may still use returns to a pool.
            mem::forget(mem::replace(&mut *stage, Stage::Ended(None)));
            return RingProgress::Ended { now: false };
        }
        if self.unwanted.load(Ordering::SeqCst) {
            ring.stop();
        }
        // SAFETY: the caller of `begin` vouched for the ranges until the end, or for ever.
        let (moved, result) = unsafe { ring.poll() };
        match result {
            Poll::Pending if moved => RingProgress::Moved,
            Poll::Pending => RingProgress::Still,
            Poll::Ready(result) => {
                // Slots and streams are returned before the waiter wakes.
                *stage = Stage::Ended(Some(result));
                self.ended.store(true, Ordering::Release);
                RingProgress::Ended { now: true }
            }
        }
    }
}

impl Shared {
    /// The polling interval: none up to 200 us after the last hop, then growing.
    fn backoff() -> Backoff {
        Backoff::default().spin(Duration::from_micros(200))
    }

    fn wake(&self) {
        self.sleeper.wake();
    }

    fn run(&self) {
        let backoff = Self::backoff();
        // Once for all calls of the driver by this thread.
        let _relaxed = relax_capture();
        let mut rings: Vec<Arc<ActiveRing>> = Vec::new();
        let (mut last, mut rounds) = (self.clock.now(), 0u32);
        loop {
            let mut moved = self.fresh.swap(false, Ordering::SeqCst);
            if moved {
                rings.append(&mut lock(&self.inbox));
            }
            rings.retain(|ring| match ring.look() {
                RingProgress::Still => true,
                RingProgress::Moved => {
                    moved = true;
                    true
                }
                RingProgress::Ended { now } => {
                    moved = true;
                    if now {
                        ring.waker.wake_by_ref();
                    }
                    false
                }
            });
            if rings.is_empty() && self.is_closing() {
                return;
            }
            let now = self.clock.now();
            if moved {
                last = now;
            }
            let sleep = match backoff.sleep_after(now.saturating_sub(last)) {
                _ if rings.is_empty() => None,
                Some(sleep) => Some(sleep),
                None => {
                    rounds = rounds.wrapping_add(1);
                    // Yields: copying threads may need this core.
                    if rounds.is_multiple_of(32) {
                        thread::yield_now()
                    } else {
                        hint::spin_loop()
                    };
                    continue;
                }
            };
            let is_over = || rings.is_empty() && self.is_closing();
            let is_work = || is_over() || self.fresh.load(Ordering::SeqCst);
            self.sleeper.sleep(&*self.clock, is_work, || sleep);
        }
    }

    fn is_closing(&self) -> bool {
        self.closing.load(Ordering::SeqCst)
    }
}

#[cfg(test)]
mod tests {
    use nixl_ops::SystemClock;

    use super::*;
    use crate::local::host::host_copy::CopyPool;
    use crate::local::plan::block_copy::CopyOp;
    use crate::local::plan::boundaries::AllocationBoundaries;
    use crate::local::{GpuCapabilities, MemoryKind, SimulatedGpus};

    /// The drain time has passed: the waiter has leaked the memory and is gone.
    #[test]
    fn a_ring_that_never_ends_is_leaked_and_looked_at_no_more() {
        let clock: Arc<dyn Clock> = Arc::new(SystemClock::new());
        let can = GpuCapabilities { gpus: 1, ..GpuCapabilities::default() };
        let gpus = SimulatedGpus::new(can).unwrap();
        let pool = Arc::new(CopyPool::new(1, Arc::clone(&clock)).unwrap());
        let rings = RingDriver::new(clock).unwrap();
        let (src, dst) = (vec![1u8; 1000].leak(), vec![2u8; 1000].leak());
        let op = CopyOp { src: src.as_ptr() as u64, dst: dst.as_mut_ptr() as u64, len: 1000 };
        let paused = gpus.pause();
        let kinds = (MemoryKind::Pageable, MemoryKind::Gpu(0));
        let ring =
            Ring::new(&gpus, kinds, (&[op], &AllocationBoundaries::default()), pool, None, None)
                .unwrap();
        // SAFETY: both vectors are leaked.
        let transfer = unsafe { rings.begin(ring, Waker::noop().clone()) };
        assert!(transfer.poll().is_pending());
        let moving = Arc::clone(&transfer.moving);
        drop(transfer);
        while !matches!(&*lock(&moving.stage), Stage::Ended(None)) {
            thread::yield_now();
        }
        // Only this test knows it now, once the thread has turned to the next.
        while Arc::strong_count(&moving) > 1 {
            thread::yield_now();
        }
        drop(paused);
    }
}
