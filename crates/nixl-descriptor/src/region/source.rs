//! Sources of regions: vectors, mappings and memory of others.
#![allow(unsafe_code)]

use std::any::Any;
use std::ptr::NonNull;

use bytemuck::Pod;
use bytes::{Bytes, BytesMut};
use memmap2::{Mmap, MmapMut};
use nixl_device::{Device, SharedError};

use super::Region;
use crate::access::Access;
use crate::memory::Memory;
use crate::shortage::explained;

/// Why memory cannot be a region.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum RegionError {
    /// The memory has no bytes. Mind that a `Vec`'s or `BytesMut`'s spare capacity does not count: resize it first.
    #[error("the memory is empty: a region has at least one byte")]
    Empty,
    /// The end of the memory is not an address, or the memory is larger than any allocation can be.
    #[error("{len} bytes at {address:#x} do not fit into the address space")]
    AddressOverflow {
        /// Address of the first byte.
        address: u64,
        /// Number of bytes.
        len: usize,
    },
    /// The allocation failed.
    #[error("cannot allocate {len} bytes: {message}")]
    OutOfMemory {
        /// Requested bytes.
        len: usize,
        /// The error of the system or of the driver, and the remedy.
        message: String,
        /// The error of the system or of the driver, if that refused.
        source: Option<SharedError>,
    },
    /// The system gives no huge pages for shared memory.
    #[error(
        "the system gives no huge pages for shared memory, by {setting}: have the administrator write `advise` there, or use \
         SharedMemory::new"
    )]
    NoHugePages {
        /// The file of the setting that forbids them.
        setting: String,
    },
}

impl Region {
    /// A region over memory that `owner` keeps valid, such as pinned or GPU memory.
    ///
    /// `owner` is dropped when the region's last handle and last registration are gone, on the thread where that
    /// happens; it comes back from [`try_into_inner`](Self::try_into_inner). Panics: never.
    ///
    /// # Errors
    /// [`RegionError::Empty`] or [`RegionError::AddressOverflow`]; `owner` is dropped.
    ///
    /// # Safety
    /// From this call until `owner` is dropped or handed back, whichever thread `owner` is moved to:
    /// * `ptr..ptr + len` is one allocation on `device` that is valid for reads, and for writes too if `access` is
    ///   [`Access::ReadWrite`]. Moving `owner` does not invalidate `ptr` (moving a `Box` that owns the bytes does).
    /// * If `device` is the host, all the bytes are initialised, and stay valid for the owner with any content.
    /// * Nothing else writes the bytes. If `access` is [`Access::ReadWrite`], nothing else reads them either, other
    ///   than handles of this region and engines that learnt the address from it. In particular `owner` has no safe way to
    ///   reach the bytes through a shared reference to itself that exists elsewhere.
    pub unsafe fn from_raw_parts(
        ptr: NonNull<u8>,
        len: usize,
        device: Device,
        access: Access,
        owner: impl Any + Send + Sync,
    ) -> Result<Self, RegionError> {
        // SAFETY: the same contract.
        unsafe { Memory::new(ptr, len, device, access, Box::new(owner)) }.map(Self::from_memory)
    }

    /// A region over a vector of plain numbers or structs; its length in bytes is that of the vector's elements.
    ///
    /// `T` of size zero does not compile. Comes back from [`try_into_pod`](Self::try_into_pod). Panics: never.
    ///
    /// # Errors
    /// [`RegionError::Empty`] if the vector is.
    pub fn from_pod<T: Pod + Send + Sync>(mut owner: Vec<T>) -> Result<Self, RegionError> {
        const {
            assert!(
                size_of::<T>() > 0,
                "a region has at least one byte, so its elements need a size"
            )
        };
        let bytes = owner.len() * size_of::<T>(); // A vector's size in bytes is at most `isize::MAX`.
        // SAFETY: a vector's pointer is not null, and moving the vector does not move the elements. `Pod` types have no
        // padding and any bytes are a value. Owned, so there is no other access.
        unsafe { host(owner.as_mut_ptr().cast(), bytes, Access::ReadWrite, owner) }
    }

