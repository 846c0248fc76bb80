//! Memory and streams of the crate cudarc: slices, pinned ones too, as regions, and order after the work of its streams.
//!
//! A [`CudaSlice`] is memory of its GPU's pool if the driver has pools. No other process can open such memory. Transfers
//! between a slice and memory with a handle (such as `cuda::DeviceMemory`) still go by CUDA IPC; those between two slices of
//! GPUs of one host go through slots on a GPU.
//!
//! cudarc's contexts are the GPUs' primary contexts, as in this crate. Nothing here calls cudarc before a value of cudarc
//! exists, so the feature is safe on a machine without CUDA's driver.
//!
//! ```no_run
//! use std::sync::Arc;
//!
//! use cudarc::driver::CudaContext;
//! use nixl_executor::{Connector, PathExecutor, cudarc as slices};
//!
//! # async fn offer(executor: &PathExecutor, connector: &Connector) -> Result<(), Box<dyn std::error::Error>> {
//! let stream = CudaContext::new(0)?.new_stream()?;
//! let tensor = stream.clone_htod(&vec![1.5f32; 1 << 20])?;
//! // Offered after the stream has copied it.
//! let offered = connector.create_readable(slices::descriptors(executor, tensor)?).await?;
//! # Ok(()) }
//! ```
#![allow(unsafe_code, reason = "regions of memory that cudarc owns, and handles of its streams")]

use std::any::Any;
use std::fmt;
use std::ptr::NonNull;
use std::sync::Arc;

use ::cudarc::driver::{
    CudaSlice, CudaStream, DevicePtr, DeviceRepr, PinnedHostSlice, ValidAsZeroBits,
};
use bytemuck::Pod;
use nixl_descriptor::{
    Access, DependencyError, DescriptorList, QueuedFunction, Reclaim, Region, RegionError,
    WorkQueue,
};
use nixl_device::{Device, SharedError};
use nixl_ops::Advice;

use crate::local::GpuError;
use crate::{PathExecutor, StreamHandle, StreamPoint, StreamQueue};

