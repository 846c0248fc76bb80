//! Memory and streams of the crate cudarc: slices as regions, and order after the work of its streams.
//!
//! A [`CudaSlice`] is memory of its GPU's pool where the driver has pools. No other process can open such memory. Transfers to and from
//! memory that can be opened (`cuda::DeviceMemory`, say) go by CUDA IPC all the same; those between two slices are staged.
//!
//! cudarc's contexts are the GPUs' primary contexts, which this crate uses, too. Nothing here calls cudarc before a value of cudarc's
//! exists, so a machine without CUDA's driver is no trouble.
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
//! // Offered once the stream has copied it.
//! let offered = connector.create_readable(slices::descriptors(executor, tensor)?).await?;
//! # Ok(()) }
//! ```
#![allow(unsafe_code, reason = "regions of memory that cudarc owns, and handles of its streams")]

use std::any::Any;
use std::fmt;
use std::ptr::NonNull;
use std::sync::Arc;

use ::cudarc::driver::{CudaSlice, CudaStream, DevicePtr, DeviceRepr};
use bytemuck::Pod;
use nixl_descriptor::{
    Access, DependencyError, DescriptorList, QueuedFunction, Reclaim, Region, RegionError,
    WorkQueue,
};
use nixl_device::Device;

use crate::local::GpuError;
use crate::{PathExecutor, StreamHandle, StreamPoint, StreamQueue};

/// Why a slice does not become part of an operation.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum SliceError {
    /// The slice is no region: it is empty.
    #[error(transparent)]
    Region(#[from] RegionError),
    /// The work of the slice's stream cannot be waited for.
    #[error(transparent)]
    Gpu(#[from] GpuError),
}

/// A region over the memory of a slice, which it owns until [`slice()`] gives it back or the last handle is dropped.
///
/// The memory is there, and has its content, once the work is done that the slice's stream has queued: synchronise the stream before the
/// region is used, or take [`descriptors`]. Does not wait.
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

/// All of a slice, to be offered or moved once the work is done that its stream has queued until now: by GPUs in the order of streams,
/// by all else when it is done. Does not wait.
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

/// The slice that a region was made of, by [`region()`] or [`descriptors`], once nothing else uses it.
///
/// # Errors
///
/// [`Reclaim`], with the region: other handles or leases of it exist, or it was made of something else.
pub fn slice<T: Element>(region: Region) -> Result<CudaSlice<T>, Reclaim> {
    region.try_into_inner()
}

/// A point after all that a stream has queued until now.
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

/// A stream in whose order grants begin, end and get ready. It keeps the stream.
#[must_use]
pub fn stream_queue(executor: &PathExecutor, stream: &Arc<CudaStream>) -> Arc<CudarcQueue> {
    let queue = executor.stream_queue(ordinal(stream), handle(stream));
    Arc::new(CudarcQueue { queue, _stream: Arc::clone(stream) })
}

/// A stream of cudarc's as a [`WorkQueue`].
pub struct CudarcQueue {
    queue: Arc<StreamQueue>,
    /// Kept: the queue has its handle.
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

/// What slices are of: values that any bytes are, as a peer may write any.
pub trait Element: DeviceRepr + Pod + Any + Send + Sync {}

impl<T: DeviceRepr + Pod + Any + Send + Sync> Element for T {}

fn ordinal(stream: &CudaStream) -> u32 {
    stream.context().ordinal() as u32
}

fn handle(stream: &CudaStream) -> StreamHandle {
    // SAFETY: cudarc's contexts are primary contexts. The callers use the handle while they hold the stream.
    unsafe { StreamHandle::from_raw(stream.cu_stream() as usize) }
}
