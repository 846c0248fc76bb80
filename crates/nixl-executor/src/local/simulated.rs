//! GPUs that are host memory with a label: for tests of executors on machines without any.
#![allow(unsafe_code, reason = "copies by address, as a GPU does")]

use std::any::Any;
use std::fmt;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::task::Waker;
use std::thread;

use nixl_descriptor::{Access, Region, RegionError, SharedMemory, SharedName};
use nixl_device::{Device, DeviceKind};

use super::block_copy::{BlockCopy, CopyOp};
use super::engine::{Buffer, Gpus, Lane, Mark, SharedHandle, StreamHandle};
use super::host_copy::{Target, copy};
use super::strategy::Abilities;
use super::table::{Parameter, ParameterSide, table_len, width, write_table};
use super::{GpuError, MemoryKind};

/// Simulated GPUs. Their memory is shared like that of real ones: those of another process of the machine open it. What
/// they copy is copied by one thread, in the order in which it was queued; the thread can be
/// [paused](Self::pause), and told to [fail](Self::fail).
pub struct SimulatedGpus {
    abilities: Abilities,
    shared: Arc<Shared>,
    work: Sender<Work>,
}

#[derive(Default)]
struct Shared {
    /// Memory that counts as pinned for as long as it lives: its addresses are used again.
    pinned: Mutex<Vec<Weak<Region>>>,
    /// Memory of GPUs, to be found by address.
    allocations: Mutex<Vec<Weak<Region>>>,
    /// Held by whoever pauses the GPUs.
    running: Mutex<()>,
    /// Held while something is copied.
    copying: Mutex<()>,
    failed: AtomicBool,
    /// So many of the next requests to copy are refused.
    refusals: AtomicUsize,
    /// Bytes that requests asked to copy.
    asked: AtomicU64,
}

enum Work {
    Copies(Vec<CopyOp>),
    Kernel(Launch),
    Reach(Arc<AtomicBool>),
    Wake(Waker),
}

impl SimulatedGpus {
    /// GPUs with these abilities.
    ///
    /// # Errors
    ///
    /// If the operating system refuses the thread.
    pub fn new(abilities: Abilities) -> std::io::Result<Self> {
        let (work, queue) = channel::<Work>();
        let shared = Arc::new(Shared::default());
        let theirs = Arc::clone(&shared);
        thread::Builder::new().name("simulated-gpu".to_owned()).spawn(move || {
            for work in queue {
                let _running = lock(&theirs.running);
                let _copying = lock(&theirs.copying);
                // Whoever learns of a failure gives the memory back.
                let has_failed = theirs.failed.load(Ordering::Acquire);
                match work {
                    Work::Copies(_) | Work::Kernel(_) | Work::Reach(_) if has_failed => {}
                    Work::Copies(ops) => {
                        for op in ops {
                            // SAFETY: whoever queued it vouched for the ranges until a later mark is reached.
                            unsafe { copy(op, Target::Cached) };
                        }
                    }
                    // SAFETY: whoever queued it vouched for the ranges until a later mark is reached.
                    Work::Kernel(launch) => unsafe { launch.run() },
                    Work::Reach(mark) => mark.store(true, Ordering::Release),
                    Work::Wake(waker) => waker.wake(),
                }
            }
        })?;
        Ok(Self { abilities, shared, work })
    }

    /// Memory of a kind, as a region of the device that it stands for.
    ///
    /// # Errors
    ///
    /// [`RegionError`].
    pub fn region(&self, kind: MemoryKind, len: usize) -> Result<Region, RegionError> {
        match kind {
            MemoryKind::Pageable => Region::zeroed(len),
            MemoryKind::Pinned => known(Region::zeroed(len)?, Device::HOST, &self.shared.pinned),
            MemoryKind::Gpu(ordinal) => {
                known(Region::shared(len)?, Device::cuda(ordinal), &self.shared.allocations)
            }
        }
    }

