//! Memory pools: device and pinned memory is kept for reuse, because the driver takes long to allocate it.

use std::collections::BTreeMap;
use std::fmt;
use std::mem::ManuallyDrop;
use std::sync::{Arc, Mutex, Weak};

use super::context::Context;
use super::device_memory::{DeviceBlock, DeviceMemory};
use super::memory_error::{MemoryError, checked_len};
use super::pinned::{PinnedBlock, PinnedMemory};
use super::size_class::size_class;
use crate::locks::lock;

/// What a pool may hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PoolLimits {
    max_bytes: usize,
    max_idle_bytes: usize,
}

impl PoolLimits {
    /// At most `max_bytes`, all of which may be kept for reuse.
    #[must_use]
    pub const fn new(max_bytes: usize) -> Self {
        Self { max_bytes, max_idle_bytes: max_bytes }
    }

    /// Keeps at most this many bytes for reuse. Default: `max_bytes`. With less, memory that comes back beyond it is freed,
    /// and the next use of as much allocates anew.
    #[must_use]
    pub const fn with_max_idle_bytes(self, max_idle_bytes: usize) -> Self {
        Self { max_idle_bytes, ..self }
    }

    /// Bytes in use and kept for reuse together. Beyond it allocation fails.
    #[must_use]
    pub fn max_bytes(&self) -> usize {
        self.max_bytes
    }

    /// Bytes kept for reuse. Memory beyond it is freed when it comes back.
    #[must_use]
    pub fn max_idle_bytes(&self) -> usize {
        self.max_idle_bytes
    }
}

/// What a pool holds and did. Bytes are counted after rounding up to a size class.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PoolStats {
    in_use_bytes: usize,
    idle_bytes: usize,
    peak_bytes: usize,
    allocated: u64,
    reused: u64,
    refused: u64,
}

impl PoolStats {
    /// Bytes in use.
    #[must_use]
    pub fn in_use_bytes(&self) -> usize {
        self.in_use_bytes
    }

    /// Bytes kept for reuse.
    #[must_use]
    pub fn idle_bytes(&self) -> usize {
        self.idle_bytes
    }

    /// The most bytes that were ever in use at a time.
    #[must_use]
    pub fn peak_bytes(&self) -> usize {
        self.peak_bytes
    }

    /// Allocations made from the driver.
    #[must_use]
    pub fn allocated(&self) -> u64 {
        self.allocated
    }

    /// Allocations served from what was kept.
    #[must_use]
    pub fn reused(&self) -> u64 {
        self.reused
    }

    /// Allocations refused because of the limit.
    #[must_use]
    pub fn refused(&self) -> u64 {
        self.refused
    }
}

macro_rules! pool {
    ($(#[$attribute:meta])* $pool:ident, $memory:ident, $block:ident, $smallest:literal) => {
        $(#[$attribute])*
        ///
        /// A handle, free to clone; all clones are one pool. Sizes are rounded up by at most a quarter, so that memory
        /// fits again. It is given back when dropped, from any thread, and freed if the pool is gone by then.
        #[derive(Clone, Debug)]
        pub struct $pool {
            context: Context,
            shelf: Arc<Shelf<$block>>,
        }

        impl $pool {
            /// An empty pool.
            #[must_use]
            pub fn new(context: &Context, limits: PoolLimits) -> Self {
                Self {
                    context: *context,
                    shelf: Arc::new(Shelf::new(limits, $smallest)),
                }
            }

            /// Memory of `len` bytes with unspecified content. Never waits for memory to come back.
            ///
            /// # Errors
            ///
            /// [`MemoryError::PoolExhausted`] at the limit, else as `new` of the memory.
            pub fn allocate(&self, len: usize) -> Result<$memory, MemoryError> {
                let pooled = self.shelf.take(len, |size| $block::new(&self.context, size))?;
                Ok($memory::from_block(pooled, len))
            }

            /// Frees memory kept for reuse until at most `max_idle_bytes` of it are left, largest first.
            pub fn trim(&self, max_idle_bytes: usize) {
                self.shelf.trim(max_idle_bytes);
            }

            /// What the pool holds and did.
            #[must_use]
            pub fn stats(&self) -> PoolStats {
                self.shelf.stats()
            }
        }
    };
}

pool! {
    /// A pool of [`DeviceMemory`].
    DevicePool, DeviceMemory, DeviceBlock, 512
}

pool! {
    /// A pool of [`PinnedMemory`].
    PinnedPool, PinnedMemory, PinnedBlock, 4096
}

/// An allocation that can be kept for reuse.
pub(super) trait Block: Send + 'static {
    /// Its bytes.
    fn len(&self) -> usize;
    /// Whether it can be used again.
    fn is_usable(&self) -> bool;
}

/// A block in use, which goes back to its shelf, if it has one that is still there, or is freed.
pub(super) struct PooledBlock<B: Block> {
    /// Taken when dropped.
    block: ManuallyDrop<B>,
    shelf: Weak<Shelf<B>>,
}

impl<B: Block> PooledBlock<B> {
    /// A block that belongs to no shelf.
    pub(super) fn owned(block: B) -> Self {
        Self { block: ManuallyDrop::new(block), shelf: Weak::new() }
    }

    pub(super) fn block(&self) -> &B {
        &self.block
    }
}

impl<B: Block> Drop for PooledBlock<B> {
    fn drop(&mut self) {
        // SAFETY: dropped once, and `block` is not used again.
        let block = unsafe { ManuallyDrop::take(&mut self.block) };
        if let Some(shelf) = self.shelf.upgrade() {
            shelf.put(block);
        }
    }
}

impl<B: Block> fmt::Debug for PooledBlock<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PooledBlock")
            .field("pooled", &(self.shelf.strong_count() > 0))
            .finish_non_exhaustive()
    }
}

