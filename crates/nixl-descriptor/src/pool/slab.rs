//! Slabs of a pool, and the blocks of them that are in use.
#![allow(unsafe_code, reason = "vouches for the bounds and the owner of parts of memory")]

use std::any::Any;
#[cfg(feature = "cuda")]
use std::ptr::NonNull;
use std::sync::Arc;

#[cfg(feature = "cuda")]
use nixl_device::cuda::{Context, HostRegistration};

use super::Shelves;
use super::class::Class;
use crate::access::Access;
use crate::extent::Extent;
use crate::memory::Memory;
use crate::region::{Region, RegionError, RegionId};
use crate::shared::SharedMemory;

/// A mapped file, which engines and peers know as a whole.
#[derive(Debug)]
pub(super) struct Slab {
    class: Class,
    region: Region,
}

impl Slab {
    pub(super) fn new(class: Class) -> Result<Self, RegionError> {
        let memory = SharedMemory::new(class.slab)?.into_memory()?.divisible();
        Ok(Self { class, region: Region::from_memory(memory) })
    }

    pub(super) fn id(&self) -> RegionId {
        self.region.id()
    }

    pub(super) fn class(&self) -> Class {
        self.class
    }

    /// Gives up the registrations, the name and the pages, so that nothing but the mapping is left. For good. Does not block
    /// on an engine; the system takes some 0.1 ms for each MiB that has pages.
    pub(super) fn withdraw(&self) {
        self.region.engine_caches().retire_all(self.region.id());
        if let Some(memory) = self.region.memory().owner::<SharedMemory>() {
            memory.withdraw();
        }
    }

    /// # Safety
    ///
    /// Until `owner` is dropped it keeps this slab, and no other part has any of the bytes.
    unsafe fn part(
        &self,
        extent: Extent,
        owner: impl Any + Send + Sync,
    ) -> Result<Region, RegionError> {
        let whole = self.region.memory();
        // SAFETY: the slab keeps its memory; the rest is the caller's promise.
        let memory = unsafe { whole.part(extent, Box::new(owner)) };
        Ok(Region::part_of(&self.region, memory.ok_or(RegionError::Empty)?))
    }
}

/// A block that nothing else uses. Goes back to the pool when dropped.
pub(crate) struct Block {
    slab: Arc<Slab>,
    index: usize,
    /// It may have bytes of an earlier use.
    used_before: bool,
    pool: Arc<Shelves>,
}

impl Block {
    /// The pool has taken the block from its free ones, for this alone.
    pub(super) fn new(
        slab: Arc<Slab>,
        index: usize,
        used_before: bool,
        pool: Arc<Shelves>,
    ) -> Self {
        Self { slab, index, used_before, pool }
    }

    /// Its first `len` bytes, which it has at least.
    fn extent(&self, len: usize) -> Extent {
        let Class { block, .. } = self.slab.class;
        debug_assert!(len <= block);
        let start = self.index * block;
        Extent { start, end: start + len }
    }

    /// The first `len` bytes as a region, with unspecified content.
    pub(crate) fn into_region(self, len: usize) -> Result<Region, RegionError> {
        let (slab, extent) = (Arc::clone(&self.slab), self.extent(len));
        // SAFETY: the block keeps the slab, and is handed out again only when it is dropped.
        unsafe { slab.part(extent, self) }
    }

    /// The first `len` bytes as a region, all zero.
    pub(crate) fn into_zeroed(self, len: usize) -> Result<Region, RegionError> {
        let used_before = self.used_before;
        let region = self.into_region(len)?;
        make_zero(&region, used_before);
        Ok(region)
    }

    /// As [`into_zeroed`](Self::into_zeroed), and pinned.
    #[cfg(feature = "cuda")]
    pub(crate) fn into_pinned(self, context: &Context, len: usize) -> Result<Region, RegionError> {
        let (slab, extent, used_before) =
            (Arc::clone(&self.slab), self.extent(len), self.used_before);
        let base = NonNull::new((slab.region.address() + extent.start as u64) as *mut u8);
        let base = base.ok_or(RegionError::Empty)?;
        // SAFETY: the block keeps the mapping, wherever it is moved. Its pages are in no other region, and in this process
        // only the region below reaches the bytes, by address; those of other processes learn of the memory's use as
        // peers are.
        let pinned = unsafe { HostRegistration::from_raw_parts(context, base, len, self) };
        let pinned = pinned.map_err(|error| RegionError::OutOfMemory {
            len,
            message: format!("pinned: {error}"),
            source: Some(error.into()),
        })?;
        // SAFETY: the registration keeps the block, which keeps the slab and is handed out again only when it is dropped.
        let region = unsafe { slab.part(extent, pinned) }?;
        make_zero(&region, used_before);
        Ok(region)
    }
}

/// Of a region that was just made.
fn make_zero(region: &Region, used_before: bool) {
    debug_assert!(region.access() == Access::ReadWrite && region.device().is_host());
    let memory: &Memory = region.memory();
    if used_before {
        // By writing. A hole in the file would be slower, since each page would have to be taken anew, and would part this
        // process from peers that have the slab pinned.
        //
        // SAFETY: the region is writable memory of the host, and no other handle to it exists yet.
        unsafe { memory.zero() }
    }
}

impl Drop for Block {
    fn drop(&mut self) {
        self.pool.put_back(&self.slab, self.index);
    }
}