    /// Stops all work until the guard is dropped.
    pub fn pause(&self) -> impl Drop + '_ {
        lock(&self.shared.running)
    }

    /// Makes all that is queued or asked from here on fail, as after a sticky error. Nothing is copied any more once
    /// anybody has been told.
    pub fn fail(&self) {
        self.shared.failed.store(true, Ordering::Release);
    }

    /// Refuses so many of the next requests to copy.
    pub fn refuse(&self, requests: usize) {
        self.shared.refusals.store(requests, Ordering::Relaxed);
    }

    /// How many bytes requests asked to copy until now, refused or not.
    #[must_use]
    pub fn asked(&self) -> u64 {
        self.shared.asked.load(Ordering::Relaxed)
    }

    fn check(&self, gpu: u32) -> Result<(), GpuError> {
        healthy(&self.shared)?;
        if gpu < self.abilities.gpus {
            return Ok(());
        }
        let reason = format!("{} are simulated", self.abilities.gpus);
        Err(GpuError::NoDevice { ordinal: gpu, reason })
    }
}

fn healthy(shared: &Shared) -> Result<(), GpuError> {
    if shared.failed.load(Ordering::Acquire) {
        // What is copied next sees the failure; what is copied now still uses its memory.
        drop(lock(&shared.copying));
        let reason = "simulated failure".to_owned();
        return Err(GpuError::Driver { reason, sticky: true });
    }
    Ok(())
}

// SAFETY: all memory is this process's own, whatever it stands for, so processor and simulated GPUs can reach it at its
// address. `known` lists it as long as it lives; buffers own theirs. The mark of a stream is one after the work of all lanes,
// of which every stream is one.
unsafe impl Gpus for SimulatedGpus {
    fn abilities(&self) -> &Abilities {
        &self.abilities
    }

    fn mark_stream(&self, gpu: u32, _: StreamHandle) -> Result<Box<dyn Mark>, GpuError> {
        // Any stream counts as having queued what all lanes have.
        self.lane(gpu)?.mark()
    }

    fn pin(&self, region: &Region) -> Result<Box<dyn Buffer>, GpuError> {
        healthy(&self.shared)?;
        let refused = |e: RegionError| GpuError::Unsupported { reason: e.to_string() };
        let pinned = known(region.clone(), Device::HOST, &self.shared.pinned).map_err(refused)?;
        Ok(Box::new(pinned))
    }

    fn is_open_to_peers(&self, region: &Region) -> bool {
        find(&self.shared.allocations, region.address()).is_some()
    }

    fn memory_kind(&self, device: Device, address: u64) -> MemoryKind {
        if device.kind() == DeviceKind::Cuda {
            return MemoryKind::Gpu(device.index());
        }
        match find(&self.shared.pinned, address) {
            Some(_) => MemoryKind::Pinned,
            None => MemoryKind::Pageable,
        }
    }

    fn lane(&self, gpu: u32) -> Result<Box<dyn Lane>, GpuError> {
        self.check(gpu)?;
        Ok(Box::new(SimulatedLane { shared: Arc::clone(&self.shared), work: self.work.clone() }))
    }

    fn pinned(&self, gpu: u32, len: usize) -> Result<Box<dyn Buffer>, GpuError> {
        self.check(gpu)?;
        Ok(Box::new(Bytes::new(len)))
    }

    fn pinned_region(&self, gpu: u32, len: usize) -> Result<Region, GpuError> {
        self.check(gpu)?;
        let refused =
            |e: RegionError| GpuError::OutOfMemory { what: "pinned", reason: e.to_string() };
        self.region(MemoryKind::Pinned, len).map_err(refused)
    }

    fn scratch(&self, gpu: u32, len: usize) -> Result<Box<dyn Buffer>, GpuError> {
        self.check(gpu)?;
        Ok(Box::new(Bytes::new(len)))
    }

