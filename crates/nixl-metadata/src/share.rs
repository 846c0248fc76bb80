//! Memory that other processes of the owner's host can open.

use std::fmt;
use std::ops::Range;

use nixl_device::{Device, DeviceKind};

use crate::{MetadataError, SerializedDescriptor};

/// A run of descriptors whose memory other processes of the owner's host can open, and where it lies in there.
///
/// All descriptors of the run are on one device and within the memory that [`kind`](Self::kind) names. The first begins
/// [`offset`](Self::offset) bytes into it; each other one as far from the first as the addresses of the two are apart.
/// [`RdmaMetadata::with_shares`](crate::RdmaMetadata::with_shares) checks this, and the decoder does.
///
/// It is a hint: whether the memory can be opened shows when it is tried. A process that opens it has access to all of it, so
/// `Debug` does not show what names it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Share {
    descriptors: Range<usize>,
    kind: ShareKind,
    offset: u64,
}

/// What names shared memory.
#[derive(Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum ShareKind {
    /// Memory of a CUDA device, that of the descriptors.
    CudaIpc {
        /// CUDA's handle of 64 bytes, then the number of bytes that can be reached by it in little endian, as
        /// `nixl_device::cuda::IpcMemoryHandle::to_bytes` gives them.
        handle: [u8; 72],
    },
    /// Host memory in an open file of a process, such as one made by `memfd_create`, that is reached through
    /// `/proc/PID/fd/FD` in the owner's PID namespace.
    ///
    /// What is there may be anything that the peer chose to name. Before it is mapped, make sure that it is this file, has
    /// these bytes and cannot shrink.
    File {
        /// The process.
        pid: u32,
        /// Its file descriptor.
        fd: u32,
        /// Random, and part of the file's own name: `nixl-` and these in hexadecimal digits. Tells the file from what the
        /// numbers name once its owner is gone, and from files that the peer has no business to name.
        name: [u8; 16],
        /// The number of bytes of the file.
        length: u64,
    },
}

impl Share {
    /// A share of the memory of `descriptors`, a range of positions in the offer, which can be opened by `kind` and begins
    /// `offset` bytes into it. Is checked when it is [added](crate::RdmaMetadata::with_shares) to an offer.
    #[must_use]
    pub const fn new(descriptors: Range<usize>, kind: ShareKind, offset: u64) -> Self {
        Self { descriptors, kind, offset }
    }

    /// The positions of the descriptors in the offer.
    #[must_use]
    pub fn descriptors(&self) -> Range<usize> {
        self.descriptors.clone()
    }

    /// What names the memory.
    #[must_use]
    pub const fn kind(&self) -> &ShareKind {
        &self.kind
    }

    /// Where the first descriptor begins in the memory, in bytes.
    #[must_use]
    pub const fn offset(&self) -> u64 {
        self.offset
    }

    /// Where a descriptor of the same run begins in the memory.
    pub(crate) fn place(
        &self,
        first: &SerializedDescriptor,
        descriptor: &SerializedDescriptor,
    ) -> Option<u64> {
        self.place_of(first.ptr(), descriptor.ptr())
    }

    /// The same by the addresses of both.
    pub(crate) const fn place_of(&self, first: u64, address: u64) -> Option<u64> {
        match address.checked_sub(first) {
            Some(behind) => self.offset.checked_add(behind),
            None => self.offset.checked_sub(first - address),
        }
    }

    /// Checks the share at `index` against the offer's descriptors.
    fn check(&self, index: usize, all: &[SerializedDescriptor]) -> Result<(), MetadataError> {
        let range = || MetadataError::ShareRange { index, count: all.len() };
        let run = all.get(self.descriptors()).ok_or_else(range)?;
        let first = run.first().ok_or_else(range)?;
        let length = self.kind.length();
        for (descriptor, position) in run.iter().zip(self.descriptors()) {
            if descriptor.device() != first.device() || !self.kind.is_of(descriptor.device()) {
                return Err(MetadataError::ShareDevice { index, descriptor: position });
            }
            self.place(first, descriptor)
                .and_then(|place| place.checked_add(descriptor.size()))
                .filter(|&end| end <= length)
                .ok_or(MetadataError::ShareBounds { index, descriptor: position })?;
        }
        Ok(())
    }
}

/// Checks the shares of an offer: runs that ascend and do not overlap, each within its memory.
pub(crate) fn check(
    shares: &[Share],
    descriptors: &[SerializedDescriptor],
) -> Result<(), MetadataError> {
    check_count(shares.len(), descriptors.len())?;
    let mut free = 0;
    for (index, share) in shares.iter().enumerate() {
        share.check(index, descriptors)?;
        if share.descriptors.start < free {
            return Err(MetadataError::ShareOrder { index });
        }
        free = share.descriptors.end;
    }
    Ok(())
}

/// Refuses more shares than there can be: each has a descriptor of its own.
pub(crate) fn check_count(shares: usize, descriptors: usize) -> Result<(), MetadataError> {
    if shares > descriptors {
        return Err(MetadataError::TooManyShares { limit: descriptors });
    }
    Ok(())
}

impl ShareKind {
    /// The number of bytes of the memory, as the owner states it.
    #[must_use]
    pub fn length(&self) -> u64 {
        match self {
            Self::CudaIpc { handle } => {
                let [.., a, b, c, d, e, f, g, h] = *handle;
                u64::from_le_bytes([a, b, c, d, e, f, g, h])
            }
            Self::File { length, .. } => *length,
        }
    }

    fn is_of(&self, device: Device) -> bool {
        match self {
            Self::CudaIpc { .. } => device.kind() == DeviceKind::Cuda,
            Self::File { .. } => device.is_host(),
        }
    }
}

/// Shows no handle.
impl fmt::Debug for ShareKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::CudaIpc { .. } => {
                f.debug_struct("CudaIpc").field("length", &self.length()).finish_non_exhaustive()
            }
            Self::File { length, .. } => {
                f.debug_struct("File").field("length", length).finish_non_exhaustive()
            }
        }
    }
}
