//! The interface to GPUs: streams, events and memory of the CUDA driver, or simulated ones.
#![allow(unsafe_code, reason = "requests for copies by address are unsafe")]

use std::any::Any;
use std::fmt;
use std::sync::Arc;
use std::task::Waker;

use nixl_descriptor::{GpuAllocation, QueuedFunction, Region, SharedPieces};
use nixl_device::{Device, SharedError};

use crate::local::plan::block_copy::{BlockCopy, CopyOp};
use crate::local::plan::strategy::GpuCapabilities;
use crate::local::{GpuError, MemoryKind};

/// The GPUs of a machine.
///
/// # Safety
///
/// The executors copy by addresses from an implementation, which promises:
///
/// * [`capabilities`](Self::capabilities) are the same at every call. GPUs with ordinals below `gpus` exist, and two that are
///   in `peers` can read and write each other's memory, within [`is_open_to_peers`](Self::is_open_to_peers).
/// * [`memory_kind`](Self::memory_kind), for an address inside a live region of `device`: [`MemoryKind::Pageable`] and
///   [`MemoryKind::Pinned`] only if the processor can read and write the memory at that address, as far as the region's
///   [`Access`](nixl_descriptor::Access) goes; `Pinned` only if every GPU can as well, until the region is dropped or what
///   [`pin`](Self::pin) returned is; [`MemoryKind::Gpu`] only if that GPU can. All of a region is of one kind, and so is all
///   memory of one device other than the host.
/// * [`pinned`](Self::pinned), [`pinned_region`](Self::pinned_region): `len` bytes that the processor and every GPU can
///   read and write at the address given. [`scratch`](Self::scratch) and [`shareable_region`](Self::shareable_region): `len` bytes that
///   the GPU can. Nothing else uses them until what was returned is dropped, but other processes that open the latter.
/// * [`pin`](Self::pin): the buffer's address is the region's, and all of the region is pinned until the buffer is dropped.
/// * [`allocation`](Self::allocation), for an address inside a live region of `gpu`: the allocation that the region lies in, which has
///   its base and its handle for as long as the region lives.
/// * [`share_pieces`](Self::share_pieces), for a live region of `gpu`: an address from which on the memory of that length, in which the
///   region lies, is what other processes get by the handle, for as long as the region lives.
/// * [`open`](Self::open): as many bytes as the handle has in its last eight (little endian), which `gpu` can read and
///   write at the buffer's address until the buffer is dropped, even if the other process has ended.
/// * [`create_stream`](Self::create_stream), [`record_event_on`](Self::record_event_on) and all buffers keep the contracts of their traits.
///   The event of a stream is complete no sooner than the work that the stream had queued.
///
/// An unknown handle or address is an error.
///
/// ```compile_fail,E0200
/// use nixl_executor::TransferBuffer;
///
/// struct Nowhere;
///
/// // Not `unsafe impl`: the compiler refuses it.
/// impl TransferBuffer for Nowhere {
///     fn address(&self) -> u64 {
///         16
///     }
/// }
/// ```
pub unsafe trait GpuBackend: Send + Sync + fmt::Debug + 'static {
    /// The capabilities of the GPUs.
    fn capabilities(&self) -> &GpuCapabilities;

    /// The kind of memory at an address of a device.
    fn memory_kind(&self, device: Device, address: u64) -> MemoryKind;

    /// A stream of one GPU, for one transfer.
    ///
    /// # Errors
    ///
    /// [`GpuError`]: no such GPU, or it is lost.
    fn create_stream(&self, gpu: u32) -> Result<Box<dyn GpuStream>, GpuError>;

    /// Pinned memory near a GPU, from a pool; it returns there on drop.
    ///
    /// # Errors
    ///
    /// [`GpuError`] if the pool's bound is reached or the machine has no more.
    fn pinned(&self, gpu: u32, len: usize) -> Result<Box<dyn TransferBuffer>, GpuError>;

    /// Pinned memory near a GPU, as a region that engines may use too. From the same pool.
    ///
    /// # Errors
    ///
    /// As [`pinned`](Self::pinned).
    fn pinned_region(&self, gpu: u32, len: usize) -> Result<Region, GpuError>;

    /// Memory of a GPU that other processes can open by a [handle](Self::allocation), as a region: an allocation of its own.
    ///
    /// # Errors
    ///
    /// [`GpuError`] if the GPU has no more.
    fn shareable_region(&self, gpu: u32, len: usize) -> Result<Region, GpuError> {
        let _ = (gpu, len);
        Err(GpuError::Unsupported { reason: SharedError::text("these GPUs do not share memory") })
    }

    /// Memory of a GPU, from a pool; it returns when dropped.
    ///
    /// # Errors
    ///
    /// [`GpuError`] if the pool's bound is reached or the GPU has no more.
    fn scratch(&self, gpu: u32, len: usize) -> Result<Box<dyn TransferBuffer>, GpuError>;

    /// The allocation of a GPU's memory around `address`, with its handle if other processes of this machine can open it by one.
    ///
    /// # Errors
    ///
    /// [`GpuError`] if nothing is known of such memory. Then no other process can open it.
    fn allocation(&self, gpu: u32, address: u64) -> Result<GpuAllocation, GpuError> {
        let _ = (gpu, address);
        Err(GpuError::Unsupported { reason: SharedError::text("these GPUs do not share memory") })
    }

    /// Shares memory that other processes open by the descriptors of its pieces, as [`allocation`](Self::allocation) says that they
    /// may: at least `len` bytes at `address`. Returns the address at which the shared memory begins.
    ///
    /// # Errors
    ///
    /// [`GpuError`] if the driver has no descriptors for it, or this process cannot share any.
    fn share_pieces(
        &self,
        gpu: u32,
        address: u64,
        len: u64,
    ) -> Result<(u64, Arc<SharedPieces>), GpuError> {
        let _ = (gpu, address, len);
        Err(GpuError::Unsupported { reason: SharedError::text("these GPUs do not share memory") })
    }

    /// Whether every GPU with access to the region's GPU reaches this memory, and not only the GPU of its allocation. `false`
    /// if unknown.
    fn is_open_to_peers(&self, region: &Region) -> bool {
        let _ = region;
        false
    }

    /// *Blocking.* Pins host memory for all GPUs, until the drop. Takes about 100 us for each MiB.
    ///
    /// # Errors
    ///
    /// [`GpuError`] if it cannot be pinned, or already is.
    ///
    /// # Safety
    ///
    /// The buffer is not dropped, only leaked, while a GPU uses the region's memory. Any operation may use it:
    /// [`memory_kind`](Self::memory_kind) reports a pinned region as such.
    unsafe fn pin(&self, region: &Region) -> Result<Box<dyn TransferBuffer>, GpuError> {
        let _ = region;
        Err(GpuError::Unsupported { reason: SharedError::text("these GPUs do not pin memory") })
    }

    /// Records an event after all work that a caller's stream has queued so far.
    ///
    /// # Errors
    ///
    /// [`GpuError`] if the handle is not of this GPU's context, or the stream captures a graph.
    fn record_event_on(
        &self,
        gpu: u32,
        stream: StreamHandle,
    ) -> Result<Box<dyn GpuEvent>, GpuError> {
        let _ = (gpu, stream);
        Err(GpuError::Unsupported {
            reason: SharedError::text("these GPUs accept no streams of callers"),
        })
    }

    /// Calls a function in the order of a caller's stream: after all work queued so far, and before later work begins. The
    /// function gets the error if the work failed.
    ///
    /// # Errors
    ///
    /// As [`record_event_on`](Self::record_event_on); then the function is dropped and never called.
    fn call_on(
        &self,
        gpu: u32,
        stream: StreamHandle,
        function: QueuedFunction,
    ) -> Result<(), GpuError> {
        let _ = (gpu, stream, function);
        Err(GpuError::Unsupported {
            reason: SharedError::text("these GPUs accept no streams of callers"),
        })
    }

    /// Opens another process's shared allocation for `gpu`, until the drop.
    ///
    /// # Errors
    ///
    /// [`GpuError`] if the handle is unknown, or this GPU cannot reach the memory.
    fn open(&self, gpu: u32, handle: &SharedHandle) -> Result<Box<dyn TransferBuffer>, GpuError> {
        let _ = (gpu, handle);
        Err(GpuError::Unsupported { reason: SharedError::text("these GPUs do not share memory") })
    }
}

