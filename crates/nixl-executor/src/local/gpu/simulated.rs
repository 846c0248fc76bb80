//! Simulated GPUs: host memory with a label, for tests of executors on machines without GPUs.
#![allow(unsafe_code, reason = "copies by address, as a GPU does")]

use std::any::Any;
use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, Mutex, OnceLock};
use std::task::Waker;

use nixl_descriptor::{
    AllocationKind, DependencyError, GpuAllocation, PiecesHandle, QueuedFunction, Region,
    RegionError, SharedMemory, SharedName, SharedPieces,
};
use nixl_device::locks::lock;
use nixl_device::{Device, DeviceKind, SharedError, named_thread};

use super::allocation::{DESCRIPTOR, SHAREABLE};
use super::gpu_backend::{
    GpuBackend, GpuEvent, GpuStream, SharedHandle, StreamHandle, TransferBuffer,
};
use super::simulated_memory::{Made, Memories, Place, Reach, Unreachable};
use super::simulated_pieces::{self, SimulatedPieces};
use super::table::{Parameter, ParameterSide, table_len, width, write_table};
use crate::local::host::host_copy::{CacheHint, copy};
use crate::local::plan::block_copy::{BlockCopy, CopyOp};
use crate::local::plan::strategy::GpuCapabilities;
use crate::local::{GpuError, MemoryKind};

/// Simulated GPUs. Their memory is shared like that of real ones: those of another process of the machine can open it. One
/// thread copies, in the order of the queue; a test can [pause](Self::pause) it, and make it [fail](Self::fail).
///
/// They reach the memory of real ones: their own, that of peers, pinned memory, and memory opened for them. A kernel with any
/// other access is a sticky fault, as on a real GPU. A copy, which the driver validates, is refused outside one allocation or
/// in memory of a GPU that is no peer. So is a copy of pageable memory: the driver would block the caller, and a [`GpuStream`]
/// never does.
pub struct SimulatedGpus {
    shared: Arc<Shared>,
    work: Sender<Work>,
}

struct Shared {
    capabilities: GpuCapabilities,
    memories: Memories,
    /// Held by the test that pauses the GPUs.
    running: Mutex<()>,
    /// Held during a copy.
    copying: Mutex<()>,
    failed: AtomicBool,
    /// The fault of a kernel, if that is the failure.
    fault: OnceLock<String>,
    /// The number of next copy requests to refuse.
    refusals: AtomicUsize,
    /// Bytes of all copy requests.
    asked: AtomicU64,
}

enum Work {
    Copies(Vec<CopyOp>),
    Kernel(Launch),
    Reach(Arc<AtomicBool>),
    Wake(Waker),
    Call(QueuedFunction),
}

impl SimulatedGpus {
    /// GPUs with these capabilities.
    ///
    /// # Errors
    ///
    /// If the operating system refuses the thread.
    pub fn new(capabilities: GpuCapabilities) -> std::io::Result<Self> {
        let (work, queue) = channel::<Work>();
        let shared = Arc::new(Shared {
            capabilities,
            memories: Memories::default(),
            running: Mutex::default(),
            copying: Mutex::default(),
            failed: AtomicBool::new(false),
            fault: OnceLock::new(),
            refusals: AtomicUsize::new(0),
            asked: AtomicU64::new(0),
        });
        let theirs = Arc::clone(&shared);
        named_thread("simulated-gpu").spawn(move || {
            for work in queue {
                let _running = lock(&theirs.running);
                let copying = lock(&theirs.copying);
                // A caller that sees a failure frees the memory.
                let has_failed = theirs.failed.load(Ordering::Acquire);
                match work {
                    Work::Copies(_) | Work::Kernel(_) | Work::Reach(_) if has_failed => {}
                    Work::Copies(ops) => {
                        for op in ops {
                            // SAFETY: the caller that queued it vouched for the ranges until a later event is complete.
                            unsafe { copy(op, CacheHint::Cached) };
                        }
                    }
                    Work::Kernel(launch) => {
                        // SAFETY: the caller that queued it vouched for the ranges until a later event is complete.
                        if let Err(fault) = unsafe { launch.run(&theirs) } {
                            let _ = theirs.fault.set(fault);
                            theirs.failed.store(true, Ordering::Release);
                        }
                    }
                    Work::Reach(event) => event.store(true, Ordering::Release),
                    Work::Wake(waker) => waker.wake(),
                    Work::Call(function) => {
                        // It may request more.
                        drop(copying);
                        let failed = Err(DependencyError::new("simulated failure"));
                        function(if has_failed { failed } else { Ok(()) });
                    }
                }
            }
        })?;
        Ok(Self { shared, work })
    }