    fn share(&self, gpu: u32, address: u64) -> Result<(SharedHandle, u64), GpuError> {
        self.check(gpu)?;
        let found = find(&self.shared.allocations, address)
            .and_then(|bytes| Some((bytes.shared_name()?, address - bytes.address())));
        let (name, offset) = found.ok_or_else(|| GpuError::Unsupported {
            reason: "no memory of a simulated GPU is there".to_owned(),
        })?;
        let mut handle = [0; 72];
        handle[..4].copy_from_slice(&name.pid.to_le_bytes());
        handle[4..8].copy_from_slice(&name.fd.to_le_bytes());
        handle[8..24].copy_from_slice(&name.name);
        handle[64..].copy_from_slice(&name.len.to_le_bytes());
        Ok((handle, offset))
    }

    fn open(&self, gpu: u32, handle: &SharedHandle) -> Result<Box<dyn Buffer>, GpuError> {
        self.check(gpu)?;
        let (head, len) = (&handle[..24], &handle[64..]);
        let number = |at: usize| u32::from_le_bytes(std::array::from_fn(|i| head[at + i]));
        let name = SharedName {
            pid: number(0),
            fd: number(4),
            name: std::array::from_fn(|i| head[8 + i]),
            len: u64::from_le_bytes(std::array::from_fn(|i| len[i])),
        };
        let refused = |e: &dyn fmt::Display| GpuError::Unsupported { reason: e.to_string() };
        let memory = SharedMemory::open(&name).map_err(|e| refused(&e))?;
        Ok(Box::new(Region::try_from(memory).map_err(|e| refused(&e))?))
    }
}

/// Memory of a device over the bytes of `inner`, which is listed for as long as it lives.
fn known(
    inner: Region,
    device: Device,
    list: &Mutex<Vec<Weak<Region>>>,
) -> Result<Region, RegionError> {
    let (inner, access) = (Arc::new(inner), Access::ReadWrite);
    let base = NonNull::new(inner.address() as *mut u8).ok_or(RegionError::Empty)?;
    let mut list = lock(list);
    list.retain(|other| other.strong_count() > 0);
    list.push(Arc::downgrade(&inner));
    // SAFETY: the inner region has these bytes as long as it lives, and nothing reaches them but by address, or by its name
    // as peers do.
    unsafe { Region::from_raw_parts(base, inner.len(), device, access, inner) }
}

/// The memory at an address.
fn find(list: &Mutex<Vec<Weak<Region>>>, address: u64) -> Option<Arc<Region>> {
    let list = lock(list);
    list.iter()
        .filter_map(Weak::upgrade)
        .find(|bytes| (bytes.address()..bytes.address() + bytes.len() as u64).contains(&address))
}

/// A buffer that is only ever reached by address.
struct Bytes {
    address: u64,
    _bytes: Vec<u8>,
}

impl Bytes {
    fn new(len: usize) -> Self {
        let mut bytes = vec![0u8; len];
        Self { address: bytes.as_mut_ptr() as u64, _bytes: bytes }
    }
}

// SAFETY: the vector neither moves its bytes nor grows, and lives as long as this.
unsafe impl Buffer for Bytes {
    fn address(&self) -> u64 {
        self.address
    }
}

/// A launch of the copy kernel, told what the real one is told, by address.
struct Launch {
    parameter: Parameter,
    width: u64,
    /// What the parameter points to.
    _table: Vec<u8>,
}

impl Launch {
    fn new(copy: &BlockCopy) -> Self {
        let mut table = vec![0; table_len(copy)];
        let address = table.as_mut_ptr() as u64;
        let parameter = write_table(copy, &mut table, address);
        Self { parameter, width: width(copy).into(), _table: table }
    }