struct Shelf<B> {
    limits: PoolLimits,
    smallest: usize,
    content: Mutex<Content<B>>,
}

struct Content<B> {
    /// By size. No list is empty.
    idle: BTreeMap<usize, Vec<B>>,
    stats: PoolStats,
}

impl<B: Block> Shelf<B> {
    fn new(limits: PoolLimits, smallest: usize) -> Self {
        Self {
            limits,
            smallest,
            content: Mutex::new(Content { idle: BTreeMap::new(), stats: PoolStats::default() }),
        }
    }

    fn take(
        self: &Arc<Self>,
        len: usize,
        allocate: impl Fn(usize) -> Result<B, MemoryError>,
    ) -> Result<PooledBlock<B>, MemoryError> {
        let size =
            size_class(checked_len(len)?, self.smallest).ok_or(MemoryError::TooLarge { len })?;
        let mut content = lock(&self.content);
        if let Some(block) = content.pop(size) {
            content.stats.reused += 1;
            content.count_in_use(size);
            return Ok(self.in_use(block));
        }
        let in_use = content.stats.in_use_bytes;
        let limit = self.limits.max_bytes;
        let Some(room) = limit.checked_sub(in_use).and_then(|room| room.checked_sub(size)) else {
            content.stats.refused += 1;
            return Err(MemoryError::PoolExhausted { len: size, in_use, limit });
        };
        // Idle memory of other sizes makes room.
        let evicted = content.evict(room);
        content.count_in_use(size);
        // Getting memory from the driver takes long, so it happens without the lock, as does freeing.
        drop(content);
        drop(evicted);
        let allocated = match allocate(size) {
            Err(error) if error.is_out_of_memory() && self.stats().idle_bytes > 0 => {
                self.trim(0);
                allocate(size)
            }
            result => result,
        };
        let mut content = lock(&self.content);
        match allocated {
            Ok(block) => {
                content.stats.allocated += 1;
                Ok(self.in_use(block))
            }
            Err(error) => {
                content.stats.in_use_bytes -= size;
                Err(error)
            }
        }
    }

    fn in_use(self: &Arc<Self>, block: B) -> PooledBlock<B> {
        PooledBlock { block: ManuallyDrop::new(block), shelf: Arc::downgrade(self) }
    }

    fn put(&self, block: B) {
        let size = block.len();
        let mut content = lock(&self.content);
        content.stats.in_use_bytes -= size;
        let fits = content
            .stats
            .idle_bytes
            .checked_add(size)
            .is_some_and(|idle| idle <= self.limits.max_idle_bytes);
        if fits && block.is_usable() {
            content.stats.idle_bytes += size;
            content.idle.entry(size).or_default().push(block);
        } else {
            drop(content);
            drop(block);
        }
    }

    fn trim(&self, max_idle_bytes: usize) {
        let evicted = lock(&self.content).evict(max_idle_bytes);
        drop(evicted);
    }

    fn stats(&self) -> PoolStats {
        lock(&self.content).stats
    }
}

impl<B: Block> Content<B> {
    fn count_in_use(&mut self, size: usize) {
        self.stats.in_use_bytes += size;
        self.stats.peak_bytes = self.stats.peak_bytes.max(self.stats.in_use_bytes);
    }

    /// Takes an idle block of exactly this size.
    fn pop(&mut self, size: usize) -> Option<B> {
        let blocks = self.idle.get_mut(&size)?;
        let block = blocks.pop();
        if blocks.is_empty() {
            self.idle.remove(&size);
        }
        if block.is_some() {
            self.stats.idle_bytes -= size;
        }
        block
    }

    /// Takes idle blocks, largest first, until at most `max_idle_bytes` are left.
    fn evict(&mut self, max_idle_bytes: usize) -> Vec<B> {
        let mut evicted = Vec::new();
        while self.stats.idle_bytes > max_idle_bytes {
            let largest = self.idle.keys().next_back().copied();
            match largest.and_then(|size| self.pop(size)) {
                Some(block) => evicted.push(block),
                None => break,
            }
        }
        evicted
    }
}

