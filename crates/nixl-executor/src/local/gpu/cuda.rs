//! The GPU back end over the CUDA driver.
#![allow(unsafe_code, reason = "queues copies and kernels by address")]

use std::any::Any;
use std::ffi::c_void;
use std::fmt;
use std::ptr::{self, NonNull};
use std::sync::{Arc, Mutex};
use std::task::Waker;

use nixl_descriptor::{
    AllocationKind, DependencyError, GpuAllocation, PiecesHandle, QueuedFunction, Region,
    RegionError, SharedPieces,
};
use nixl_device::cuda::{
    Context, CudaError, DeviceError, DeviceMemory, DevicePool, Event, ForeignStreamError, Function,
    HostRegistration, ImportedMemory, ImportedPoolMemory, IpcMemoryHandle, MappedMemory,
    MemoryError, Module, PinnedMemory, PinnedPool, PoolLimits, Stream, VirtualMemory, devices,
    gpu_links,
};
use nixl_device::locks::lock;
use nixl_device::{Device, DeviceKind, SharedError};

use super::allocation::allocation_of;
use super::gpu_backend::{
    GpuBackend, GpuEvent, GpuStream, SharedHandle, StreamHandle, TransferBuffer,
};
use super::memory_limits::GpuMemoryLimits;
use super::pieces::{self, PieceTable};
use super::table::{table_len, width, write_table};
use crate::local::plan::block_copy::{BlockCopy, CopyOp};
use crate::local::plan::strategy::GpuCapabilities;
use crate::local::{BlockError, GpuError, MemoryKind, on_a_thread, thread_error};

/// The kernel for scattered chunks; see `kernels/README.md`.
const KERNEL: &str = include_str!("../../../kernels/copy.ptx");
/// Its entries, by the width of their accesses.
const ENTRIES: [(u32, &str); 5] = [
    (16, "nixl_copy_16"),
    (8, "nixl_copy_8"),
    (4, "nixl_copy_4"),
    (2, "nixl_copy_2"),
    (1, "nixl_copy_1"),
];

/// All GPUs of this process, with pools of streams and memory. Parts are made at first use, except the contexts and the kernel,
/// which take some hundred milliseconds.
#[derive(Debug)]
pub struct CudaGpus {
    capabilities: GpuCapabilities,
    gpus: Vec<Arc<Gpu>>,
}

struct Gpu {
    context: Context,
    multiprocessors: u32,
    /// By width, as [`ENTRIES`]. Empty if the kernel could not be loaded.
    entries: Vec<(u32, Function)>,
    pinned: PinnedPool,
    scratch: DevicePool,
    streams: Mutex<Vec<Stream>>,
    events: Mutex<Vec<Event>>,
    /// Memory that other processes may have open by descriptors.
    pieces: PieceTable,
}

impl CudaGpus {
    /// The GPUs of this process, with the default limits. **Blocks** while their contexts are made: use [`open`](Self::open) on
    /// async threads.
    ///
    /// # Errors
    ///
    /// [`GpuError`]: no CUDA, or a context cannot be made. An unloadable kernel or unreachable peers are no error: plans name
    /// them.
    pub fn new() -> Result<Self, GpuError> {
        Self::with_limits(GpuMemoryLimits::default())
    }

    /// As [`with_limits`](Self::with_limits), on a thread of its own. Never blocks the caller's thread. Cancel safe.
    ///
    /// # Errors
    ///
    /// [`BlockError::Gpu`] as [`new`](Self::new), [`BlockError::Thread`] if the operating system refuses a thread.
    pub async fn open(limits: GpuMemoryLimits) -> Result<Self, BlockError> {
        let made = on_a_thread(move || Self::with_limits(limits)).await.map_err(thread_error)?;
        Ok(made?)
    }