/// A handle to an allocation of GPU memory for other processes: CUDA's IPC handle, or that of its
/// [pieces](nixl_descriptor::PiecesHandle), and the length.
pub type SharedHandle = [u8; 72];

/// Intermediate memory of a transfer.
///
/// # Safety
///
/// [`address`](Self::address) is the same at every call, and the memory there, of the length given by the call that returned
/// the buffer, stays allocated and reachable until the buffer is dropped.
pub unsafe trait TransferBuffer: Send + Sync {
    /// Its address, for copies.
    fn address(&self) -> u64;
}

// SAFETY: a region's memory neither moves nor ends before its last handle.
unsafe impl TransferBuffer for Region {
    fn address(&self) -> u64 {
        Self::address(self)
    }
}

/// A stream: a queue of work on one GPU, which runs in order.
///
/// # Safety
///
/// * The work accesses only the ranges of the requested copies: it reads the sources and writes the targets, not before the
///   call, and not after a later event is complete.
/// * After `Ok`, all requested work is queued. After `Err`, some of it may be.
/// * [`record_event`](Self::record_event) comes after everything queued so far, and `Err` means that nothing queued so far runs, now or
///   later.
/// * Work queued after [`wait_stream`](Self::wait_stream) or [`wait_event`](Self::wait_event) has returned `Ok` begins only
///   when the work before that point is done. After an error, nothing waits.
/// * [`on_complete`](Self::on_complete) is no part of the contract: it may wake too early or never.
pub unsafe trait GpuStream: Send {
    /// Queues one copy for each of `ops`.
    ///
    /// # Errors
    ///
    /// [`GpuError`]. Some of the copies may have been queued.
    ///
    /// # Safety
    ///
    /// Both ranges of each copy are memory that the GPU can reach, nothing else writes what is read or touches what is written,
    /// and all of it stays so until an event [recorded](Self::record_event) later is complete, or the GPU is lost. The stream
    /// is not dropped before that, only leaked: resources of its work end with it.
    unsafe fn memcpy_async(&mut self, ops: &[CopyOp]) -> Result<(), GpuError>;