impl<B> fmt::Debug for Shelf<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shelf")
            .field("limits", &self.limits)
            .field("stats", &lock(&self.content).stats)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::fake::Fake;
    use super::*;

    #[test]
    fn memory_comes_back_and_is_reused() {
        let fake = Fake::new();
        let pool = DevicePool::new(&fake.context(0), PoolLimits::new(1 << 20));
        let first = pool.allocate(1000).unwrap();
        let address = first.address();
        assert_eq!(first.len(), 1000);
        drop(first);
        assert_eq!(fake.count("cuMemFree"), 0);
        let second = pool.allocate(1001).unwrap();
        assert_eq!((second.address(), second.len()), (address, 1001));
        let stats = pool.stats();
        assert_eq!((stats.allocated, stats.reused, stats.refused), (1, 1, 0));
        assert_eq!((stats.in_use_bytes, stats.idle_bytes), (1024, 0));
    }

    #[test]
    fn the_limit_is_a_specific_error() {
        let fake = Fake::new();
        let pool = PinnedPool::new(&fake.context(0), PoolLimits::new(10_000));
        let held = pool.allocate(8192).unwrap();
        assert_eq!(
            pool.allocate(2000).err(),
            Some(MemoryError::PoolExhausted { len: 4096, in_use: 8192, limit: 10_000 })
        );
        assert_eq!(pool.stats().refused, 1);
        drop(held);
        assert!(pool.allocate(2000).is_ok(), "idle memory makes room");
        assert_eq!(fake.count("cuMemFreeHost"), 1);
        assert_eq!(pool.allocate(0).err(), Some(MemoryError::Empty));
        assert_eq!(pool.allocate(isize::MAX as usize).is_err(), pool.allocate(usize::MAX).is_err());
    }

    #[test]
    fn what_is_out_when_the_pool_goes_is_freed_when_it_comes_back() {
        let fake = Fake::new();
        let pool = DevicePool::new(&fake.context(0), PoolLimits::new(1 << 20));
        let (held, idle) = (pool.allocate(4096).unwrap(), pool.allocate(512).unwrap());
        drop(idle);
        drop(pool);
        assert_eq!(fake.live_bytes(), 4096);
        drop(held);
        assert_eq!(fake.live_bytes(), 0);
        assert_eq!(fake.faults(), Vec::<String>::new());
    }

    #[test]
    fn idle_memory_is_given_up_when_the_device_has_no_more() {
        let fake = Fake::new();
        let pool = DevicePool::new(&fake.context(0), PoolLimits::new(1 << 20));
        drop(pool.allocate(4096).unwrap());
        fake.fail("cuMemAlloc", 2, 1);
        let held = pool.allocate(8192).unwrap();
        assert_eq!(fake.live_bytes(), 8192);
        fake.fail("cuMemAlloc", 2, 1);
        assert!(pool.allocate(512).is_err_and(|error| error.is_out_of_memory()));
        drop(held);
        assert_eq!(pool.stats().in_use_bytes, 0);
    }

    #[test]
    fn memory_of_a_broken_context_is_not_reused() {
        let fake = Fake::new();
        let context = fake.context(0);
        let pool = DevicePool::new(&context, PoolLimits::new(1 << 20));
        let memory = pool.allocate(512).unwrap();
        fake.fail("cuCtxSynchronize", 700, 1);
        assert!(context.synchronize().is_err());
        drop(memory);
        assert_eq!(pool.stats().idle_bytes, 0);
        assert_eq!(context.leaked(), 1);
    }

    proptest! {
        #[test]
        fn limits_and_counters_hold(
            steps in proptest::collection::vec((1..20_000_usize, 0..4_u8), 1..60),
            max_bytes in 0..60_000_usize, max_idle_bytes in 0..60_000_usize,
        ) {
            let fake = Fake::new();
            let limits = PoolLimits::new(max_bytes).with_max_idle_bytes(max_idle_bytes);
            let pool = DevicePool::new(&fake.context(0), limits);
            let mut held = Vec::new();
            for (len, step) in steps {
                match step {
                    0 | 1 => match pool.allocate(len) {
                        Ok(memory) => {
                            prop_assert_eq!(memory.len(), len);
                            held.push(memory);
                        }
                        Err(error) => prop_assert!(error.is_out_of_memory()),
                    },
                    2 if !held.is_empty() => {
                        held.swap_remove(len % held.len());
                    }
                    2 => {}
                    _ => {
                        pool.trim(len);
                        prop_assert!(pool.stats().idle_bytes <= len);
                    }
                }
                let stats = pool.stats();
                prop_assert_eq!(stats.in_use_bytes + stats.idle_bytes, fake.live_bytes());
                prop_assert!(stats.in_use_bytes + stats.idle_bytes <= max_bytes);
                prop_assert!(stats.idle_bytes <= max_idle_bytes);
                prop_assert!(stats.in_use_bytes >= held.iter().map(DeviceMemory::len).sum());
            }
            held.clear();
            pool.trim(0);
            prop_assert_eq!(fake.live_bytes(), 0);
            prop_assert_eq!(fake.faults(), Vec::<String>::new());
        }
    }
}