    /// Memory of a GPU as a framework allocates it, for these types of handle. As with a real one, other processes open that of
    /// [`AllocationKind::Legacy`], and that of [`AllocationKind::Virtual`] and [`AllocationKind::Pool`] with file descriptors (1) or
    /// fabric handles (8), and no other.
    ///
    /// # Errors
    ///
    /// [`RegionError`].
    pub fn region_of(
        &self,
        gpu: u32,
        (kind, handle_types): (AllocationKind, u32),
        len: usize,
    ) -> Result<Region, RegionError> {
        let is_shared = match kind {
            AllocationKind::Legacy => true,
            AllocationKind::Virtual | AllocationKind::Pool => handle_types & SHAREABLE != 0,
            _ => false,
        };
        let bytes = match is_shared {
            true => SharedMemory::new(len)?.try_into()?,
            false => Region::zeroed(len)?,
        };
        let (device, place) = (Device::cuda(gpu), Place::Gpu(gpu));
        self.shared.memories.list_as(bytes, device, place, (kind, handle_types))
    }

    /// Memory of a kind, as a region of its simulated device.
    ///
    /// # Errors
    ///
    /// [`RegionError`].
    pub fn region(&self, kind: MemoryKind, len: usize) -> Result<Region, RegionError> {
        match kind {
            MemoryKind::Pageable => Region::zeroed(len),
            MemoryKind::Pinned => {
                self.shared.memories.list(Region::zeroed(len)?, Device::HOST, Place::Pinned)
            }
            MemoryKind::Gpu(ordinal) => {
                let (device, place) = (Device::cuda(ordinal), Place::Gpu(ordinal));
                self.shared.memories.list(SharedMemory::new(len)?.try_into()?, device, place)
            }
        }
    }

    /// Stops all work until the guard is dropped.
    pub fn pause(&self) -> impl Drop + '_ {
        lock(&self.shared.running)
    }

    /// Makes all queued and later work fail, as after a sticky error. No copy runs after a caller has seen the error.
    pub fn fail(&self) {
        self.shared.failed.store(true, Ordering::Release);
    }

    /// Refuses so many of the next copy requests.
    pub fn refuse(&self, requests: usize) {
        self.shared.refusals.store(requests, Ordering::Relaxed);
    }

    /// Bytes of all copy requests so far, refused or not.
    #[must_use]
    pub fn asked(&self) -> u64 {
        self.shared.asked.load(Ordering::Relaxed)
    }

    /// The memory of a GPU at an address, and how it was allocated.
    fn made_at(&self, address: u64) -> Result<(Arc<Region>, Made), GpuError> {
        let found = self.shared.memories.find_made(address);
        let found = found.filter(|(_, place, _)| matches!(place, Place::Gpu(_)));
        let (bytes, _, made) = found.ok_or_else(|| GpuError::Unsupported {
            reason: SharedError::text("no memory of a simulated GPU is there"),
        })?;
        Ok((bytes, made))
    }

    fn check(&self, gpu: u32) -> Result<(), GpuError> {
        healthy(&self.shared)?;
        if gpu < self.shared.capabilities.gpus {
            return Ok(());
        }
        let reason = SharedError::text(format!("{} are simulated", self.shared.capabilities.gpus));
        Err(GpuError::NoDevice { ordinal: gpu, reason })
    }
}

fn gone() -> GpuError {
    GpuError::Driver { reason: SharedError::text("the simulated GPUs have ended"), sticky: true }
}

