//! Regions of memory that the CUDA driver allocated.
#![allow(unsafe_code)]

use std::any::Any;
use std::ptr::NonNull;

use nixl_device::Device;
use nixl_device::cuda::{DeviceMemory, PinnedMemory, VirtualMemory};

use super::{Region, RegionError};
use crate::access::Access;

impl TryFrom<DeviceMemory> for Region {
    type Error = RegionError;

    /// A region of the GPU's memory.
    fn try_from(memory: DeviceMemory) -> Result<Self, RegionError> {
        let (address, len, device) = (memory.address(), memory.len(), memory.context().device());
        // SAFETY: the memory has `len` bytes there and keeps them until it is dropped, and the region is its only user.
        unsafe { Self::from_address(address, len, device, memory) }
    }
}

impl TryFrom<VirtualMemory> for Region {
    type Error = RegionError;

    /// A region of the GPU's memory, which other processes open by file descriptors.
    fn try_from(memory: VirtualMemory) -> Result<Self, RegionError> {
        let (address, len, device) = (memory.address(), memory.len(), memory.context().device());
        // SAFETY: the memory has `len` bytes there and keeps them until it is dropped, and the region is its only user.
        unsafe { Self::from_address(address, len, device, memory) }
    }
}

impl TryFrom<PinnedMemory> for Region {
    type Error = RegionError;

    /// A region of host memory that GPUs reach directly.
    fn try_from(memory: PinnedMemory) -> Result<Self, RegionError> {
        let (address, len) = (memory.address(), memory.len());
        // SAFETY: the memory has `len` bytes there and keeps them until it is dropped, and the region is its only user.
        unsafe { Self::from_address(address, len, Device::HOST, memory) }
    }
}

impl Region {
    /// # Safety
    ///
    /// As for [`from_raw_parts`](Self::from_raw_parts).
    unsafe fn from_address(
        address: u64,
        len: usize,
        device: Device,
        owner: impl Any + Send + Sync,
    ) -> Result<Self, RegionError> {
        let base = NonNull::new(address as *mut u8).ok_or(RegionError::Empty)?;
        // SAFETY: the caller vouches for the memory.
        unsafe { Self::from_raw_parts(base, len, device, Access::ReadWrite, owner) }
    }
}
