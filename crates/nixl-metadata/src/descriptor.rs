//! One range of the target's memory, as the initiator sees it.

use std::fmt;

use nixl_device::Device;

use crate::MetadataError;

/// One range of a peer's memory: a device, an address there and a size in bytes.
///
/// The address means something to the peer and to the engine only. It is never null, the size is never zero, and their
/// sum fits 64 bits.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct SerializedDescriptor {
    device: Device,
    ptr: u64,
    size: u64,
}

impl SerializedDescriptor {
    /// Describes `size` bytes from address `ptr` of `device`.
    ///
    /// # Errors
    ///
    /// [`MetadataError::NullPointer`], [`MetadataError::ZeroSize`] or [`MetadataError::WrapAround`], each with index 0.
    pub const fn new(device: Device, ptr: u64, size: u64) -> Result<Self, MetadataError> {
        Self::at(0, device, ptr, size)
    }

    /// The same for the descriptor at a position of a list, which an error then names.
    pub(crate) const fn at(
        index: usize,
        device: Device,
        ptr: u64,
        size: u64,
    ) -> Result<Self, MetadataError> {
        if ptr == 0 {
            return Err(MetadataError::NullPointer { index });
        }
        if size == 0 {
            return Err(MetadataError::ZeroSize { index });
        }
        if ptr.checked_add(size).is_none() {
            return Err(MetadataError::WrapAround { index });
        }
        Ok(Self { device, ptr, size })
    }

    /// As many bytes at an address that is mapped by no process.
    pub(crate) const fn nowhere(self) -> Self {
        Self { ptr: 1, ..self }
    }

    /// Where the memory lives, in the peer's numbering.
    #[must_use]
    pub const fn device(&self) -> Device {
        self.device
    }

    /// The address of the first byte in the peer's address space.
    #[must_use]
    pub const fn ptr(&self) -> u64 {
        self.ptr
    }

    /// The size in bytes.
    #[must_use]
    pub const fn size(&self) -> u64 {
        self.size
    }
}

/// Shows the offset in the page instead of the address.
impl fmt::Debug for SerializedDescriptor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SerializedDescriptor")
            .field("device", &format_args!("{}", self.device))
            .field("ptr", &format_args!("0x…{:03x}", self.ptr & 0xfff))
            .field("size", &self.size)
            .finish()
    }
}