fn healthy(shared: &Shared) -> Result<(), GpuError> {
    if shared.failed.load(Ordering::Acquire) {
        // The next copy sees the failure; the running copy still uses its memory.
        drop(lock(&shared.copying));
        let fault = shared.fault.get().map_or("simulated failure", |fault| fault);
        let reason = SharedError::text(fault.to_owned());
        return Err(GpuError::Driver { reason, sticky: true });
    }
    Ok(())
}

// SAFETY: all memory is this process's own, of every simulated kind, so the processor and the thread that simulates GPUs can
// reach it at its address. `Memories` finds it as long as it lives: pinned memory and what is pinned is found as such until
// it is dropped. All buffers are regions, of their own or, for `pin`, of the same bytes. An allocation is
// the region that was listed, under the name of its file, whose parts are its pieces.
// `SharedMemory::open` maps as many bytes as the handle says, of a file that
// cannot shrink. The event of a stream is one after the work of all streams, which
// every stream counts as.
unsafe impl GpuBackend for SimulatedGpus {
    fn capabilities(&self) -> &GpuCapabilities {
        &self.shared.capabilities
    }

    fn record_event_on(&self, gpu: u32, _: StreamHandle) -> Result<Box<dyn GpuEvent>, GpuError> {
        // Every stream counts as having queued the work of all streams.
        self.create_stream(gpu)?.record_event()
    }

    fn call_on(&self, gpu: u32, _: StreamHandle, function: QueuedFunction) -> Result<(), GpuError> {
        // As above: the order is that of all streams.
        self.check(gpu)?;
        self.work.send(Work::Call(function)).map_err(|_| gone())
    }

    unsafe fn pin(&self, region: &Region) -> Result<Box<dyn TransferBuffer>, GpuError> {
        healthy(&self.shared)?;
        let refused = |e: RegionError| GpuError::Unsupported { reason: e.into() };
        let memories = &self.shared.memories;
        let pinned = memories.list(region.clone(), Device::HOST, Place::Pinned).map_err(refused)?;
        Ok(Box::new(pinned))
    }

    fn is_open_to_peers(&self, region: &Region) -> bool {
        let found = self.shared.memories.find(region.address());
        matches!(found, Some((_, Place::Gpu(_))))
    }

    fn memory_kind(&self, device: Device, address: u64) -> MemoryKind {
        if device.kind() == DeviceKind::Cuda {
            return MemoryKind::Gpu(device.index());
        }
        match self.shared.memories.find(address) {
            Some((_, Place::Pinned)) => MemoryKind::Pinned,
            _ => MemoryKind::Pageable,
        }
    }

    fn create_stream(&self, gpu: u32) -> Result<Box<dyn GpuStream>, GpuError> {
        self.check(gpu)?;
        Ok(Box::new(SimulatedStream {
            gpu,
            shared: Arc::clone(&self.shared),
            work: self.work.clone(),
        }))
    }

    fn pinned(&self, gpu: u32, len: usize) -> Result<Box<dyn TransferBuffer>, GpuError> {
        Ok(Box::new(self.pinned_region(gpu, len)?))
    }

    fn pinned_region(&self, gpu: u32, len: usize) -> Result<Region, GpuError> {
        self.check(gpu)?;
        let refused = |e: RegionError| GpuError::OutOfMemory { what: "pinned", reason: e.into() };
        self.region(MemoryKind::Pinned, len).map_err(refused)
    }

    fn shareable_region(&self, gpu: u32, len: usize) -> Result<Region, GpuError> {
        self.check(gpu)?;
        let refused = |e: RegionError| GpuError::OutOfMemory { what: "device", reason: e.into() };
        // As the driver's: opened by descriptors.
        self.region_of(gpu, (AllocationKind::Virtual, DESCRIPTOR), len).map_err(refused)
    }

    fn scratch(&self, gpu: u32, len: usize) -> Result<Box<dyn TransferBuffer>, GpuError> {
        self.check(gpu)?;
        let refused = |e: RegionError| GpuError::OutOfMemory { what: "device", reason: e.into() };
        Ok(Box::new(self.region(MemoryKind::Gpu(gpu), len).map_err(refused)?))
    }