    /// Queues all of `ops` with one call. As [`memcpy_async`](Self::memcpy_async) otherwise.
    ///
    /// # Errors
    ///
    /// As there.
    ///
    /// # Safety
    ///
    /// As there.
    unsafe fn memcpy_batch_async(&mut self, ops: &[CopyOp]) -> Result<(), GpuError>;

    /// Queues a kernel that copies every chunk of every block. As [`memcpy_async`](Self::memcpy_async) otherwise.
    ///
    /// # Errors
    ///
    /// As there.
    ///
    /// # Safety
    ///
    /// As there.
    unsafe fn launch_copy_kernel(&mut self, copy: &BlockCopy) -> Result<(), GpuError>;

    /// The handle for [`wait_stream`](Self::wait_stream) of another stream of the same GPU, to order that stream's work after this one's.
    ///
    /// # Errors
    ///
    /// [`GpuError`] if the stream was returned.
    ///
    /// # Safety
    ///
    /// The handle is not used once this stream is dropped.
    unsafe fn raw_stream(&self) -> Result<StreamHandle, GpuError>;

    /// Makes later work of this stream wait for the work that `stream` has queued so far.
    ///
    /// # Errors
    ///
    /// [`GpuError`] if the handle is not of this GPU's context, or the stream captures a graph.
    fn wait_stream(&mut self, stream: StreamHandle) -> Result<(), GpuError>;