/// A slice cannot become part of an operation.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum SliceError {
    /// The slice is empty.
    #[error(transparent)]
    Region(#[from] RegionError),
    /// The work of the slice's stream cannot be ordered.
    #[error(transparent)]
    Gpu(#[from] GpuError),
    /// The streams that use a pinned slice have failed.
    #[error("the work that uses the pinned slice has failed: {reason}")]
    Pinned {
        /// The driver's error.
        #[source]
        reason: SharedError,
    },
}

impl SliceError {
    /// The remedy.
    #[must_use]
    pub fn advice(&self) -> Advice {
        match self {
            Self::Region(error) => error.advice(),
            Self::Gpu(error) => error.advice(),
            Self::Pinned { .. } => Advice::GiveUp,
        }
    }
}

/// A region over the memory of a slice. It owns the slice until [`slice()`] returns it or the last handle is dropped.
///
/// The memory is allocated and has its content after the queued work of the slice's stream: synchronise the stream before using
/// the region, or use [`descriptors`]. Does not wait.
///
/// # Errors
///
/// [`RegionError::Empty`] if the slice is.
pub fn region<T: Element>(slice: CudaSlice<T>) -> Result<Region, RegionError> {
    let stream = Arc::clone(slice.stream());
    let len = slice.num_bytes();
    let device = Device::cuda(stream.context().ordinal() as u32);
    let (address, used) = slice.device_ptr(&stream);
    drop(used);
    let base = NonNull::new(address as *mut u8).ok_or(RegionError::Empty)?;
    // SAFETY: the slice owns `len` bytes of this GPU at `base`, which stay where they are when the slice moves. It is not used before
    // it is given back; any bytes are values of its elements.
    unsafe { Region::from_raw_parts(base, len, device, Access::ReadWrite, slice) }
}

/// All of a slice, to offer or move after the work that its stream has queued so far: GPUs wait in stream order, all else until
/// the work is done. Does not wait.
///
/// # Errors
///
/// [`SliceError`]: the slice is empty, or its stream captures a graph.
pub fn descriptors<T: Element>(
    executor: &PathExecutor,
    slice: CudaSlice<T>,
) -> Result<DescriptorList, SliceError> {
    let point = stream_point(executor, slice.stream())?;
    Ok(DescriptorList::from(region(slice)?.whole()).after(point))
}

/// The slice of a region from [`region()`] or [`descriptors`], without other users.
///
/// # Errors
///
/// [`Reclaim`], with the region: other handles or leases of it exist, or it is of another source.
pub fn slice<T: Element>(region: Region) -> Result<CudaSlice<T>, Reclaim> {
    region.try_into_inner()
}

/// A region over pinned host memory of cudarc. It owns the slice until [`pinned_slice`] returns it or the last handle is dropped.
///
/// Waits for the copies that streams have queued with the slice. `CudaContext::alloc_pinned` allocates write-combined memory,
/// which the host reads slowly; `alloc_pinned_with_flags` allocates other.
///
/// # Errors
///
/// [`SliceError`]: the slice is empty, or such a copy has failed.
pub fn pinned_region<T: Element + ValidAsZeroBits>(
    mut slice: PinnedHostSlice<T>,
) -> Result<Region, SliceError> {
    let len = slice.num_bytes();
    let base = slice.as_mut_ptr();
    let base = base.map_err(|error| SliceError::Pinned { reason: error.into() })?;
    let base = NonNull::new(base.cast::<u8>()).ok_or(RegionError::Empty)?;
    // SAFETY: the slice owns `len` bytes of the host at `base`, which stay where they are when the slice moves, and no stream uses them
    // any more. It is not used before it is given back; any bytes are values of its elements.
    let region =
        unsafe { Region::from_raw_parts(base, len, Device::HOST, Access::ReadWrite, slice) };
    Ok(region?)
}

/// The slice of a region from [`pinned_region`], without other users.
///
/// # Errors
///
/// As [`slice()`].
pub fn pinned_slice<T: Element>(region: Region) -> Result<PinnedHostSlice<T>, Reclaim> {
    region.try_into_inner()
}

/// A point after all work that a stream has queued so far.
///
/// # Errors
///
/// As [`PathExecutor::stream_point`].
pub fn stream_point(
    executor: &PathExecutor,
    stream: &Arc<CudaStream>,
) -> Result<Arc<StreamPoint>, GpuError> {
    // Used during this call only.
    executor.stream_point(ordinal(stream), handle(stream))
}

/// A stream as an ordered queue for the begin, end and readiness of grants. It holds the stream.
#[must_use]
pub fn stream_queue(executor: &PathExecutor, stream: &Arc<CudaStream>) -> Arc<CudarcQueue> {
    let queue = executor.stream_queue(ordinal(stream), handle(stream));
    Arc::new(CudarcQueue { queue, _stream: Arc::clone(stream) })
}

/// A stream of cudarc as a [`WorkQueue`].
pub struct CudarcQueue {
    queue: Arc<StreamQueue>,
    /// Held: the queue has its handle.
    _stream: Arc<CudaStream>,
}

impl WorkQueue for CudarcQueue {
    fn call(&self, function: QueuedFunction) -> Result<(), DependencyError> {
        self.queue.call(function)
    }
}

impl fmt::Debug for CudarcQueue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.queue.fmt(f)
    }
}

/// Elements of slices: any bytes are a valid value, since a peer may write any.
pub trait Element: DeviceRepr + Pod + Any + Send + Sync {}

impl<T: DeviceRepr + Pod + Any + Send + Sync> Element for T {}

fn ordinal(stream: &CudaStream) -> u32 {
    stream.context().ordinal() as u32
}

fn handle(stream: &CudaStream) -> StreamHandle {
    // SAFETY: cudarc's contexts are primary contexts. The callers use the handle while they hold the stream.
    unsafe { StreamHandle::from_raw(stream.cu_stream() as usize) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_error_is_decided() {
        let reason = || SharedError::text("");
        assert_eq!(SliceError::Region(RegionError::Empty).advice(), Advice::GiveUp);
        let capturing = GpuError::StreamCapturing { reason: reason() };
        assert_eq!(SliceError::Gpu(capturing).advice(), Advice::GiveUp);
        assert_eq!(SliceError::Pinned { reason: reason() }.advice(), Advice::GiveUp);
        let exhausted = GpuError::OutOfMemory { what: "pinned", reason: reason() };
        assert_eq!(SliceError::Gpu(exhausted).advice(), Advice::Retry);
    }
}