    fn allocation(&self, gpu: u32, address: u64) -> Result<GpuAllocation, GpuError> {
        self.check(gpu)?;
        let (bytes, (kind, handle_types)) = self.made_at(address)?;
        let allocation = GpuAllocation::new(kind, bytes.address(), bytes.len() as u64)
            .with_handle_types(handle_types);
        let name = bytes.shared_name().filter(|_| kind == AllocationKind::Legacy);
        let Some(name) = name else { return Ok(allocation) };
        let mut handle = [0; 72];
        handle[..4].copy_from_slice(&name.pid.to_le_bytes());
        handle[4..8].copy_from_slice(&name.fd.to_le_bytes());
        handle[8..24].copy_from_slice(&name.name);
        handle[64..].copy_from_slice(&name.len.to_le_bytes());
        Ok(allocation.with_ipc_handle(handle))
    }

    fn share_pieces(
        &self,
        gpu: u32,
        address: u64,
        len: u64,
    ) -> Result<(u64, Arc<SharedPieces>), GpuError> {
        self.check(gpu)?;
        let (bytes, (kind, handle_types)) = self.made_at(address)?;
        let name = bytes.shared_name().filter(|_| {
            let fits = address.saturating_add(len) <= bytes.address() + bytes.len() as u64;
            kind != AllocationKind::Legacy && handle_types & SHAREABLE != 0 && fits
        });
        let refused = |reason| GpuError::Unsupported { reason };
        let name = name.ok_or_else(|| refused(SharedError::text("it has no file descriptor")))?;
        let pieces = SharedPieces::new(name.len, Arc::new(SimulatedPieces(name)));
        let pieces = pieces.map_err(|error| refused(error.into()))?;
        Ok((bytes.address(), Arc::new(pieces)))
    }

    fn open(&self, gpu: u32, handle: &SharedHandle) -> Result<Box<dyn TransferBuffer>, GpuError> {
        self.check(gpu)?;
        let (device, place) = (Device::cuda(gpu), Place::Opened(gpu));
        if let Some(pieces) = PiecesHandle::from_bytes(handle) {
            let refused = |reason| GpuError::Unsupported { reason };
            let opened = simulated_pieces::map(&pieces).map_err(refused)?;
            let listed = self.shared.memories.list(opened, device, place);
            return Ok(Box::new(listed.map_err(|e| refused(e.into()))?));
        }
        let (head, len) = (&handle[..24], &handle[64..]);
        let number = |at: usize| u32::from_le_bytes(std::array::from_fn(|i| head[at + i]));
        let name = SharedName {
            pid: number(0),
            fd: number(4),
            name: std::array::from_fn(|i| head[8 + i]),
            len: u64::from_le_bytes(std::array::from_fn(|i| len[i])),
        };
        let refused = |e: &dyn fmt::Display| GpuError::Unsupported {
            reason: SharedError::text(e.to_string()),
        };
        let memory = SharedMemory::open(&name).map_err(|e| refused(&e))?;
        let opened = Region::try_from(memory).map_err(|e| refused(&e))?;
        let listed = self.shared.memories.list(opened, device, place);
        Ok(Box::new(listed.map_err(|e| refused(&e))?))
    }
}

/// A launch of the copy kernel, with the parameters of the real one, by address.
struct Launch {
    gpu: u32,
    parameter: Parameter,
    width: u64,
    /// The content of the parameter.
    _table: Vec<u8>,
}

impl Launch {
    fn new(gpu: u32, copy: &BlockCopy) -> Self {
        let mut table = vec![0; table_len(copy)];
        let address = table.as_mut_ptr() as u64;
        let parameter = write_table(copy, &mut table, address);
        Self { gpu, parameter, width: width(copy).into(), _table: table }
    }