    /// Makes later work of this stream wait for an event of another stream, on any GPU.
    ///
    /// # Errors
    ///
    /// [`GpuError`] if the event is of another [`GpuBackend`].
    fn wait_event(&mut self, event: &dyn GpuEvent) -> Result<(), GpuError>;

    /// Records an event after everything queued so far.
    ///
    /// # Errors
    ///
    /// [`GpuError`] if the GPU is lost.
    fn record_event(&mut self) -> Result<Box<dyn GpuEvent>, GpuError>;

    /// Wakes `waker` once everything queued so far is done.
    ///
    /// # Errors
    ///
    /// [`GpuError`] if the GPU is lost.
    fn on_complete(&mut self, waker: Waker) -> Result<(), GpuError>;
}

/// An event: a point in the work of a stream.
///
/// # Safety
///
/// [`is_complete`](Self::is_complete) returns `Ok(true)` only if the work before the point is done, accesses no memory any
/// more, and its writes are visible to the calling thread; `Err` only if that work never runs again and accesses no memory from
/// then on. Either result frees memory.
pub unsafe trait GpuEvent: Any + Send + Sync {
    /// Whether the work before it is done.
    ///
    /// # Errors
    ///
    /// [`GpuError`] if the work failed or the GPU is lost.
    fn is_complete(&self) -> Result<bool, GpuError>;
}

/// A stream of the caller.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct StreamHandle(usize);

impl StreamHandle {
    /// The stream behind a `CUstream`; 0 is the default stream.
    ///
    /// # Safety
    ///
    /// `stream` is a `CUstream` of the primary context of the GPU that a transfer with this handle uses, and stays alive
    /// until that transfer has begun, or the last use of a [`StreamQueue`](crate::StreamQueue) that is made of it.
    #[must_use]
    pub unsafe fn from_raw(stream: usize) -> Self {
        Self(stream)
    }

    /// The stream of a DLPack exchange, by the number that the consumer has passed to the producer's `__dlpack__`: 1 is the default
    /// stream, as is none at all, and 2 that of the thread that uses the handle. The producer orders its work before that of the
    /// stream, so the tensor is to be moved [after](nixl_descriptor::DescriptorList::after) a
    /// [point](crate::PathExecutor::stream_point) of it. `None` for -1, by which the consumer has demanded no order.
    ///
    /// # Errors
    ///
    /// [`GpuError::ExchangeStream`] for 0 and other negative numbers.
    ///
    /// # Safety
    ///
    /// As [`from_raw`](Self::from_raw), for numbers from 3 on.
    #[cfg(feature = "dlpack")]
    pub unsafe fn from_dlpack(stream: i64) -> Result<Option<Self>, GpuError> {
        match usize::try_from(stream) {
            // 1 and 2 are also what CUDA has as handles for these streams.
            Ok(stream) if stream > 0 => Ok(Some(Self(stream))),
            _ if stream == -1 => Ok(None),
            _ => Err(GpuError::ExchangeStream { stream }),
        }
    }

    pub(crate) fn as_raw(self) -> usize {
        self.0
    }
}

#[cfg(all(test, feature = "dlpack"))]
mod tests {
    use super::*;

    #[test]
    fn streams_of_an_exchange_are_those_of_dlpack() {
        let stream = |number: i64| {
            // SAFETY: nothing uses the handle.
            unsafe { StreamHandle::from_dlpack(number) }.map(|s| s.map(StreamHandle::as_raw))
        };
        // The default streams of the context and of the thread have the same numbers as handles.
        for number in [1, 2, 3, 0x7f00_0000_1234] {
            assert_eq!(stream(number), Ok(Some(number as usize)));
        }
        assert_eq!(stream(-1), Ok(None));
        for number in [0, -2, i64::MIN] {
            assert_eq!(stream(number), Err(GpuError::ExchangeStream { stream: number }));
        }
    }
}
