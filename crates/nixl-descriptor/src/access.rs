//! Access rights of memory, and errors of copies.

use nixl_device::Device;

use crate::lease::LeaseMode;

/// What peers, transfers and copies may do with a region.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
#[non_exhaustive]
pub enum Access {
    /// The memory may be read and never written, because others may hold `&[u8]` to it.
    ReadOnly,
    /// The memory may be read and written.
    ReadWrite,
}

/// Why bytes of a region could not be copied. Nothing was copied.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum AccessError {
    /// The range is not inside the memory.
    #[error("bytes {offset}..{offset}+{len} are not inside the {size} bytes there are")]
    OutOfBounds {
        /// First requested byte.
        offset: usize,
        /// Requested number of bytes.
        len: usize,
        /// Number of bytes there are.
        size: usize,
    },
    /// Source and destination differ in length.
    #[error("source has {src} bytes and destination {dst}: they must be equal")]
    LengthMismatch {
        /// Bytes in the source.
        src: usize,
        /// Bytes in the destination.
        dst: usize,
    },
    /// An operation in flight reads or writes some of the bytes.
    #[error("an operation in flight holds a {mode} lease on these bytes: wait for it to complete")]
    Leased {
        /// What the operation may do.
        mode: LeaseMode,
    },
    /// Peers may read a block with some of the bytes, by a grant, and the copy would change it.
    #[error("block {block} of an exported layout is granted to readers: end its grants first")]
    Granted {
        /// Which block of the layout.
        block: u32,
    },
    /// The processor cannot reach the memory.
    #[error("memory of {device} cannot be copied by the host: use a transfer")]
    NotHost {
        /// Where the memory is.
        device: Device,
    },
    /// The region was made from memory that must not change.
    #[error("the region is read-only: copy it to writable memory first")]
    ReadOnly,
    /// No memory for the copy.
    #[error("cannot allocate {len} bytes for the copy")]
    OutOfMemory {
        /// Requested bytes.
        len: usize,
    },
}