    /// As [`new`](Self::new), with these limits. [`PathExecutor::with`](crate::PathExecutor::with) takes the result.
    ///
    /// # Errors
    ///
    /// As [`new`](Self::new).
    pub fn with_limits(limits: GpuMemoryLimits) -> Result<Self, GpuError> {
        let described = devices().map_err(|e| no_device(0, e))?;
        let mut gpus = Vec::with_capacity(described.len());
        for device in &described {
            gpus.push(Arc::new(Gpu::new(device.ordinal(), device.multiprocessors(), limits)?));
        }
        let mut peers = Vec::new();
        for link in gpu_links(&described).map_err(|e| no_device(0, e))? {
            let (Some(from), Some(to)) =
                (gpus.get(link.from() as usize), gpus.get(link.to() as usize))
            else {
                continue;
            };
            let both = link.peer_access()
                && from.context.enable_peer_access(&to.context).is_ok()
                && to.context.enable_peer_access(&from.context).is_ok();
            let pair = (link.from().min(link.to()), link.from().max(link.to()));
            if both && !peers.contains(&pair) {
                peers.push(pair);
            }
        }
        let capabilities = GpuCapabilities {
            gpus: gpus.len() as u32,
            batch: gpus.iter().all(|gpu| gpu.context.has_batch_copy()),
            kernel: gpus.iter().all(|gpu| !gpu.entries.is_empty()),
            peers,
        };
        Ok(Self { capabilities, gpus })
    }

    fn gpu(&self, ordinal: u32) -> Result<&Arc<Gpu>, GpuError> {
        self.gpus.get(ordinal as usize).ok_or_else(|| GpuError::NoDevice {
            ordinal,
            reason: SharedError::text(format!("{} are there", self.gpus.len())),
        })
    }
}

impl Gpu {
    fn new(ordinal: u32, multiprocessors: u32, limits: GpuMemoryLimits) -> Result<Self, GpuError> {
        let context = Context::primary(ordinal).map_err(|e| no_device(ordinal, e))?;
        let entries = match Module::load_ptx(&context, KERNEL) {
            Ok(module) => ENTRIES
                .iter()
                .filter_map(|(width, name)| Some((*width, module.function(name).ok()?)))
                .collect(),
            Err(_) => Vec::new(),
        };
        let entries = if entries.len() == ENTRIES.len() { entries } else { Vec::new() };
        Ok(Self {
            pinned: PinnedPool::new(&context, PoolLimits::new(limits.pinned_bytes)),
            scratch: DevicePool::new(&context, PoolLimits::new(limits.scratch_bytes)),
            streams: Mutex::default(),
            events: Mutex::default(),
            pieces: PieceTable::default(),
            context,
            multiprocessors,
            entries,
        })
    }
}

impl Gpu {
    /// An event from the pool, or a new one.
    fn event(&self) -> Result<Event, GpuError> {
        let pooled = lock(&self.events).pop();
        pooled.map_or_else(|| Event::new(&self.context).map_err(driver), Ok)
    }
}

// SAFETY: the capabilities are of `gpus`, made once; peers are those for which access was enabled in both directions. What is
// not of a CUDA device is a region of the host's, and pinned if the driver says that the address is page-locked, which it
// maps for all contexts (unified addressing, `PORTABLE` registration). Memory comes from the driver's allocations, held by
// the buffers, which give it back to a pool or the driver when they are dropped. `ImportedMemory::open` checks the length
// in the handle against the driver's own, as `ImportedPoolMemory::open` does, and `MappedMemory::map` maps as many bytes as the
// handle says. Shared pieces are the allocations under the region by number, and no others after they were freed.
// Allocations and their handles are what the driver says. Marks of streams are events
// recorded there.
unsafe impl GpuBackend for CudaGpus {
    fn capabilities(&self) -> &GpuCapabilities {
        &self.capabilities
    }

    fn memory_kind(&self, device: Device, address: u64) -> MemoryKind {
        match device.kind() {
            DeviceKind::Cuda => MemoryKind::Gpu(device.index()),
            // Pinned memory is pinned for all contexts.
            _ if self.gpus.first().is_some_and(|gpu| gpu.context.is_pinned(address)) => {
                MemoryKind::Pinned
            }
            _ => MemoryKind::Pageable,
        }
    }

    fn create_stream(&self, gpu: u32) -> Result<Box<dyn GpuStream>, GpuError> {
        let gpu = self.gpu(gpu)?;
        let pooled = lock(&gpu.streams).pop();
        let stream = match pooled {
            Some(stream) => stream,
            None => Stream::new(&gpu.context).map_err(driver)?,
        };
        Ok(Box::new(CudaGpuStream {
            gpu: Arc::clone(gpu),
            stream: Some(stream),
            tables: Vec::new(),
        }))
    }

