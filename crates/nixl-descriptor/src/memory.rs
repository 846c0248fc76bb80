//! The memory of a region: one allocation, its owner, and raw copies in and out.
//!
//! This is the only place that holds a pointer to a region's memory. The pointer is derived once, when the owner moves
//! in; nothing of the owner that reaches the bytes is touched again until it moves out or is dropped, so nothing
//! invalidates the pointer. Engines change the bytes outside the language's view, therefore no reference to them is ever
//! made.
#![allow(unsafe_code)]

use std::any::Any;
use std::mem;
use std::ptr::{self, NonNull};
use std::sync::atomic::{AtomicUsize, Ordering};

use nixl_device::{Device, ForkGeneration};

use crate::access::{Access, AccessError};
use crate::copying::Copying;
use crate::disposal;
use crate::extent::Extent;
use crate::leaked;
use crate::range_locks::RangeLocks;
use crate::region::RegionError;

pub(crate) struct Memory {
    base: NonNull<u8>,
    address: u64,
    len: usize,
    device: Device,
    access: Access,
    range_locks: RangeLocks,
    /// `Some` for memory that is in use as a whole and by parts.
    copying: Option<Copying>,
    /// Registrations of which no engine has yet confirmed the end. While it is not zero the memory is not freed.
    registrations: AtomicUsize,
    /// `Some` until the owner is taken back.
    owner: Option<Box<dyn Any + Send + Sync>>,
    generation: ForkGeneration,
}

// SAFETY: the owner is `Send`; the pointer is only a way to reach what the owner keeps allocated.
unsafe impl Send for Memory {}
// SAFETY: the owner is `Sync`; the bytes are reached only by the unsafe copies below, whose callers
// promise that no two threads race on them: `region/copy.rs` is the only one, and holds a guard of the traffic.
unsafe impl Sync for Memory {}

impl Memory {
    /// # Safety
    /// As [`Region::from_raw_parts`](crate::Region::from_raw_parts).
    pub(crate) unsafe fn new(
        base: NonNull<u8>,
        len: usize,
        device: Device,
        access: Access,
        owner: Box<dyn Any + Send + Sync>,
    ) -> Result<Self, RegionError> {
        if len == 0 {
            return Err(RegionError::Empty);
        }
        // Engines turn the number back into a pointer, hence exposed.
        let address = base.as_ptr().expose_provenance() as u64;
        if address.checked_add(len as u64).is_none() || len > isize::MAX as usize {
            return Err(RegionError::AddressOverflow { address, len });
        }
        Ok(Self {
            base,
            address,
            len,
            device,
            access,
            range_locks: RangeLocks::default(),
            copying: None,
            registrations: AtomicUsize::new(0),
            owner: Some(owner),
            generation: ForkGeneration::current(),
        })
    }

    /// The same, of which [`part`](Self::part)s can be made.
    pub(crate) fn divisible(mut self) -> Self {
        self.copying = Some(Copying::whole());
        self
    }

    /// The bytes of `extent` as memory of its own, which is leased, copied and given back apart from the whole. `None` for
    /// memory that is not [`divisible`](Self::divisible), and for an extent outside it.
    ///
    /// # Safety
    /// Until `owner` is dropped it keeps the whole alive, and no other part has any of the bytes.
    pub(crate) unsafe fn part(
        &self,
        extent: Extent,
        owner: Box<dyn Any + Send + Sync>,
    ) -> Option<Self> {
        let copying = Some(self.copying.as_ref()?.part());
        if extent.start >= extent.end || extent.end > self.len {
            return None;
        }
        Some(Self {
            base: NonNull::new(self.at(extent))?,
            address: self.address + extent.start as u64,
            len: extent.len(),
            device: self.device,
            access: self.access,
            range_locks: RangeLocks::default(),
            copying,
            registrations: AtomicUsize::new(0),
            owner: Some(owner),
            generation: ForkGeneration::current(),
        })
    }

    /// Whether a process that this one was forked from has made it: then its registrations, and perhaps its pages, are of that one.
    pub(crate) fn is_inherited(&self) -> bool {
        !self.generation.is_current()
    }

    pub(crate) fn address(&self) -> u64 {
        self.address
    }

    pub(crate) fn len(&self) -> usize {
        self.len
    }

    pub(crate) fn device(&self) -> Device {
        self.device
    }

    pub(crate) fn access(&self) -> Access {
        self.access
    }

    /// Who is using which of the bytes.
    pub(crate) fn range_locks(&self) -> &RangeLocks {
        &self.range_locks
    }

    /// Checks that the host may read `len` bytes at `offset`. `None` for no bytes.
    pub(crate) fn readable(
        &self,
        offset: usize,
        len: usize,
    ) -> Result<Option<Extent>, AccessError> {
        if self.device != Device::HOST {
            return Err(AccessError::NotHost { device: self.device });
        }
        match offset.checked_add(len) {
            Some(end) if end <= self.len => Ok((len > 0).then_some(Extent { start: offset, end })),
            _ => Err(AccessError::OutOfBounds { offset, len, size: self.len }),
        }
    }

