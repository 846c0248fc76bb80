//! GPUs as the strategies see them: the driver's, or simulated ones.
#![allow(unsafe_code, reason = "copies by address are unsafe to ask for")]

use std::any::Any;
use std::fmt;
use std::task::Waker;

use nixl_descriptor::Region;
use nixl_device::Device;

use super::block_copy::{BlockCopy, CopyOp};
use super::strategy::Abilities;
use super::{GpuError, MemoryKind};

/// The GPUs of a machine.
pub trait Gpus: Send + Sync + fmt::Debug + 'static {
    /// What they can do.
    fn abilities(&self) -> &Abilities;

    /// What kind of memory an address of a device is.
    fn memory_kind(&self, device: Device, address: u64) -> MemoryKind;

    /// A queue of work on one GPU, for one transfer.
    ///
    /// # Errors
    ///
    /// [`GpuError`]: no such GPU, or it is lost.
    fn lane(&self, gpu: u32) -> Result<Box<dyn Lane>, GpuError>;

    /// Pinned memory near a GPU, from a pool; it returns when dropped.
    ///
    /// # Errors
    ///
    /// [`GpuError`] if the pool's bound is reached or the machine has no more.
    fn pinned(&self, gpu: u32, len: usize) -> Result<Box<dyn Buffer>, GpuError>;

    /// Pinned memory near a GPU, as a region that engines may reach too. From the same pool.
    ///
    /// # Errors
    ///
    /// As [`pinned`](Self::pinned).
    fn pinned_region(&self, gpu: u32, len: usize) -> Result<Region, GpuError>;

    /// Memory of a GPU, from a pool; it returns when dropped.
    ///
    /// # Errors
    ///
    /// [`GpuError`] if the pool's bound is reached or the GPU has no more.
    fn scratch(&self, gpu: u32, len: usize) -> Result<Box<dyn Buffer>, GpuError>;

    /// Names the allocation of a GPU's memory around `address` to other processes of this machine, and says where in it
    /// the address is.
    ///
    /// # Errors
    ///
    /// [`GpuError`] if such memory cannot be shared.
    fn share(&self, gpu: u32, address: u64) -> Result<(SharedHandle, u64), GpuError> {
        let _ = (gpu, address);
        Err(GpuError::Unsupported { reason: "these GPUs do not share memory".to_owned() })
    }

    /// Whether every GPU that reaches the region's reaches this memory of it, and not only the one that it was allocated
    /// for. `false` if that is not known.
    fn is_open_to_peers(&self, region: &Region) -> bool {
        let _ = region;
        false
    }

    /// *Blocking.* Pins host memory for all GPUs, until dropped. Takes about 100 us for each MiB.
    ///
    /// # Errors
    ///
    /// [`GpuError`] if it cannot be pinned, or is.
    fn pin(&self, region: &Region) -> Result<Box<dyn Buffer>, GpuError> {
        let _ = region;
        Err(GpuError::Unsupported { reason: "these GPUs do not pin memory".to_owned() })
    }

    /// A point after all that a stream of the caller's has queued until now.
    ///
    /// # Errors
    ///
    /// [`GpuError`] if the handle is not of this GPU's context.
    fn mark_stream(&self, gpu: u32, stream: StreamHandle) -> Result<Box<dyn Mark>, GpuError> {
        let _ = (gpu, stream);
        Err(GpuError::Unsupported { reason: "these GPUs have no streams but their own".to_owned() })
    }

    /// Opens an allocation that another process shares, so that `gpu` reaches it. It stays open until dropped.
    ///
    /// # Errors
    ///
    /// [`GpuError`] if the handle names nothing, or this GPU cannot reach the memory.
    fn open(&self, gpu: u32, handle: &SharedHandle) -> Result<Box<dyn Buffer>, GpuError> {
        let _ = (gpu, handle);
        Err(GpuError::Unsupported { reason: "these GPUs do not share memory".to_owned() })
    }
}