    /// # Safety
    ///
    /// As for [`Lane::copies`], until it returns.
    unsafe fn run(&self) {
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
            // A GPU would fault; here the bytes are left out, which is seen as well.
            if (src | dst).is_multiple_of(self.width) {
                // SAFETY: the caller vouches for the ranges.
                unsafe { copy(CopyOp { src, dst, len: length }, Target::Cached) };
            }
        }
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

struct SimulatedLane {
    shared: Arc<Shared>,
    work: Sender<Work>,
}

impl SimulatedLane {
    /// Counts a request, unless it is refused.
    fn ask(&self, bytes: u64) -> Result<(), GpuError> {
        self.shared.asked.fetch_add(bytes, Ordering::Relaxed);
        let one_less = |left: usize| left.checked_sub(1);
        let refusals = &self.shared.refusals;
        match refusals.fetch_update(Ordering::Relaxed, Ordering::Relaxed, one_less) {
            Ok(_) => Err(GpuError::Unsupported { reason: "simulated refusal".to_owned() }),
            Err(_) => Ok(()),
        }
    }

    fn queue(&self, work: Work) -> Result<(), GpuError> {
        healthy(&self.shared)?;
        self.work.send(work).map_err(|_| GpuError::Driver {
            reason: "the simulated GPUs are gone".to_owned(),
            sticky: true,
        })
    }
}

// SAFETY: one thread does the work of all lanes in the order in which it was queued, and a mark is work of that thread's. A
// mark that cannot be made is one of GPUs that have failed: `healthy` says so only when nothing is copied, and nothing
// is afterwards.
unsafe impl Lane for SimulatedLane {
    unsafe fn copies(&mut self, ops: &[CopyOp]) -> Result<(), GpuError> {
        self.ask(ops.iter().map(|op| op.len).sum())?;
        self.queue(Work::Copies(ops.to_vec()))
    }

    unsafe fn batch(&mut self, ops: &[CopyOp]) -> Result<(), GpuError> {
        self.ask(ops.iter().map(|op| op.len).sum())?;
        self.queue(Work::Copies(ops.to_vec()))
    }

    unsafe fn kernel(&mut self, copy: &BlockCopy) -> Result<(), GpuError> {
        self.ask(copy.bytes())?;
        self.queue(Work::Kernel(Launch::new(copy)))
    }

    unsafe fn stream(&self) -> Result<StreamHandle, GpuError> {
        // Any handle will do, since `after` has nothing to wait for.
        // SAFETY: 0 is the default stream, which is always there.
        Ok(unsafe { StreamHandle::from_raw(0) })
    }

    fn after(&mut self, _stream: StreamHandle) -> Result<(), GpuError> {
        // There are no streams but these, and the work of all lanes is done in the order in which it was queued.
        healthy(&self.shared)
    }

    fn wait_for(&mut self, mark: &dyn Mark) -> Result<(), GpuError> {
        // What was queued before this is done before it.
        match (mark as &dyn Any).is::<SimulatedMark>() {
            true => healthy(&self.shared),
            false => Err(GpuError::Unsupported { reason: "the mark is of other GPUs".to_owned() }),
        }
    }

    fn mark(&mut self) -> Result<Box<dyn Mark>, GpuError> {
        let reached = Arc::new(AtomicBool::new(false));
        self.queue(Work::Reach(Arc::clone(&reached)))?;
        Ok(Box::new(SimulatedMark { reached, shared: Arc::clone(&self.shared) }))
    }

    fn wake(&mut self, waker: Waker) -> Result<(), GpuError> {
        self.queue(Work::Wake(waker))
    }
}

struct SimulatedMark {
    reached: Arc<AtomicBool>,
    shared: Arc<Shared>,
}

// SAFETY: the thread sets the flag, with `Release`, when it comes to it; after a failure nothing is copied any more, which
// `healthy` waits for.
unsafe impl Mark for SimulatedMark {
    fn reached(&self) -> Result<bool, GpuError> {
        if self.reached.load(Ordering::Acquire) {
            return Ok(true);
        }
        healthy(&self.shared)?;
        Ok(false)
    }
}

impl fmt::Debug for SimulatedGpus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SimulatedGpus").field("abilities", &self.abilities).finish_non_exhaustive()
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
