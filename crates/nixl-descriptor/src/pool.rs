//! The buffer pool: buffers whose addresses stay mapped, so that a late write reaches no other memory.
//!
//! A peer that was offered memory may write there after its owner has dropped it: a one-sided write cannot be called
//! back. So memory that is offered for a while comes from here. It lies in *slabs*, each a mapped file
//! ([`SharedMemory`](crate::SharedMemory)) that engines register, and peers map, once for all its *blocks*; a buffer is one
//! block. Where a buffer was, there is a mapping of this pool's at least as long as an offer of it may be used:
//!
//! * A block is used again when the last handle to its region is gone. Each user that may still move its bytes holds one:
//!   operations, and leases of those whose memory is not proven quiet.
//! * A slab is *retired* when all its blocks are free and the pool has more free memory than it needs. Its pages go back to
//!   the system, its registrations and its file are given up, and no buffer is taken from it any more; the mapping stays
//!   for the [retention](BufferPool::retain_for). A late write lands in fresh pages of a slab without buffers.
//!
//! A retired slab does not come back: a NIC, or a peer's GPU, may have pinned pages that are no longer those of the file,
//! and would see other bytes than this process.
//!
//! # Bounds
//!
//! Free blocks keep their pages up to 64 MiB, or up to what was in use at once in the last seconds. Retired slabs are 4096
//! or 64 GiB of addresses at most; beyond that the oldest is unmapped early, and
//! [counted](PoolStats::unmapped_early). There is no thread: expired blocks and slabs are released by [`trim`](BufferPool::trim), and
//! slab by slab whenever a buffer comes back.

mod class;
mod slab;
mod stock;
#[cfg(test)]
mod tests;

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use nixl_device::PerProcess;
use nixl_device::locks::lock;

use self::class::Class;
pub(crate) use self::slab::Block;
use self::slab::Slab;
use self::stock::{Cleared, Stock};
use crate::region::{Region, RegionError};

/// Host memory for what is sent and received, from slabs that engines register once and peers map once.
///
/// There is one for the process, [`global`](Self::global). It is where [`Region::shared`] takes its memory from.
pub struct BufferPool {
    shelves: Arc<Shelves>,
}

/// What a [`BufferPool`] has, and has done.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct PoolStats {
    slabs: usize,
    mapped: u64,
    buffers: usize,
    pub(crate) used: u64,
    warm: u64,
    retired: usize,
    retired_bytes: u64,
    made: u64,
    unmapped_early: u64,
}

impl PoolStats {
    /// Slabs that buffers are taken from: so many mapped files.
    #[must_use]
    pub fn slabs(&self) -> usize {
        self.slabs
    }

    /// Bytes of those, with or without pages.
    #[must_use]
    pub fn mapped(&self) -> u64 {
        self.mapped
    }

    /// Buffers in use.
    #[must_use]
    pub fn buffers(&self) -> usize {
        self.buffers
    }

    /// Bytes of their blocks.
    #[must_use]
    pub fn used(&self) -> u64 {
        self.used
    }

    /// Bytes of free blocks that may have pages.
    #[must_use]
    pub fn warm(&self) -> u64 {
        self.warm
    }

    /// Slabs that are mapped for late writes only.
    #[must_use]
    pub fn retired(&self) -> usize {
        self.retired
    }

    /// Bytes of those, without pages.
    #[must_use]
    pub fn retired_bytes(&self) -> u64 {
        self.retired_bytes
    }

    /// Slabs made since the start.
    #[must_use]
    pub fn made(&self) -> u64 {
        self.made
    }

    /// Slabs unmapped before their time, because too many were retired.
    #[must_use]
    pub fn unmapped_early(&self) -> u64 {
        self.unmapped_early
    }
}