    /// Copies, or returns the fault that a GPU would report.
    ///
    /// # Safety
    ///
    /// As for [`GpuStream::memcpy_async`], until it returns.
    unsafe fn run(&self, shared: &Shared) -> Result<(), String> {
        let reach = shared.memories.now();
        let Parameter { length, blocks, pieces, source, destination, offsets } = self.parameter;
        for index in 0..blocks * pieces {
            let (block, piece) = (index / pieces, index % pieces);
            // SAFETY: the table has two offsets for each piece, unless there are none.
            let offset = |field| unsafe { read::<u64>(offsets, 2 * piece + field) };
            // SAFETY: the table has an id for each block, unless there are none.
            let id = |side: ParameterSide| unsafe { read::<u32>(side.ids, block) };
            let begin = |side: ParameterSide, offset: Option<u64>| {
                let id = id(side).map_or(block, u64::from);
                side.base.wrapping_add(id * side.stride).wrapping_add(offset.unwrap_or(0))
            };
            let (src, dst) = (begin(source, offset(0)), begin(destination, offset(1)));
            if !(src | dst).is_multiple_of(self.width) {
                return Err("CUDA_ERROR_MISALIGNED_ADDRESS (716)".to_owned());
            }
            for address in [src, dst] {
                reach.check(&shared.capabilities, self.gpu, address, length).map_err(|why| {
                    format!(
                        "CUDA_ERROR_ILLEGAL_ADDRESS (700): {length} bytes at {address:#x}: {why}"
                    )
                })?;
            }
            // SAFETY: the caller vouches for the ranges.
            unsafe { copy(CopyOp { src, dst, len: length }, CacheHint::Cached) };
        }
        Ok(())
    }
}

/// A number of a table, if there is a table.
///
/// # Safety
///
/// At `table` are more than `index` such numbers, or it is 0.
unsafe fn read<T>(table: u64, index: u64) -> Option<T> {
    let table = (table != 0).then_some(table as *const T)?;
    // SAFETY: the caller vouches for the number. A table of bytes may lie anywhere.
    Some(unsafe { table.wrapping_add(index as usize).read_unaligned() })
}

struct SimulatedStream {
    gpu: u32,
    shared: Arc<Shared>,
    work: Sender<Work>,
}

impl SimulatedStream {
    /// Counts a request, unless it is refused.
    fn ask(&self, bytes: u64) -> Result<(), GpuError> {
        self.shared.asked.fetch_add(bytes, Ordering::Relaxed);
        let one_less = |left: usize| left.checked_sub(1);
        let refusals = &self.shared.refusals;
        match refusals.fetch_update(Ordering::Relaxed, Ordering::Relaxed, one_less) {
            Ok(_) => Err(GpuError::Unsupported { reason: SharedError::text("simulated refusal") }),
            Err(_) => Ok(()),
        }
    }

    /// Queues copies, which the driver validates first.
    fn copy(&self, call: &str, ops: &[CopyOp]) -> Result<(), GpuError> {
        self.ask(ops.iter().map(|op| op.len).sum())?;
        let reach = self.shared.memories.now();
        ops.iter().try_for_each(|op| self.check(&reach, call, op))?;
        self.queue(Work::Copies(ops.to_vec()))
    }

    fn check(&self, reach: &Reach, call: &str, op: &CopyOp) -> Result<(), GpuError> {
        for address in [op.src, op.dst] {
            match reach.check(&self.shared.capabilities, self.gpu, address, op.len) {
                Ok(()) => {}
                Err(why @ Unreachable::Pageable) => {
                    let reason =
                        format!("{call} would wait for {} bytes at {address:#x}: {why}", op.len);
                    return Err(GpuError::Unsupported { reason: SharedError::text(reason) });
                }
                Err(why) => {
                    let reason = format!(
                        "{call}: CUDA_ERROR_INVALID_VALUE (1): {} bytes at {address:#x}: {why}",
                        op.len
                    );
                    return Err(GpuError::Driver {
                        reason: SharedError::text(reason),
                        sticky: false,
                    });
                }
            }
        }
        Ok(())
    }

    fn queue(&self, work: Work) -> Result<(), GpuError> {
        healthy(&self.shared)?;
        self.work.send(work).map_err(|_| gone())
    }
}