    fn pinned(&self, gpu: u32, len: usize) -> Result<Box<dyn TransferBuffer>, GpuError> {
        Ok(Box::new(self.gpu(gpu)?.pinned.allocate(len).map_err(memory("pinned"))?))
    }

    fn pinned_region(&self, gpu: u32, len: usize) -> Result<Region, GpuError> {
        let pinned = self.gpu(gpu)?.pinned.allocate(len).map_err(memory("pinned"))?;
        let refused = |e: RegionError| GpuError::OutOfMemory { what: "pinned", reason: e.into() };
        Region::try_from(pinned).map_err(refused)
    }

    fn shareable_region(&self, gpu: u32, len: usize) -> Result<Region, GpuError> {
        let context = &self.gpu(gpu)?.context;
        let refused = |e: RegionError| GpuError::OutOfMemory { what: "device", reason: e.into() };
        // Opened by descriptors, across PID and IPC namespaces too, where the driver and this process have them.
        if let Ok(allocated) = VirtualMemory::new(context, len) {
            let region = Region::try_from(allocated).map_err(refused)?;
            if allocation_of(self, &region).is_some_and(GpuAllocation::is_in_pieces) {
                return Ok(region);
            }
        }
        // Not of a pool, whose memory is used again while peers have it open.
        let allocated = DeviceMemory::new(context, len).map_err(memory("device"))?;
        Region::try_from(allocated).map_err(refused)
    }

    fn scratch(&self, gpu: u32, len: usize) -> Result<Box<dyn TransferBuffer>, GpuError> {
        Ok(Box::new(self.gpu(gpu)?.scratch.allocate(len).map_err(memory("device"))?))
    }

    fn is_open_to_peers(&self, region: &Region) -> bool {
        // `cuMemAlloc`, for which access between contexts counts. Frameworks may use `cuMemCreate`, for which it does not.
        region.is_made_of::<DeviceMemory>()
    }

    fn record_event_on(
        &self,
        gpu: u32,
        stream: StreamHandle,
    ) -> Result<Box<dyn GpuEvent>, GpuError> {
        let gpu = self.gpu(gpu)?;
        let event = gpu.event()?;
        // SAFETY: the caller of `StreamHandle::from_raw` vouched for the stream.
        unsafe { event.record_on_foreign(stream.as_raw()) }.map_err(foreign_stream)?;
        Ok(Box::new(CudaGpuEvent { gpu: Arc::clone(gpu), event: Some(event) }))
    }

    fn call_on(
        &self,
        gpu: u32,
        stream: StreamHandle,
        function: QueuedFunction,
    ) -> Result<(), GpuError> {
        let gpu = self.gpu(gpu)?;
        let callback = Box::new(move |done: Result<(), CudaError>| {
            function(done.map_err(DependencyError::caused_by));
        });
        // SAFETY: the caller of `StreamHandle::from_raw` vouched for the stream.
        let queued = unsafe { gpu.context.host_callback_on_foreign(stream.as_raw(), callback) };
        queued.map_err(foreign_stream)
    }

    unsafe fn pin(&self, region: &Region) -> Result<Box<dyn TransferBuffer>, GpuError> {
        let context = &self.gpu(0)?.context;
        let start = NonNull::new(region.address() as *mut u8);
        let start = start
            .ok_or_else(|| GpuError::Unsupported { reason: SharedError::text("no memory") })?;
        // SAFETY: the region keeps its bytes where they are, and is kept until they are unpinned. They are copied by address
        // only.
        let pinned = unsafe {
            HostRegistration::from_raw_parts(context, start, region.len(), region.clone())
        };
        Ok(Box::new(pinned.map_err(memory("pinned"))?))
    }

