//! Errors of memory allocation.

use super::error::CudaError;
use crate::SharedError;

/// Why memory cannot be allocated, registered or opened.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum MemoryError {
    /// A request for no bytes.
    #[error("memory of 0 bytes is requested: it has at least one")]
    Empty,
    /// The bytes do not fit into the address space.
    #[error("{len} bytes are more than the address space has")]
    TooLarge {
        /// Requested bytes.
        len: usize,
    },
    /// The device has too little free memory.
    #[error("cuda:{ordinal} has no {len} bytes left: {error}")]
    OutOfDeviceMemory {
        /// The device.
        ordinal: u32,
        /// Requested bytes.
        len: usize,
        /// The driver's error.
        #[source]
        error: CudaError,
    },
    /// The system has too little host memory that may be pinned.
    #[error(
        "cannot pin {len} bytes of host memory: {error}; check free memory, the container's limit and `ulimit -l`"
    )]
    OutOfPinnedMemory {
        /// Requested bytes.
        len: usize,
        /// The error of the driver or of the system.
        #[source]
        error: SharedError,
    },
    /// The limit of a pool is reached. Wait until some of its memory is dropped, or raise the limit.
    #[error("the pool has no {len} bytes left: {in_use} of at most {limit} bytes are in use")]
    PoolExhausted {
        /// Requested bytes, rounded up to the pool's size class.
        len: usize,
        /// Bytes in use, likewise.
        in_use: usize,
        /// Bytes allowed.
        limit: usize,
    },
    /// Memory of another process is smaller than its handle claims.
    #[error(
        "the memory behind the handle has {actual} bytes, not the {claimed} that the handle claims"
    )]
    HandleTooLong {
        /// Bytes that the handle claims.
        claimed: u64,
        /// Bytes that there are.
        actual: u64,
    },
    /// What was mapped at an address is mapped there no more.
    #[error("the memory at {address:#x} was unmapped, or is another allocation by now")]
    NotMapped {
        /// The address.
        address: u64,
    },
    /// Memory that was made without a type of handle by which another process opens it.
    #[error(
        "no other process can open the memory: make it on a device, with CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR"
    )]
    NotShareable,
    /// Memory of another process that is named in another way than what is opened.
    #[error("the handle names memory of another kind than what is opened")]
    OtherKind,
    /// A piece of memory of another process could not be had.
    #[error("the memory of the other process that begins at {offset} cannot be had: {error}")]
    Piece {
        /// Where it begins.
        offset: u64,
        /// Why.
        #[source]
        error: SharedError,
    },
    /// A piece of memory of another process does not fit into the whole.
    #[error("the memory of the other process has {bytes} bytes at {offset}, which do not fit")]
    PieceLength {
        /// Where it begins.
        offset: u64,
        /// The bytes that the other process states.
        bytes: u64,
    },
    /// Another failure of the driver.
    #[error(transparent)]
    Cuda(#[from] CudaError),
}

impl MemoryError {
    /// Whether freeing memory and trying again may help.
    #[must_use]
    pub const fn is_out_of_memory(&self) -> bool {
        matches!(
            self,
            Self::OutOfDeviceMemory { .. }
                | Self::OutOfPinnedMemory { .. }
                | Self::PoolExhausted { .. }
        )
    }

    pub(super) fn device(ordinal: u32, len: usize, error: CudaError) -> Self {
        if error.is_out_of_memory() {
            Self::OutOfDeviceMemory { ordinal, len, error }
        } else {
            Self::Cuda(error)
        }
    }

    pub(super) fn pinned(len: usize, error: CudaError) -> Self {
        /// What pinning beyond a limit of the system gives.
        const OPERATING_SYSTEM: i32 = 304;
        if error.is_out_of_memory() || error.code == OPERATING_SYSTEM {
            Self::OutOfPinnedMemory { len, error: error.into() }
        } else {
            Self::Cuda(error)
        }
    }
}

/// The bytes of an allocation: at least one, and few enough for a pointer's offset.
pub(super) fn checked_len(len: usize) -> Result<usize, MemoryError> {
    match len {
        0 => Err(MemoryError::Empty),
        _ if isize::try_from(len).is_err() => Err(MemoryError::TooLarge { len }),
        _ => Ok(len),
    }
}