// SAFETY: one thread does the work of all streams in the order in which it was queued, and an event is work of that thread's. An
// event that cannot be recorded is one of GPUs that have failed: `healthy` says so only when nothing is copied, and nothing
// is afterwards.
unsafe impl GpuStream for SimulatedStream {
    unsafe fn memcpy_async(&mut self, ops: &[CopyOp]) -> Result<(), GpuError> {
        self.copy("cuMemcpyAsync", ops)
    }

    unsafe fn memcpy_batch_async(&mut self, ops: &[CopyOp]) -> Result<(), GpuError> {
        self.copy("cuMemcpyBatchAsync", ops)
    }

    unsafe fn launch_copy_kernel(&mut self, copy: &BlockCopy) -> Result<(), GpuError> {
        self.ask(copy.bytes())?;
        self.queue(Work::Kernel(Launch::new(self.gpu, copy)))
    }

    unsafe fn raw_stream(&self) -> Result<StreamHandle, GpuError> {
        // Any handle serves, since `after` has nothing to wait for. SAFETY: 0 is the default stream, which is always there.
        Ok(unsafe { StreamHandle::from_raw(0) })
    }

    fn wait_stream(&mut self, _stream: StreamHandle) -> Result<(), GpuError> {
        // There are no streams but these, and the work of all streams is done in the order in which it was queued.
        healthy(&self.shared)
    }

    fn wait_event(&mut self, event: &dyn GpuEvent) -> Result<(), GpuError> {
        // Earlier work is done before this.
        match (event as &dyn Any).is::<SimulatedEvent>() {
            true => healthy(&self.shared),
            false => Err(GpuError::Unsupported {
                reason: SharedError::text("the event is of other GPUs"),
            }),
        }
    }

    fn record_event(&mut self) -> Result<Box<dyn GpuEvent>, GpuError> {
        let reached = Arc::new(AtomicBool::new(false));
        self.queue(Work::Reach(Arc::clone(&reached)))?;
        Ok(Box::new(SimulatedEvent { reached, shared: Arc::clone(&self.shared) }))
    }

    fn on_complete(&mut self, waker: Waker) -> Result<(), GpuError> {
        self.queue(Work::Wake(waker))
    }
}

struct SimulatedEvent {
    reached: Arc<AtomicBool>,
    shared: Arc<Shared>,
}

// SAFETY: the thread sets the flag, with `Release`, when it comes to it; after a failure nothing is copied any more, which
// `healthy` waits for.
unsafe impl GpuEvent for SimulatedEvent {
    fn is_complete(&self) -> Result<bool, GpuError> {
        if self.reached.load(Ordering::Acquire) {
            return Ok(true);
        }
        healthy(&self.shared)?;
        Ok(false)
    }
}