    fn allocation(&self, gpu: u32, address: u64) -> Result<GpuAllocation, GpuError> {
        let context = &self.gpu(gpu)?.context;
        // A driver that does not know the attributes may have the handle all the same.
        let attributes = context.memory_attributes(address).ok().flatten();
        if let Some(found) = attributes.filter(|found| !found.has_legacy_ipc()) {
            let kind = match (found.is_managed(), found.is_of_a_pool()) {
                (true, _) => AllocationKind::Managed,
                (false, true) => AllocationKind::Pool,
                (false, false) => AllocationKind::Virtual,
            };
            let allocation = GpuAllocation::new(kind, found.base(), found.len());
            return Ok(allocation
                .with_handle_types(found.handle_types())
                .read_only(found.is_read_only()));
        }
        let (handle, offset) = IpcMemoryHandle::around(context, address).map_err(driver)?;
        let base = address.saturating_sub(offset);
        let allocation = GpuAllocation::new(AllocationKind::Legacy, base, handle.len());
        Ok(allocation.with_ipc_handle(handle.to_bytes()))
    }

    fn share_pieces(
        &self,
        gpu: u32,
        address: u64,
        len: u64,
    ) -> Result<(u64, Arc<SharedPieces>), GpuError> {
        let gpu = self.gpu(gpu)?;
        gpu.pieces.share(&gpu.context, address, len)
    }

    fn open(&self, gpu: u32, handle: &SharedHandle) -> Result<Box<dyn TransferBuffer>, GpuError> {
        let context = &self.gpu(gpu)?.context;
        if let Some(pieces) = PiecesHandle::from_bytes(handle) {
            if pieces.is_own() {
                let reason = SharedError::text("a process does not open its own memory");
                return Err(GpuError::Unsupported { reason });
            }
            return pieces::open(context, &pieces).map_err(memory("device"));
        }
        let handle = IpcMemoryHandle::from_bytes(handle);
        Ok(Box::new(ImportedMemory::open(context, &handle).map_err(memory("device"))?))
    }
}

// SAFETY: the mapping stays where it is until it is closed, by dropping this.
unsafe impl TransferBuffer for ImportedMemory {
    fn address(&self) -> u64 {
        self.address()
    }
}

// SAFETY: the mapping stays where it is until it is unmapped, by dropping this.
unsafe impl TransferBuffer for MappedMemory {
    fn address(&self) -> u64 {
        self.address()
    }
}

// SAFETY: the memory stays where it is until it is closed, by dropping this.
unsafe impl TransferBuffer for ImportedPoolMemory {
    fn address(&self) -> u64 {
        self.address()
    }
}

// SAFETY: the registration holds its region, whose memory does not move.
unsafe impl TransferBuffer for HostRegistration<Region> {
    fn address(&self) -> u64 {
        self.address()
    }
}

// SAFETY: the allocation stays where it is until this is dropped.
unsafe impl TransferBuffer for PinnedMemory {
    fn address(&self) -> u64 {
        self.address()
    }
}

// SAFETY: the allocation stays where it is until this is dropped.
unsafe impl TransferBuffer for DeviceMemory {
    fn address(&self) -> u64 {
        self.address()
    }
}

/// A stream from the pool, which takes it back when this is dropped: after its work, as [`GpuStream::memcpy_async`] demands.
struct CudaGpuStream {
    gpu: Arc<Gpu>,
    /// `Some` until dropped.
    stream: Option<Stream>,
    /// Tables for kernels that may not have run yet.
    tables: Vec<PinnedMemory>,
}

impl CudaGpuStream {
    fn own(&self) -> Result<&Stream, GpuError> {
        self.stream.as_ref().ok_or_else(|| GpuError::Unsupported {
            reason: SharedError::text("the stream has been returned to the pool"),
        })
    }
}

// SAFETY: everything is queued on one stream of the driver's, which runs it in order: copies between the ranges of `ops`, and
// the kernel, which copies by its table (`table.rs`, and `kernels/README.md`). An event is recorded on the stream; the driver
// refuses one only for a context that is lost, whose work it has ended. Waiting is `cuStreamWaitEvent`.
unsafe impl GpuStream for CudaGpuStream {
    unsafe fn memcpy_async(&mut self, ops: &[CopyOp]) -> Result<(), GpuError> {
        let stream = self.own()?;
        for op in ops {
            // SAFETY: the caller vouches for both ranges until a later event is complete.
            unsafe { stream.copy_async(op.dst, op.src, op.len as usize) }.map_err(driver)?;
        }
        Ok(())
    }

