//! The engine of threads, so many for each file system.

use std::collections::{HashMap, VecDeque};
use std::fmt;
use std::mem;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use nixl_descriptor::defer_disposal_on_this_thread;
use nixl_device::locks::lock;
use nixl_device::named_thread;
use nixl_ops::contained;

use super::engine::EngineKind;
use super::operation::{FileEngine, FileOp};
use super::vectored;

/// Calls of `preadv`, `pwritev` and `fdatasync` on threads. Each file system has its own, so one that hangs takes no other's.
pub(crate) struct ThreadFiles {
    pools: Mutex<HashMap<u64, Arc<Pool>>>,
    most: usize,
}

/// The threads of one file system.
#[derive(Default)]
struct Pool {
    work: Mutex<Work>,
    added: Condvar,
}

#[derive(Default)]
struct Work {
    ops: VecDeque<FileOp>,
    threads: usize,
    idle: usize,
    closing: bool,
}

impl ThreadFiles {
    /// Enough for a device that wants many small calls at once; a thread is started only when all others are busy.
    const MOST: usize = 16;

    pub(crate) fn new() -> Self {
        Self { pools: Mutex::default(), most: Self::MOST }
    }

    fn pool(&self, device: u64) -> Arc<Pool> {
        Arc::clone(lock(&self.pools).entry(device).or_default())
    }
}

impl FileEngine for ThreadFiles {
    fn kind(&self) -> EngineKind {
        EngineKind::Threads
    }

    fn submit(&self, ops: Vec<FileOp>) {
        let mut by_device: Vec<(u64, Vec<FileOp>)> = Vec::new();
        for op in ops {
            let device = op.file().map_or(0, |file| file.identity().device());
            match by_device.iter_mut().find(|(known, _)| *known == device) {
                Some((_, ops)) => ops.push(op),
                None => by_device.push((device, vec![op])),
            }
        }
        for (device, ops) in by_device {
            self.pool(device).add(ops, self.most);
        }
    }
}

impl Pool {
    fn add(self: &Arc<Self>, ops: Vec<FileOp>, most: usize) {
        let mut work = lock(&self.work);
        work.ops.extend(ops);
        self.call_thread(work, most);
    }

    /// Has a thread take what waits: one that sleeps, else a new one. A thread that takes a call does this for the next, so a
    /// submission of many costs its caller one wake-up.
    fn call_thread(self: &Arc<Self>, mut work: MutexGuard<'_, Work>, most: usize) {
        if work.ops.is_empty() || (work.idle == 0 && work.threads >= most) {
            return;
        }
        if work.idle > 0 {
            drop(work);
            self.added.notify_one();
            return;
        }
        work.threads += 1;
        drop(work);
        let pool = Arc::clone(self);
        let started = named_thread("nixl-files").spawn(move || pool.run(most));
        if started.is_err() {
            let mut work = lock(&self.work);
            work.threads -= 1;
            // Without any thread nothing would ever take it.
            let refused =
                if work.threads == 0 { mem::take(&mut work.ops) } else { VecDeque::new() };
            drop(work);
            refused.into_iter().for_each(FileOp::refuse);
        }
    }

    fn run(self: &Arc<Self>, most: usize) {
        defer_disposal_on_this_thread();
        while let Some(mut op) = self.next(most) {
            // A call that is lost by a panic ends its operation.
            let _ = contained("a call of a file", || {
                loop {
                    let result = vectored::call(&op);
                    match op.answer(result) {
                        Some(rest) => op = rest,
                        None => break,
                    }
                }
            });
        }
    }

    fn next(self: &Arc<Self>, most: usize) -> Option<FileOp> {
        let mut work = lock(&self.work);
        loop {
            if let Some(op) = work.ops.pop_front() {
                self.call_thread(work, most);
                return Some(op);
            }
            if work.closing {
                return None;
            }
            work.idle += 1;
            work = self.added.wait(work).unwrap_or_else(PoisonError::into_inner);
            work.idle -= 1;
        }
    }
}

impl Drop for ThreadFiles {
    /// The threads end after the operations that were submitted. One that hangs in the kernel is not waited for.
    fn drop(&mut self) {
        for pool in lock(&self.pools).values() {
            lock(&pool.work).closing = true;
            pool.added.notify_all();
        }
    }
}

impl fmt::Debug for ThreadFiles {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let pools = lock(&self.pools);
        let threads: usize = pools.values().map(|pool| lock(&pool.work).threads).sum();
        f.debug_struct("ThreadFiles")
            .field("file_systems", &pools.len())
            .field("threads", &threads)
            .finish()
    }
}