    /// Checks that the host may write `len` bytes at `offset`. `None` for no bytes.
    pub(crate) fn writable(
        &self,
        offset: usize,
        len: usize,
    ) -> Result<Option<Extent>, AccessError> {
        match self.access {
            Access::ReadOnly => Err(AccessError::ReadOnly),
            Access::ReadWrite => self.readable(offset, len),
        }
    }

    /// Copies `from` to `to`, which has room for as many bytes.
    ///
    /// # Safety
    /// `from` came from [`readable`](Self::readable); `to` is valid for writing `from.len()` bytes and not inside any
    /// region; no other thread writes `from` by this module's functions meanwhile.
    pub(crate) unsafe fn read(&self, from: Extent, to: *mut u8) {
        let _alone = self.copying.as_ref().map(Copying::enter);
        // SAFETY: `from` is inside the allocation, the caller vouches for `to`.
        unsafe { ptr::copy_nonoverlapping(self.at(from).cast_const(), to, from.len()) }
    }

    /// Copies `from` to `to`, which is as long.
    ///
    /// # Safety
    /// `to` came from [`writable`](Self::writable); `from` is valid for reading `to.len()` bytes and not inside any
    /// writable region; no other thread reads or writes `to` by this module's functions meanwhile.
    pub(crate) unsafe fn write(&self, from: *const u8, to: Extent) {
        let _alone = self.copying.as_ref().map(Copying::enter);
        // SAFETY: `to` is inside the allocation and writable, the caller vouches for `from`.
        unsafe { ptr::copy_nonoverlapping(from, self.at(to), to.len()) }
    }

    /// Copies bytes between memories, or within one; the ranges may overlap.
    ///
    /// # Safety
    /// `from` came from `source.readable`, `to` from `target.writable`, and they are equally long; no other thread
    /// writes `from`, or reads or writes `to`, by this module's functions meanwhile.
    pub(crate) unsafe fn copy(source: &Self, from: Extent, target: &Self, to: Extent) {
        debug_assert_eq!(from.len(), to.len());
        let _alone = Copying::enter_both(source.copying.as_ref(), target.copying.as_ref());
        // SAFETY: both are inside their allocations; `ptr::copy` allows overlap.
        unsafe { ptr::copy(source.at(from).cast_const(), target.at(to), to.len()) }
    }

    /// Makes all bytes zero.
    ///
    /// # Safety
    /// The memory is the host's and writable, and nothing else in this process reads or writes it meanwhile, except engines.
    pub(crate) unsafe fn zero(&self) {
        let _alone = self.copying.as_ref().map(Copying::enter);
        // SAFETY: the memory has `len` bytes, which may be written by the caller's promise.
        unsafe { ptr::write_bytes(self.base.as_ptr(), 0, self.len) }
    }

    /// The first byte of `extent`, which lies inside the memory.
    fn at(&self, extent: Extent) -> *mut u8 {
        debug_assert!(extent.end <= self.len);
        // The extent was checked, so this does not leave the allocation; `wrapping_add` keeps it a safe call.
        self.base.as_ptr().wrapping_add(extent.start)
    }

    /// Counts a registration that is about to be made.
    pub(crate) fn begin_registration(&self) {
        self.registrations.fetch_add(1, Ordering::Relaxed);
    }

    /// Counts a registration that the engine confirmed to have ended, or never made.
    pub(crate) fn end_registration(&self) {
        // Release: what the engine did happens before the memory is freed; pairs with the fence of dropping the `Arc`.
        self.registrations.fetch_sub(1, Ordering::Release);
    }

    /// Whether an engine may still know this memory.
    pub(crate) fn is_registered(&self) -> bool {
        self.registrations.load(Ordering::Acquire) != 0
    }

    pub(crate) fn is_owned_by<T: Any>(&self) -> bool {
        self.owner.as_deref().is_some_and(<dyn Any + Send + Sync>::is::<T>)
    }

    /// The owner, if it is a `T`: one whose shared reference does not reach the bytes.
    pub(crate) fn owner<T: Any>(&self) -> Option<&T> {
        self.owner.as_deref()?.downcast_ref()
    }

    /// Moves the owner out, if it is a `T` and no engine may know the memory. Exclusive access proves that no copy is under way.
    pub(crate) fn take_owner<T: Any>(&mut self) -> Option<T> {
        if self.is_registered() {
            return None;
        }
        match self.owner.take()?.downcast::<T>() {
            Ok(owner) => Some(*owner),
            Err(other) => {
                self.owner = Some(other as Box<dyn Any + Send + Sync>);
                None
            }
        }
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        if self.is_inherited() {
            // Its owner may have locks, threads or files in common with the parent.
            mem::forget(self.owner.take());
        } else if self.is_registered() {
            // An engine did not confirm the deregistration, so it may write here at any time: never reuse the memory.
            mem::forget(self.owner.take());
            leaked::count_region(self.len as u64);
        } else if let Some(owner) = self.owner.take() {
            disposal::dispose(owner);
        }
    }
}