    unsafe fn memcpy_batch_async(&mut self, ops: &[CopyOp]) -> Result<(), GpuError> {
        let dsts: Vec<_> = ops.iter().map(|op| op.dst).collect();
        let srcs: Vec<_> = ops.iter().map(|op| op.src).collect();
        let lens: Vec<_> = ops.iter().map(|op| op.len as usize).collect();
        // SAFETY: the caller vouches for all ranges until a later event is complete; plans have no overlapping targets.
        unsafe { self.own()?.copy_batch_async(&dsts, &srcs, &lens) }.map_err(driver)
    }

    unsafe fn launch_copy_kernel(&mut self, copy: &BlockCopy) -> Result<(), GpuError> {
        let width = width(copy);
        let entry = self.gpu.entries.iter().find(|(w, _)| *w == width);
        let Some((_, function)) = entry else {
            return Err(GpuError::Unsupported {
                reason: SharedError::text("the kernel is not loaded"),
            });
        };
        let len = table_len(copy);
        // A dense copy has no table: no memory is allocated for it.
        let mut table = self.gpu.pinned.allocate(len.max(1)).map_err(memory("pinned"))?;
        let address = table.address();
        let mut parameter = write_table(copy, &mut table.as_mut_slice()[..len], address);
        let is_pinned = |address| self.gpu.context.is_pinned(address);
        let host = is_pinned(copy.src.block(0)) || is_pinned(copy.dst.block(0));
        let grid = grid(host, copy.bytes(), self.gpu.multiprocessors);
        let mut parameters = [ptr::from_mut(&mut parameter).cast::<c_void>()];
        // SAFETY: the entries take one such parameter by value. The caller vouches for all ranges until a later event is
        // complete; the table lies in pinned memory that this stream keeps until then, and the module is the GPU's.
        unsafe { function.launch([grid, 1, 1], [THREADS, 1, 1], 0, &mut parameters, self.own()?) }
            .map_err(driver)?;
        self.tables.push(table);
        Ok(())
    }

    unsafe fn raw_stream(&self) -> Result<StreamHandle, GpuError> {
        // SAFETY: the stream is of the primary context of this stream's GPU, and the caller uses the handle only while this
        // stream is alive.
        Ok(unsafe { StreamHandle::from_raw(self.own()?.as_raw()) })
    }

    fn wait_stream(&mut self, stream: StreamHandle) -> Result<(), GpuError> {
        let event = self.gpu.event()?;
        // SAFETY: the caller of `StreamHandle::from_raw` vouched for the stream.
        unsafe { event.record_on_foreign(stream.as_raw()) }.map_err(foreign_stream)?;
        self.own()?.wait(&event).map_err(driver)?;
        lock(&self.gpu.events).push(event);
        Ok(())
    }

    fn wait_event(&mut self, event: &dyn GpuEvent) -> Result<(), GpuError> {
        let event = (event as &dyn Any).downcast_ref::<CudaGpuEvent>();
        let others = || GpuError::Unsupported {
            reason: SharedError::text("the event is of no CUDA stream"),
        };
        match &event.ok_or_else(others)?.event {
            Some(event) => self.own()?.wait(event).map_err(driver),
            None => Ok(()),
        }
    }

    fn record_event(&mut self) -> Result<Box<dyn GpuEvent>, GpuError> {
        let event = self.gpu.event()?;
        event.record(self.own()?).map_err(driver)?;
        Ok(Box::new(CudaGpuEvent { gpu: Arc::clone(&self.gpu), event: Some(event) }))
    }

    fn on_complete(&mut self, waker: Waker) -> Result<(), GpuError> {
        self.own()?.host_callback(Box::new(move |_| waker.wake())).map_err(driver)
    }
}

impl Drop for CudaGpuStream {
    fn drop(&mut self) {
        if let Some(stream) = self.stream.take() {
            lock(&self.gpu.streams).push(stream);
        }
    }
}

