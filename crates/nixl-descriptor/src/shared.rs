//! Shared host memory, which other processes of this machine can map.
//!
//! It is an anonymous file (`memfd_create`), which has no path: a process that gets its [`SharedName`], and
//! that may look into the owner (in `ptrace`'s sense: usually of the same user), opens it through the owner's
//! descriptors in `/proc`. The file cannot shrink, so a mapping of it stays valid, also
//! after the owner has ended.
#![allow(unsafe_code, reason = "maps files")]

mod error;
mod name;
mod own;
mod region;
#[cfg(test)]
mod tests;

pub use error::SharedMemoryError;
pub use name::{Presence, SharedName, Unprovable};
pub(crate) use own::{disown, own, own_file};

use std::fs::File;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU32, AtomicU64};
use std::sync::{Arc, Mutex};

use memmap2::{MmapMut, MmapOptions};
use nixl_device::Device;
use nixl_device::locks::lock;
use rustix::fs::{FallocateFlags, OFlags, SealFlags};

use crate::access::Access;
use crate::huge_pages;
use crate::memfd;
use crate::memory::Memory;
use crate::region::RegionError;

/// Host memory that other processes of this machine can map. Make a [`Region`](crate::Region) of it to use it.
#[derive(Debug)]
pub struct SharedMemory {
    map: MmapMut,
    /// The file that others open, kept as long as the memory lives or until it is withdrawn. `None` in a process that opened it.
    file: Mutex<Option<Arc<File>>>,
    name: SharedName,
}

impl SharedMemory {
    /// `len` zero bytes. Pages are taken from the system when first touched.
    ///
    /// # Errors
    ///
    /// [`RegionError::Empty`], or [`RegionError::OutOfMemory`] with the system's error.
    pub fn new(len: usize) -> Result<Self, RegionError> {
        let (file, name) = memfd::create(len)?;
        let seals = SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL;
        memfd::seal(&file, seals).map_err(|error| memfd::out_of_memory(len, error))?;
        let map = map(&file, len).map_err(|error| memfd::out_of_memory(len, error))?;
        let file = Arc::new(file);
        own().insert(name, Arc::downgrade(&file));
        let name = memfd::name_of(&file, name, len);
        Ok(Self { map, file: Mutex::new(Some(file)), name })
    }

    /// As [`new`](Self::new), with a request for huge pages, of which the system gives as many as it has: fewer page faults, and
    /// fewer entries of page tables and of a NIC's. For caches of gigabytes: a first touch clears 2 MiB, memory that is touched in parts
    /// takes whole huge pages, and bytes behind the last whole 2 MiB lie on small ones. For memory of this process alone, the system is
    /// asked through its own mapping (`madvise`), before that becomes a region.
    ///
    /// These are transparent huge pages. Those that an administrator reserves (`vm.nr_hugepages`) are not shared: a process that
    /// has the file may punch a hole into it, and the next access ends the owner if no reserved page is left.
    ///
    /// # Errors
    ///
    /// As there, and [`RegionError::NoHugePages`] if a setting of the system forbids them.
    pub fn with_huge_pages(len: usize) -> Result<Self, RegionError> {
        huge_pages::check()?;
        let memory = Self::new(len)?;
        let advised = memory.map.advise(memmap2::Advice::HugePage);
        advised.map_err(|error| memfd::out_of_memory(len, error))?;
        Ok(memory)
    }

    /// Maps the memory that another process calls this.
    ///
    /// # Errors
    ///
    /// [`SharedMemoryError`]
    pub fn open(name: &SharedName) -> Result<Self, SharedMemoryError> {
        let seals = SealFlags::empty();
        let (file, len) = memfd::open(name, OFlags::RDWR, seals, SharedMemoryError::MayShrink)?;
        let map = map(&file, len).map_err(memfd::refused("map"))?;
        Ok(Self { map, file: Mutex::new(None), name: *name })
    }

    /// What other processes open it by.
    #[must_use]
    pub fn name(&self) -> SharedName {
        self.name
    }

    pub(crate) fn into_memory(mut self) -> Result<Memory, RegionError> {
        let (address, len) = (self.map.as_mut_ptr(), self.map.len());
        let base = NonNull::new(address).ok_or(RegionError::Empty)?;
        // SAFETY: moving the owner does not move the mapping, which stays valid independently of the file. Only
        // regions reach the bytes: the owner's own, and those of processes that got its name, as peers do.
        unsafe { Memory::new(base, len, Device::HOST, Access::ReadWrite, Box::new(self)) }
    }

    /// Withdraws the file from other processes, and returns its pages to the system. Existing mappings stay, of peers and of this
    /// process: a late write goes to pages without an owner.
    ///
    /// For good: a peer may have pinned pages that are no longer the file's, so the two sides see different bytes from now on.
    pub(crate) fn withdraw(&self) {
        // A fork's child has the file in common with its parent.
        if self.name.pid != std::process::id() {
            return;
        }
        let file = lock(&self.file).take();
        let Some(file) = file else { return };
        disown(&self.name);
        let hole = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        // If the system cannot, the pages stay until the mapping goes. Miri's memory has no file.
        if !cfg!(miri) {
            let _ = rustix::fs::fallocate(&file, hole, 0, self.name.len);
        }
    }

    /// The 8 bytes from `8 * index` on, which all processes that have the memory change atomically. `None` beyond the end.
    #[must_use]
    pub fn word(&self, index: usize) -> Option<&AtomicU64> {
        let at = index.checked_mul(size_of::<AtomicU64>())?;
        let end = at.checked_add(size_of::<AtomicU64>())?;
        if end > self.map.len() {
            return None;
        }
        // SAFETY: the word lies in the mapping, which stays valid as long as `self`, and is aligned, since mappings begin
        // with a page. In this process nothing else reaches the bytes while `self` is borrowed: a region of them takes
        // `self`. What other processes write may be any number, and any number is a word.
        Some(unsafe { &*self.map.as_ptr().wrapping_add(at).cast::<AtomicU64>() })
    }

    /// The 4 bytes from `4 * index` on, which all processes that have the memory change atomically, and on which they can wait
    /// (`futex`). `None` beyond the end. Bytes that are used so are never used as part of a [`word`](Self::word): processors
    /// and the language's memory model leave open what atomic accesses of two sizes to the same bytes come to.
    #[must_use]
    pub fn half_word(&self, index: usize) -> Option<&AtomicU32> {
        let at = index.checked_mul(size_of::<AtomicU32>())?;
        let end = at.checked_add(size_of::<AtomicU32>())?;
        if end > self.map.len() {
            return None;
        }
        // SAFETY: as for `word`.
        Some(unsafe { &*self.map.as_ptr().wrapping_add(at).cast::<AtomicU32>() })
    }
}

impl Drop for SharedMemory {
    fn drop(&mut self) {
        if self.file.get_mut().is_ok_and(|file| file.is_some()) {
            disown(&self.name);
        }
    }
}

/// Maps the first bytes of a file that has as many and cannot shrink.
fn map(file: &File, len: usize) -> std::io::Result<MmapMut> {
    if cfg!(miri) {
        return MmapOptions::new().len(len).map_anon();
    }
    // SAFETY: the file keeps these bytes. No reference to them is ever made: a region copies them.
    unsafe { MmapOptions::new().len(len).map_mut(file) }
}