    /// A region of `len` zero bytes, page-aligned and private to this process.
    ///
    /// The pages are taken from the system when first touched. The memory is an anonymous `memmap2::MmapMut`, which
    /// [`try_into_inner`](Self::try_into_inner) returns. Panics: never.
    ///
    /// # Errors
    /// [`RegionError::Empty`] or [`RegionError::OutOfMemory`].
    pub fn zeroed(len: usize) -> Result<Self, RegionError> {
        if len == 0 {
            return Err(RegionError::Empty);
        }
        let map = MmapMut::map_anon(len).map_err(|error| RegionError::OutOfMemory {
            len,
            message: explained(&error),
            source: Some(error.into()),
        })?;
        Self::try_from(map)
    }
}

/// # Safety
/// As [`Region::from_raw_parts`] on the host.
unsafe fn host(
    ptr: *mut u8,
    len: usize,
    access: Access,
    owner: impl Any + Send + Sync,
) -> Result<Region, RegionError> {
    let ptr = NonNull::new(ptr).ok_or(RegionError::Empty)?;
    // SAFETY: the same contract.
    unsafe { Region::from_raw_parts(ptr, len, Device::HOST, access, owner) }
}

/// Comes back from [`Region::try_into_vec`].
impl TryFrom<Vec<u8>> for Region {
    type Error = RegionError;

    fn try_from(owner: Vec<u8>) -> Result<Self, RegionError> {
        Self::from_pod(owner)
    }
}

/// Kept, and handed back, as a `Vec<u8>`: moving a box asserts that there is no other pointer to its content.
impl TryFrom<Box<[u8]>> for Region {
    type Error = RegionError;

    fn try_from(owner: Box<[u8]>) -> Result<Self, RegionError> {
        Self::from_pod(owner.into_vec())
    }
}

/// Read-only, because clones of the `Bytes` may be elsewhere. Comes back from [`Region::try_into_inner`].
///
/// An engine without read-only memory lets a peer that misuses its offer change the bytes all the same, and does not
/// register constants (`Bytes::from_static`) at all: see [what a region exposes](crate#what-a-registered-region-exposes).
impl TryFrom<Bytes> for Region {
    type Error = RegionError;

    fn try_from(owner: Bytes) -> Result<Self, RegionError> {
        // SAFETY: moving `Bytes` does not move its bytes, and they never change while one refers to them.
        unsafe { host(owner.as_ptr().cast_mut(), owner.len(), Access::ReadOnly, owner) }
    }
}

/// Comes back from [`Region::try_into_bytes_mut`].
impl TryFrom<BytesMut> for Region {
    type Error = RegionError;

    fn try_from(mut owner: BytesMut) -> Result<Self, RegionError> {
        // SAFETY: moving `BytesMut` does not move its bytes, and it has exclusive access to its part of the allocation.
        unsafe { host(owner.as_mut_ptr(), owner.len(), Access::ReadWrite, owner) }
    }
}

/// Comes back from [`Region::try_into_inner`].
impl TryFrom<MmapMut> for Region {
    type Error = RegionError;

    fn try_from(mut owner: MmapMut) -> Result<Self, RegionError> {
        // SAFETY: moving the handle does not move the mapping; the caller that mapped a file promised that nothing
        // else changes the file.
        unsafe { host(owner.as_mut_ptr(), owner.len(), Access::ReadWrite, owner) }
    }
}

/// Read-only. Comes back from [`Region::try_into_inner`]. An engine without read-only memory does not register it:
/// a peer's write would end the process.
impl TryFrom<Mmap> for Region {
    type Error = RegionError;

    fn try_from(owner: Mmap) -> Result<Self, RegionError> {
        // SAFETY: as for `MmapMut`, and the mapping is never written.
        unsafe { host(owner.as_ptr().cast_mut(), owner.len(), Access::ReadOnly, owner) }
    }
}