struct CudaGpuEvent {
    gpu: Arc<Gpu>,
    /// `Some` until dropped.
    event: Option<Event>,
}

// SAFETY: `cuEventQuery` says that the event is complete only when all work captured by it is, with its writes visible to the
// host. An error other than "not ready" is of a context that is lost, whose work the driver has ended; except the one below,
// which is independent of the work and no error here.
unsafe impl GpuEvent for CudaGpuEvent {
    fn is_complete(&self) -> Result<bool, GpuError> {
        /// `CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED`: a capture by another thread forbids the query for now.
        const FORBIDDEN_NOW: i32 = 900;
        let Some(event) = &self.event else { return Ok(true) };
        match event.query() {
            Err(error) if error.code() == FORBIDDEN_NOW => Ok(false),
            asked => asked.map_err(driver),
        }
    }
}

impl Drop for CudaGpuEvent {
    fn drop(&mut self) {
        if let Some(event) = self.event.take() {
            lock(&self.gpu.events).push(event);
        }
    }
}

/// Threads of a block of the kernel.
const THREADS: u32 = 256;

/// Blocks of the kernel. Enough to saturate the GPU's memory, or, with host memory on one side, PCIe, which leaves the other
/// multiprocessors to the model (16 blocks reach 51.5 and 50.2 GB/s on PCIe 5 x16; more add nothing).
fn grid(host: bool, bytes: u64, multiprocessors: u32) -> u32 {
    const OVER_PCIE: u32 = 16;
    const PER_MULTIPROCESSOR: u32 = 16;
    const BYTES_PER_BLOCK: u64 = 16 * 1024;
    let most = if host { OVER_PCIE } else { multiprocessors.saturating_mul(PER_MULTIPROCESSOR) };
    let useful = u32::try_from(bytes.div_ceil(BYTES_PER_BLOCK)).unwrap_or(u32::MAX);
    most.min(useful).max(1)
}

fn driver(error: CudaError) -> GpuError {
    match error.is_not_supported() {
        true => GpuError::Unsupported { reason: error.into() },
        false => GpuError::Driver { sticky: error.is_sticky(), reason: error.into() },
    }
}

fn foreign_stream(error: ForeignStreamError) -> GpuError {
    match error {
        ForeignStreamError::Cuda(error) => driver(error),
        capturing => GpuError::StreamCapturing { reason: capturing.into() },
    }
}

fn memory(what: &'static str) -> impl Fn(MemoryError) -> GpuError {
    move |error| match error {
        MemoryError::Cuda(error) => driver(error),
        error if error.is_out_of_memory() => GpuError::OutOfMemory { what, reason: error.into() },
        error => GpuError::Unsupported { reason: error.into() },
    }
}

fn no_device(ordinal: u32, error: DeviceError) -> GpuError {
    GpuError::NoDevice { ordinal, reason: error.into() }
}

impl fmt::Debug for Gpu {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Gpu")
            .field("context", &self.context)
            .field("kernel", &!self.entries.is_empty())
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::error::Error;
    use std::io;

    use nixl_ops::OperationError;

    use super::*;
    use crate::sessions::failed_by;

    #[test]
    fn the_chain_of_sources_reaches_the_error_of_the_driver_or_the_system() {
        let error = io::Error::from_raw_os_error(12).into();
        let refused = memory("pinned")(MemoryError::OutOfPinnedMemory { len: 1, error });
        let operation = OperationError::from(failed_by("copy", refused.clone()));
        let cuda = BlockError::Gpu(refused);
        for error in [&operation as &dyn Error, &cuda] {
            let (mut chain, mut next) = (Vec::new(), Some(error));
            while let Some(error) = next {
                chain.push(error);
                next = error.source();
            }
            assert!(chain.iter().any(|error| error.is::<MemoryError>()), "{chain:?}");
            let system = chain.iter().find_map(|error| error.downcast_ref::<io::Error>());
            assert_eq!(system.and_then(io::Error::raw_os_error), Some(12), "{chain:?}");
        }
        let none = no_device(7, DeviceError::NoSuchDevice { ordinal: 7, count: 0 });
        assert!(none.source().is_some_and(|error| error.is::<DeviceError>()), "{none:?}");
    }
}