impl fmt::Debug for SimulatedGpus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SimulatedGpus")
            .field("capabilities", &self.shared.capabilities)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::local::plan::block_copy::Piece;
    use crate::local::plan::boundaries::AllocationBoundaries;
    use std::thread;

    fn gpus() -> SimulatedGpus {
        let (batch, kernel) = (true, true);
        SimulatedGpus::new(GpuCapabilities { gpus: 2, batch, kernel, peers: vec![] }).unwrap()
    }

    fn op(src: &Region, dst: &Region) -> CopyOp {
        CopyOp { src: src.address(), dst: dst.address(), len: src.len() as u64 }
    }

    /// What becomes of one request on a stream of the first GPU, once its event is complete.
    fn outcome(
        gpus: &SimulatedGpus,
        ask: impl FnOnce(&mut dyn GpuStream) -> Result<(), GpuError>,
    ) -> Result<(), GpuError> {
        let mut gpu_stream = gpus.create_stream(0)?;
        ask(&mut *gpu_stream)?;
        let event = gpu_stream.record_event()?;
        while !event.is_complete()? {
            thread::yield_now();
        }
        Ok(())
    }

    fn kernel(gpus: &SimulatedGpus, op: CopyOp) -> Result<(), GpuError> {
        let copy = BlockCopy {
            pieces: vec![Piece { src: 0, dst: 0 }],
            ..BlockCopy::of_ops(&[op], &AllocationBoundaries::default())
        };
        // SAFETY: the ranges are this test's own.
        outcome(gpus, |gpu_stream| unsafe { gpu_stream.launch_copy_kernel(&copy) })
    }

    fn copies(gpus: &SimulatedGpus, op: CopyOp) -> [Result<(), GpuError>; 2] {
        // SAFETY: the ranges are this test's own.
        let one = outcome(gpus, |gpu_stream| unsafe { gpu_stream.memcpy_async(&[op]) });
        // SAFETY: as above.
        [one, outcome(gpus, |gpu_stream| unsafe { gpu_stream.memcpy_batch_async(&[op]) })]
    }

    #[test]
    fn a_kernel_on_memory_that_a_gpu_cannot_reach_is_the_end_of_it() {
        let kinds = [MemoryKind::Pageable, MemoryKind::Gpu(1)];
        for (kind, swapped) in kinds.into_iter().flat_map(|kind| [(kind, false), (kind, true)]) {
            let gpus = gpus();
            let [own, pinned, other] = [MemoryKind::Gpu(0), MemoryKind::Pinned, kind]
                .map(|kind| gpus.region(kind, 4096).unwrap());
            kernel(&gpus, op(&own, &pinned)).unwrap();
            let bad = if swapped { op(&own, &other) } else { op(&other, &own) };
            let error = kernel(&gpus, bad).unwrap_err();
            assert!(matches!(error, GpuError::Driver { sticky: true, .. }), "{error}");
            assert!(error.to_string().contains("CUDA_ERROR_ILLEGAL_ADDRESS (700)"), "{error}");
            // For good.
            assert_eq!(kernel(&gpus, op(&own, &pinned)), Err(error));
        }
    }

    #[test]
    fn a_kernel_that_is_not_aligned_is_the_end_of_it() {
        let gpus = gpus();
        let own = gpus.region(MemoryKind::Gpu(0), 64).unwrap();
        let mut launch = Launch::new(
            0,
            &BlockCopy::of_ops(
                &[CopyOp { src: own.address() + 1, dst: own.address() + 33, len: 16 }],
                &AllocationBoundaries::default(),
            ),
        );
        launch.width = 16;
        // SAFETY: the ranges are this test's own.
        let fault = unsafe { launch.run(&gpus.shared) }.unwrap_err();
        assert!(fault.contains("716"), "{fault}");
    }

    #[test]
    fn a_copy_that_the_driver_would_refuse_is_refused_and_nothing_else_suffers() {
        let gpus = gpus();
        let [own, pinned, other, pageable] =
            [MemoryKind::Gpu(0), MemoryKind::Pinned, MemoryKind::Gpu(1), MemoryKind::Pageable]
                .map(|kind| gpus.region(kind, 4096).unwrap());
        let torn = CopyOp { src: own.address() + 1, ..op(&own, &pinned) };
        for (bad, why) in [
            (torn, "not inside one allocation"),
            (op(&other, &own), "access to cuda:1 is not enabled"),
            (op(&own, &pageable), "would wait"),
            (op(&pageable, &own), "would wait"),
        ] {
            for refused in copies(&gpus, bad) {
                let error = refused.unwrap_err();
                assert!(error.to_string().contains(why), "{error}");
            }
        }
        assert_eq!(copies(&gpus, op(&own, &pinned)), [Ok(()), Ok(())]);
        assert_eq!(copies(&gpus, op(&pinned, &own)), [Ok(()), Ok(())]);
    }

    #[test]
    #[cfg_attr(miri, ignore = "opens files in memory")]
    fn what_is_opened_is_for_one_gpu() {
        let gpus = gpus();
        let theirs = gpus.region(MemoryKind::Gpu(1), 4096).unwrap();
        let own = gpus.region(MemoryKind::Gpu(0), 4096).unwrap();
        let handle = *gpus.allocation(1, theirs.address()).unwrap().ipc_handle().unwrap();
        for (opener, works) in [(0, true), (1, false)] {
            let opened = gpus.open(opener, &handle).unwrap();
            let op = CopyOp { src: opened.address(), dst: own.address(), len: 4096 };
            assert_eq!(copies(&gpus, op).map(|result| result.is_ok()), [works; 2]);
        }
    }
}