impl BufferPool {
    /// The pool of this process.
    #[must_use]
    pub fn global() -> &'static Self {
        static GLOBAL: PerProcess<BufferPool> = PerProcess::new(BufferPool::new);
        GLOBAL.get()
    }

    fn new() -> Self {
        Self { shelves: Arc::new(Shelves { stock: Mutex::new(Stock::new(Instant::now())) }) }
    }

    /// A region of `len` bytes, page-aligned, with the bytes that an earlier buffer of this process left in it.
    /// [`Region::shared`] is the same, all zero.
    ///
    /// Cheap if a block of the size is free; else some 20 us for a slab, which small buffers share, and its registration at the
    /// first offer. The block goes back to the pool when the last handle is gone; the memory cannot be taken out of it
    /// ([`Region::try_into_inner`]).
    ///
    /// An engine without finer rights, and every peer that maps the memory, reaches the whole slab and so other buffers. For what
    /// a peer must not see, use a region with a file of its own (`Region::try_from` a new
    /// [`SharedMemory`](crate::SharedMemory)), or one that no peer maps ([`Region::zeroed`]). Panics: never.
    ///
    /// # Errors
    ///
    /// [`RegionError::Empty`]; [`RegionError::OutOfMemory`] with the system's error.
    pub fn buffer(&self, len: usize) -> Result<Region, RegionError> {
        self.block(len)?.into_region(len)
    }

    /// A block of at least `len` bytes.
    pub(crate) fn block(&self, len: usize) -> Result<Block, RegionError> {
        if len == 0 {
            return Err(RegionError::Empty);
        }
        let now = Instant::now();
        let class = Class::of(len).ok_or_else(|| RegionError::OutOfMemory {
            len,
            message: "no memory is as long".to_owned(),
            source: None,
        })?;
        let mut stock = self.shelves.lock();
        let taken = loop {
            if let Some(taken) = stock.take(class, now) {
                break taken;
            }
            drop(stock);
            // A call of the system: not under the lock.
            let slab = Slab::new(class)?;
            stock = self.shelves.lock();
            stock.add(slab, now);
        };
        drop(stock);
        Ok(Block::new(taken.slab, taken.index, taken.used_before, Arc::clone(&self.shelves)))
    }

    /// Keeps the addresses of retired slabs mapped for at least so long after their last buffer is gone. 11 minutes at first:
    /// the default life time of an offer, and a minute for the clocks of two hosts. Never shortens it; more than a day counts as one.
    pub fn retain_for(&self, at_least: Duration) {
        self.shelves.lock().retain_for(at_least);
    }

    /// Releases what time has ended by `now`, and says when there will be more of it if nothing else happens. For a thread
    /// that wakes now and then anyway: to give pages back takes some 0.1 ms for each MiB.
    pub fn trim(&self, now: Instant) -> Option<Instant> {
        let mut stock = self.shelves.lock();
        let cleared = stock.clear(now, usize::MAX);
        let due = stock.due();
        drop(stock);
        cleared.let_go();
        due
    }

    /// What there is now.
    #[must_use]
    pub fn stats(&self) -> PoolStats {
        self.shelves.lock().stats()
    }
}

impl fmt::Debug for BufferPool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BufferPool").field("stats", &self.stats()).finish_non_exhaustive()
    }
}

/// What the pool and its blocks share.
struct Shelves {
    stock: Mutex<Stock>,
}

impl Shelves {
    fn lock(&self) -> MutexGuard<'_, Stock> {
        // Nothing in the accounts is left half changed by what can panic.
        lock(&self.stock)
    }

    fn put_back(&self, slab: &Slab, index: usize) {
        let now = Instant::now();
        let mut stock = self.lock();
        stock.put_back(slab, index, now);
        // One, as this call may have made one superfluous: it may be an asynchronous task's.
        let cleared = stock.clear(now, 1);
        drop(stock);
        cleared.let_go();
    }
}

impl Cleared {
    /// Calls of the system, and of registrars: not under the lock.
    fn let_go(self) {
        for slab in self.withdrawn {
            slab.withdraw();
        }
        drop(self.unmapped);
    }
}