/// What names an allocation of GPU memory to other processes: CUDA's IPC handle and the length.
pub type SharedHandle = [u8; 72];

/// Memory that a transfer uses on its way.
pub trait Buffer: Send + Sync {
    /// Where it is, for copies.
    fn address(&self) -> u64;
}

impl Buffer for Region {
    fn address(&self) -> u64 {
        Self::address(self)
    }
}

/// A queue of work on one GPU; what is queued runs in order. Dropping it with work queued lets the work run on: whoever
/// drops it keeps the memory until a [`Mark`] after the work has been reached.
pub trait Lane: Send {
    /// Queues one copy for each of `ops`.
    ///
    /// # Errors
    ///
    /// [`GpuError`]. Some of the copies may have been queued.
    ///
    /// # Safety
    ///
    /// Both ranges of each copy are memory that the GPU can reach, nobody writes what is read or touches what is
    /// written, and all of it stays so until a [`mark`](Self::mark) made later is reached, or the GPU is lost.
    unsafe fn copies(&mut self, ops: &[CopyOp]) -> Result<(), GpuError>;

    /// Queues all of `ops` with one call. As [`copies`](Self::copies) otherwise.
    ///
    /// # Errors
    ///
    /// As there.
    ///
    /// # Safety
    ///
    /// As there.
    unsafe fn batch(&mut self, ops: &[CopyOp]) -> Result<(), GpuError>;

    /// Queues a kernel that copies every piece of every block. As [`copies`](Self::copies) otherwise.
    ///
    /// # Errors
    ///
    /// As there.
    ///
    /// # Safety
    ///
    /// As there.
    unsafe fn kernel(&mut self, copy: &BlockCopy) -> Result<(), GpuError>;

    /// What [`after`](Self::after) of another lane of the same GPU takes, to order that lane's work after this one's.
    ///
    /// # Errors
    ///
    /// [`GpuError`] if the lane has no stream any more.
    ///
    /// # Safety
    ///
    /// The handle is not used once this lane is dropped.
    unsafe fn stream(&self) -> Result<StreamHandle, GpuError>;

    /// Makes what is queued from here on wait for what `stream` has queued until now.
    ///
    /// # Errors
    ///
    /// [`GpuError`] if the handle is not of this GPU's context.
    fn after(&mut self, stream: StreamHandle) -> Result<(), GpuError>;

    /// Makes what is queued from here on wait for a point of another stream, on whatever GPU.
    ///
    /// # Errors
    ///
    /// [`GpuError`] if the mark is of other [`Gpus`].
    fn wait_for(&mut self, mark: &dyn Mark) -> Result<(), GpuError>;

    /// A point after everything queued so far.
    ///
    /// # Errors
    ///
    /// [`GpuError`] if the GPU is lost.
    fn mark(&mut self) -> Result<Box<dyn Mark>, GpuError>;

    /// Wakes `waker` once everything queued so far is done.
    ///
    /// # Errors
    ///
    /// [`GpuError`] if the GPU is lost.
    fn wake(&mut self, waker: Waker) -> Result<(), GpuError>;
}

/// A point in the work of a lane or a stream.
pub trait Mark: Any + Send + Sync {
    /// Whether the work before it is done.
    ///
    /// # Errors
    ///
    /// [`GpuError`] if the work failed or the GPU is lost.
    fn reached(&self) -> Result<bool, GpuError>;
}

/// A stream of the caller's.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct StreamHandle(usize);

impl StreamHandle {
    /// The stream behind a `CUstream`; 0 is the default stream.
    ///
    /// # Safety
    ///
    /// `stream` is a `CUstream` of the primary context of the GPU that a transfer with this handle uses, and stays alive
    /// until that transfer has begun.
    #[must_use]
    pub unsafe fn from_raw(stream: usize) -> Self {
        Self(stream)
    }

    pub(crate) fn as_raw(self) -> usize {
        self.0
    }
}
