//! Words that one process writes and others only read.
//!
//! They lie in an anonymous file of their own. The owner maps it for writing and then seals it with `F_SEAL_FUTURE_WRITE`:
//! a process that opens it by its [`SharedName`] can map it for reading only, and neither write to it nor take pages from it.
//! It can also neither shrink nor grow.
#![allow(unsafe_code, reason = "maps files")]

use std::fmt;
use std::fs::File;
use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use memmap2::{MmapOptions, MmapRaw};
use nixl_device::Device;
use rustix::fs::{OFlags, SealFlags};

use crate::access::Access;
use crate::memfd;
use crate::memory::Memory;
use crate::region::{Region, RegionError};
use crate::shared::{SharedMemoryError, SharedName, disown, own};

/// The owner's side of published words.
pub struct PublishedWords {
    map: MmapRaw,
    region: Region,
    name: SharedName,
    /// What others open it by, as long as it lives.
    _file: Arc<File>,
}

/// A reader's side of published words: a mapping that cannot be written. It stays valid after the owner has ended, with the
/// words as the owner left them.
pub struct ReadOnlyWords {
    map: MmapRaw,
    name: SharedName,
}

impl PublishedWords {
    /// `words` words, all 0. Pages are taken from the system when first touched.
    ///
    /// # Errors
    ///
    /// [`RegionError::Empty`], [`RegionError::AddressOverflow`], or [`RegionError::OutOfMemory`] with the system's error.
    pub fn new(words: usize) -> Result<Self, RegionError> {
        let len = words
            .checked_mul(size_of::<AtomicU64>())
            .ok_or(RegionError::AddressOverflow { address: 0, len: usize::MAX })?;
        let (file, name) = memfd::create(len)?;
        let map = || {
            let map = MmapOptions::new().len(len).map_raw(&file);
            map.map_err(|error| memfd::out_of_memory(len, error))
        };
        // Both before the seal, which refuses later mappings for writing.
        let (map, second) = (map()?, map()?);
        let seals = SealFlags::SHRINK | SealFlags::GROW | SealFlags::FUTURE_WRITE | SealFlags::SEAL;
        memfd::seal(&file, seals).map_err(|error| memfd::out_of_memory(len, error))?;
        let region = region(second)?;
        let file = Arc::new(file);
        own().insert(name, Arc::downgrade(&file));
        let name = memfd::name_of(&file, name, len);
        Ok(Self { map, region, name, _file: file })
    }

    /// Maps the words that another process publishes under this name.
    ///
    /// # Errors
    ///
    /// [`SharedMemoryError`]; [`MayBeWritten`](SharedMemoryError::MayBeWritten) for memory that is no file of published words.
    pub fn open(name: &SharedName) -> Result<ReadOnlyWords, SharedMemoryError> {
        let (seals, unsealed) = (SealFlags::FUTURE_WRITE, SharedMemoryError::MayBeWritten);
        let (file, len) = memfd::open(name, OFlags::RDONLY, seals, unsealed)?;
        let map = MmapOptions::new().len(len).map_raw_read_only(&file);
        Ok(ReadOnlyWords { map: map.map_err(memfd::refused("map"))?, name: *name })
    }

    /// What other processes open it by.
    #[must_use]
    pub fn name(&self) -> SharedName {
        self.name
    }

    /// Number of words, at least one.
    #[must_use]
    #[expect(clippy::len_without_is_empty, reason = "there is at least one")]
    pub fn len(&self) -> usize {
        self.map.len() / size_of::<AtomicU64>()
    }

    /// A word. `None` beyond the end.
    #[must_use]
    pub fn word(&self, index: usize) -> Option<&AtomicU64> {
        if index >= self.len() {
            return None;
        }
        // SAFETY: the word lies in the mapping, which stays valid and writable as long as `self`, and is aligned, since
        // mappings begin with a page. In this process nothing else reaches the bytes at these addresses: the region has a
        // mapping of its own. Any number is a word.
        Some(unsafe { &*self.map.as_mut_ptr().cast::<AtomicU64>().wrapping_add(index) })
    }

    /// A region of the words, for engines by which peers of other hosts read them. It is read-only: nothing of this crate
    /// writes it, and no operation can be told to. A peer that writes where it was offered to read, over an engine that
    /// checks no rights, can change the words.
    #[must_use]
    pub fn region(&self) -> &Region {
        &self.region
    }
}

impl Drop for PublishedWords {
    fn drop(&mut self) {
        disown(&self.name);
    }
}

impl ReadOnlyWords {
    /// What it was opened by.
    #[must_use]
    pub fn name(&self) -> SharedName {
        self.name
    }

    /// Number of words that are there.
    #[must_use]
    #[expect(clippy::len_without_is_empty, reason = "published words are not empty")]
    pub fn len(&self) -> usize {
        self.map.len() / size_of::<AtomicU64>()
    }

    /// The word as it is now, read without an order of its own ([`Ordering::Relaxed`]): put fences around. `None` beyond the
    /// end.
    #[must_use]
    pub fn load(&self, index: usize) -> Option<u64> {
        if index >= self.len() {
            return None;
        }
        let word = self.map.as_ptr().cast::<AtomicU64>().wrapping_add(index);
        // SAFETY: the word lies in the mapping, which stays valid as long as `self`, and is aligned. The pages cannot be
        // written here, and relaxed loads of 8 bytes from such memory are allowed. The owner writes it by atomic stores.
        Some(unsafe { &*word }.load(Ordering::Relaxed))
    }
}

/// A region over a mapping of its own.
fn region(map: MmapRaw) -> Result<Region, RegionError> {
    let (address, len) = (map.as_mut_ptr(), map.len());
    let base = NonNull::new(address).ok_or(RegionError::Empty)?;
    // SAFETY: moving the owner does not move the mapping, and nothing reaches the bytes through it: it is private here. What
    // is written to the file through the other mapping appears at these addresses as what other processes write would.
    unsafe { Memory::new(base, len, Device::HOST, Access::ReadOnly, Box::new(map)) }
        .map(Region::from_memory)
}

impl fmt::Debug for PublishedWords {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PublishedWords").field("len", &self.len()).finish_non_exhaustive()
    }
}

impl fmt::Debug for ReadOnlyWords {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ReadOnlyWords").field("len", &self.len()).finish_non_exhaustive()
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use std::os::fd::AsRawFd;
    use std::sync::atomic::Ordering::Relaxed;

    use rustix::fs::{CWD, FallocateFlags, Mode};
    use rustix::io::Errno;

    use super::*;
    use crate::access::AccessError;
    use crate::pages;
    use crate::shared::SharedMemory;

    #[test]
    #[cfg_attr(miri, ignore = "opens files in memory")]
    fn readers_see_what_the_owner_stores_and_outlive_it() {
        let words = PublishedWords::new(1000).unwrap();
        let name = words.name();
        let reader = PublishedWords::open(&name).unwrap();
        assert_eq!((words.len(), reader.len(), reader.name()), (1000, 1000, name));
        for index in [0, 1, 999] {
            words.word(index).unwrap().store(index as u64 + 7, Relaxed);
            assert_eq!(reader.load(index), Some(index as u64 + 7));
            let mut bytes = [0; 8];
            words.region().copy_to_slice(index * 8, &mut bytes).unwrap();
            assert_eq!(u64::from_ne_bytes(bytes), index as u64 + 7);
        }
        for index in [1000, usize::MAX / 8, usize::MAX] {
            assert!(words.word(index).is_none() && reader.load(index).is_none());
        }
        assert!(name.is_own() && name.is_there());
        let region = words.region().clone();
        drop(words);
        assert!(!name.is_own() && !name.is_there());
        assert_eq!(reader.load(999), Some(1006));
        assert_eq!(region.to_vec().unwrap()[7992..], 1006u64.to_ne_bytes());
    }

    #[test]
    #[cfg_attr(miri, ignore = "opens files in memory")]
    fn only_the_owner_can_write() {
        let words = PublishedWords::new(4).unwrap();
        let name = words.name();
        let reader = PublishedWords::open(&name).unwrap();
        assert!(!pages::are_writable(reader.map.as_ptr() as u64, 32));
        // Engines that know no read-only memory register writable pages only.
        assert!(pages::are_writable(words.region().address(), 32));
        assert_eq!(words.region().copy_from_slice(0, &[1]), Err(AccessError::ReadOnly));
        let opened = SharedMemory::open(&name).unwrap_err();
        assert!(matches!(opened, SharedMemoryError::Refused { call: "map", .. }), "{opened}");
        let path = format!("/proc/self/fd/{}", words._file.as_raw_fd());
        let file = rustix::fs::openat(CWD, path, OFlags::RDWR, Mode::empty()).unwrap();
        assert_eq!(rustix::io::pwrite(&file, &[1], 0), Err(Errno::PERM));
        let hole = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        assert_eq!(rustix::fs::fallocate(&file, hole, 0, 32), Err(Errno::PERM));
        assert_eq!(rustix::fs::ftruncate(&file, 0), Err(Errno::PERM));
        assert_eq!(rustix::fs::ftruncate(&file, 64), Err(Errno::PERM));
        assert_eq!(rustix::fs::fcntl_add_seals(&file, SealFlags::WRITE), Err(Errno::PERM));
        assert_eq!(reader.load(0), Some(0));
    }

    #[test]
    #[cfg_attr(miri, ignore = "opens files in memory")]
    fn memory_that_others_can_write_is_refused() {
        let shared = SharedMemory::new(64).unwrap();
        let refused = |name| PublishedWords::open(&name).unwrap_err();
        assert_eq!(refused(shared.name()), SharedMemoryError::MayBeWritten);
        let words = PublishedWords::new(4).unwrap();
        let name = words.name();
        assert_eq!(refused(SharedName { name: [1; 16], ..name }), SharedMemoryError::Gone);
        for len in [0, 33, u64::MAX] {
            assert_eq!(refused(SharedName { len, ..name }), SharedMemoryError::MayShrink);
        }
        let partly = PublishedWords::open(&SharedName { len: 15, ..name }).unwrap();
        assert_eq!((partly.len(), partly.load(0), partly.load(1)), (1, Some(0), None));
    }

    #[test]
    #[cfg_attr(miri, ignore = "opens files in memory")]
    fn sizes_without_memory_are_errors() {
        assert_eq!(PublishedWords::new(0).unwrap_err(), RegionError::Empty);
        let error = PublishedWords::new(usize::MAX / 4).unwrap_err();
        assert!(matches!(error, RegionError::AddressOverflow { .. }), "{error}");
        let error = PublishedWords::new(usize::MAX >> 5).unwrap_err();
        assert!(matches!(error, RegionError::OutOfMemory { .. }), "{error}");
    }
}
