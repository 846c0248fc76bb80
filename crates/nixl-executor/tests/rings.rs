//! Transfers through pinned slots, on simulated GPUs that are late, fail, or have little pinned memory; and the progress
//! that transfers report.
#![allow(clippy::unwrap_used, reason = "helpers of tests")]
#![allow(unsafe_code, reason = "looks into memory that stands for a GPU's")]

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::task::Waker;

use nixl_descriptor::Region;
use nixl_descriptor::layout::{Dimensions, Inner, Layout, LayoutGeometry};
use nixl_device::{Device, SharedError};
use nixl_executor::{
    BlockCopy, BlockExecutor, BlockOptions, CopyOp, Costs, GpuBackend, GpuCapabilities, GpuError,
    GpuEvent, GpuStream, MemoryKind, Progress, SimulatedGpus, Strategy, StrategyPolicy,
    StreamHandle, TransferBuffer,
};
use nixl_ops::{Completion, CopyOperation, MemoryFate, OperationError};
use proptest::prelude::*;

const MIB: usize = 1 << 20;

/// Simulated GPUs that refuse calls and complete late, as configured.
#[derive(Debug)]
struct FaultyGpus {
    gpus: SimulatedGpus,
    faults: Arc<Faults>,
}

#[derive(Debug)]
struct Faults {
    /// Pinned buffers that are out, and how many may be.
    pinned: AtomicUsize,
    pinned_limit: AtomicUsize,
    /// So many calls that queue copies succeed.
    calls_left: AtomicUsize,
    calls: AtomicUsize,
    /// How often each event answers "not yet" after its work is done.
    late: usize,
    /// Streams with work after which no event was complete.
    busy: AtomicUsize,
    /// Scratch memory that went back while there were any.
    early: AtomicUsize,
}

impl FaultyGpus {
    fn with(late: usize) -> Arc<Self> {
        // No peers: from GPU to GPU it goes through slots.
        let can = GpuCapabilities::new(2).with_batch(true).with_kernel(true);
        let faults = Faults {
            pinned: AtomicUsize::new(0),
            pinned_limit: AtomicUsize::new(usize::MAX),
            calls_left: AtomicUsize::new(usize::MAX),
            calls: AtomicUsize::new(0),
            late,
            busy: AtomicUsize::new(0),
            early: AtomicUsize::new(0),
        };
        Arc::new(Self { gpus: SimulatedGpus::new(can).unwrap(), faults: Arc::new(faults) })
    }
}

struct Counted {
    buffer: Box<dyn TransferBuffer>,
    faults: Arc<Faults>,
}

// SAFETY: as the buffer that it holds.
unsafe impl TransferBuffer for Counted {
    fn address(&self) -> u64 {
        self.buffer.address()
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.faults.pinned.fetch_sub(1, SeqCst);
    }
}

struct Scratch {
    buffer: Box<dyn TransferBuffer>,
    faults: Arc<Faults>,
}

// SAFETY: as the buffer that it holds.
unsafe impl TransferBuffer for Scratch {
    fn address(&self) -> u64 {
        self.buffer.address()
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        self.faults.early.fetch_add(usize::from(self.faults.busy.load(SeqCst) > 0), SeqCst);
    }
}

struct FaultyStream {
    gpu_stream: Box<dyn GpuStream>,
    faults: Arc<Faults>,
    is_busy: Arc<AtomicBool>,
}

impl FaultyStream {
    /// Whether one more call is refused.
    fn refuses(&self) -> bool {
        self.faults.calls.fetch_add(1, SeqCst);
        if !self.is_busy.swap(true, SeqCst) {
            self.faults.busy.fetch_add(1, SeqCst);
        }
        self.faults.calls_left.fetch_update(SeqCst, SeqCst, |n| n.checked_sub(1)).is_err()
    }
}

fn refused() -> GpuError {
    GpuError::Unsupported { reason: SharedError::text("refused") }
}

struct LateEvent {
    event: Box<dyn GpuEvent>,
    late: AtomicUsize,
    faults: Arc<Faults>,
    is_busy: Arc<AtomicBool>,
}

// SAFETY: as the event that it holds, and complete no sooner.
unsafe impl GpuEvent for LateEvent {
    fn is_complete(&self) -> Result<bool, GpuError> {
        let is_late = |left: usize| left.checked_sub(1);
        let reached =
            self.event.is_complete()? && self.late.fetch_update(SeqCst, SeqCst, is_late).is_err();
        if reached && self.is_busy.swap(false, SeqCst) {
            self.faults.busy.fetch_sub(1, SeqCst);
        }
        Ok(reached)
    }
}

// SAFETY: as the simulated GPUs that it asks; it refuses more.
unsafe impl GpuBackend for FaultyGpus {
    fn capabilities(&self) -> &GpuCapabilities {
        self.gpus.capabilities()
    }

    fn memory_kind(&self, device: Device, address: u64) -> MemoryKind {
        self.gpus.memory_kind(device, address)
    }

    fn create_stream(&self, gpu: u32) -> Result<Box<dyn GpuStream>, GpuError> {
        let (faults, is_busy) = (Arc::clone(&self.faults), Arc::default());
        Ok(Box::new(FaultyStream { gpu_stream: self.gpus.create_stream(gpu)?, faults, is_busy }))
    }

    fn pinned(&self, gpu: u32, len: usize) -> Result<Box<dyn TransferBuffer>, GpuError> {
        let limit = self.faults.pinned_limit.load(SeqCst);
        let one_more = |out: usize| (out < limit).then_some(out + 1);
        if self.faults.pinned.fetch_update(SeqCst, SeqCst, one_more).is_err() {
            return Err(GpuError::OutOfMemory {
                what: "pinned",
                reason: SharedError::text("all out"),
            });
        }
        let faults = Arc::clone(&self.faults);
        Ok(Box::new(Counted { buffer: self.gpus.pinned(gpu, len)?, faults }))
    }

    fn pinned_region(&self, gpu: u32, len: usize) -> Result<Region, GpuError> {
        self.gpus.pinned_region(gpu, len)
    }

    fn scratch(&self, gpu: u32, len: usize) -> Result<Box<dyn TransferBuffer>, GpuError> {
        let faults = Arc::clone(&self.faults);
        Ok(Box::new(Scratch { buffer: self.gpus.scratch(gpu, len)?, faults }))
    }
}

// SAFETY: as the stream that it holds, which it asks for the same, or for less if it returns an error.
unsafe impl GpuStream for FaultyStream {
    unsafe fn memcpy_async(&mut self, ops: &[CopyOp]) -> Result<(), GpuError> {
        // What is refused has begun in part.
        let is_refused = self.refuses();
        let some = if is_refused { &ops[..1] } else { ops };
        // SAFETY: the caller's promise.
        unsafe { self.gpu_stream.memcpy_async(some) }?;
        match is_refused {
            true => Err(refused()),
            false => Ok(()),
        }
    }

    unsafe fn memcpy_batch_async(&mut self, ops: &[CopyOp]) -> Result<(), GpuError> {
        // SAFETY: the caller's promise.
        unsafe { self.gpu_stream.memcpy_batch_async(ops) }
    }

    unsafe fn launch_copy_kernel(&mut self, copy: &BlockCopy) -> Result<(), GpuError> {
        if self.refuses() {
            return Err(refused());
        }
        // SAFETY: the caller's promise.
        unsafe { self.gpu_stream.launch_copy_kernel(copy) }
    }

    unsafe fn raw_stream(&self) -> Result<StreamHandle, GpuError> {
        // SAFETY: the caller's promise.
        unsafe { self.gpu_stream.raw_stream() }
    }

    fn wait_stream(&mut self, stream: StreamHandle) -> Result<(), GpuError> {
        self.gpu_stream.wait_stream(stream)
    }

    fn wait_event(&mut self, event: &dyn GpuEvent) -> Result<(), GpuError> {
        self.gpu_stream.wait_event(event)
    }

    fn record_event(&mut self) -> Result<Box<dyn GpuEvent>, GpuError> {
        let late = AtomicUsize::new(self.faults.late);
        let (faults, is_busy) = (Arc::clone(&self.faults), Arc::clone(&self.is_busy));
        Ok(Box::new(LateEvent { event: self.gpu_stream.record_event()?, late, faults, is_busy }))
    }

    fn on_complete(&mut self, waker: Waker) -> Result<(), GpuError> {
        self.gpu_stream.on_complete(waker)
    }
}

/// Two blocks of `half` bytes each, in one region.
struct Memory {
    layout: Layout,
    region: Region,
}

impl Memory {
    fn new(gpus: &FaultyGpus, kind: MemoryKind, half: usize) -> Self {
        assert_eq!(half % 8, 0);
        let geometry = LayoutGeometry::try_from(Dimensions {
            blocks: 2,
            layers: 1,
            outer: 2,
            page_size: 4,
            inner: Inner::Elements(half / 8),
            element_width: 1,
        })
        .unwrap();
        let region = gpus.gpus.region(kind, 2 * half).unwrap();
        let layout =
            Layout::fully_contiguous(geometry, region.descriptor(0..2 * half).unwrap()).unwrap();
        Self { layout, region }
    }

    /// Every byte, by address: "GPU" memory refuses the host's copies.
    fn set(&self, byte: impl Fn(usize) -> u8) {
        let (base, len) = (self.region.address() as *mut u8, self.region.len());
        // SAFETY: the region is a vector of this process, of this length, that no transfer uses now.
        let bytes = unsafe { std::slice::from_raw_parts_mut(base, len) };
        bytes.iter_mut().enumerate().for_each(|(at, place)| *place = byte(at));
    }

    fn is(&self, byte: impl Fn(usize) -> u8) -> bool {
        let (base, len) = (self.region.address() as *const u8, self.region.len());
        // SAFETY: as above.
        let bytes = unsafe { std::slice::from_raw_parts(base, len) };
        bytes.iter().enumerate().all(|(at, found)| *found == byte(at))
    }
}

fn pattern(seed: usize) -> impl Fn(usize) -> u8 {
    move |at| ((at + seed).wrapping_mul(0x9E37_79B9) >> 13) as u8
}

fn executor(gpus: &Arc<FaultyGpus>) -> BlockExecutor {
    BlockExecutor::new(Arc::clone(gpus) as Arc<dyn GpuBackend>, Costs::default()).unwrap()
}

fn both(
    executor: &BlockExecutor,
    (from, to): (&Memory, &Memory),
    options: &BlockOptions,
) -> CopyOperation {
    executor.execute(&from.layout, &[0, 1], &to.layout, &[0, 1], options).unwrap()
}

fn block_on<F: Future>(future: F) -> F::Output {
    tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(future)
}

fn wait(mut operation: CopyOperation) -> Result<Completion, OperationError> {
    block_on(operation.wait_for_completion())
}

type Seen = Arc<Mutex<Vec<Progress>>>;

/// What a transfer reports, and the callback that it is given.
fn recorded() -> (Seen, Arc<dyn Fn(Progress) + Send + Sync>) {
    let seen = Seen::default();
    let theirs = Arc::clone(&seen);
    (seen, Arc::new(move |progress| theirs.lock().unwrap().push(progress)))
}

const ROUTES: [(MemoryKind, MemoryKind); 4] = [
    (MemoryKind::Pageable, MemoryKind::Gpu(0)),
    (MemoryKind::Gpu(1), MemoryKind::Pageable),
    (MemoryKind::Gpu(0), MemoryKind::Gpu(1)),
    (MemoryKind::Pageable, MemoryKind::Gpu(1)),
];

proptest! {
    #![proptest_config(ProptestConfig::with_cases(12))]

    #[test]
    fn several_at_once_with_late_gpus_and_little_pinned_memory(
        halves in proptest::collection::vec(prop_oneof![1usize..40_000, 40_000usize..700_000], 1..6),
        late in prop_oneof![Just(0usize), 1usize..300],
        limit in 1usize..24,
    ) {
        let gpus = FaultyGpus::with(late);
        gpus.faults.pinned_limit.store(limit, SeqCst);
        let executor = executor(&gpus);
        let all: Vec<_> = halves.iter().enumerate().map(|(index, half)| {
            let (src, dst) = ROUTES[index % ROUTES.len()];
            let (from, to) = (Memory::new(&gpus, src, half * 8), Memory::new(&gpus, dst, half * 8));
            from.set(pattern(index));
            (from, to)
        }).collect();
        let options = BlockOptions::new();
        let operations: Vec<_> =
            all.iter().map(|(from, to)| both(&executor, (from, to), &options)).collect();
        for (index, (operation, (_, to))) in operations.into_iter().zip(&all).enumerate() {
            match wait(operation) {
                Ok(_) => prop_assert!(to.is(pattern(index))),
                // One that finds no slot at all, but for those that others have.
                Err(error) => prop_assert!(
                    limit < 4 * halves.len() && error.to_string().contains("all out"), "{error}"
                ),
            }
        }
        prop_assert_eq!(gpus.faults.pinned.load(SeqCst), 0);
        let (from, to) = &all[0];
        prop_assert!(wait(both(&executor, (from, to), &options)).is_ok());
        prop_assert!(to.is(pattern(0)));
    }

    #[test]
    fn a_hop_that_fails_ends_the_transfer_once_the_others_are_done(
        calls in 0usize..8, route in 0usize..4, late in 0usize..50,
    ) {
        let gpus = FaultyGpus::with(late);
        gpus.faults.calls_left.store(calls, SeqCst);
        let executor = executor(&gpus);
        let (src, dst) = ROUTES[route];
        let (from, to) = (Memory::new(&gpus, src, 4 * MIB), Memory::new(&gpus, dst, 4 * MIB));
        from.set(pattern(7));
        let error = wait(both(&executor, (&from, &to), &BlockOptions::new())).unwrap_err();
        prop_assert!(error.to_string().contains("refused"), "{error}");
        prop_assert_eq!(gpus.faults.pinned.load(SeqCst), 0);
        prop_assert_eq!(executor.in_flight(), 0);
        gpus.faults.calls_left.store(usize::MAX, SeqCst);
        prop_assert!(wait(both(&executor, (&from, &to), &BlockOptions::new())).is_ok());
        prop_assert!(to.is(pattern(7)));
    }

    #[test]
    fn a_packed_copy_that_fails_between_slices_gives_nothing_back_before_both_streams_are_done(
        calls in 0usize..4, packing: bool, late in 0usize..50,
    ) {
        let gpus = FaultyGpus::with(late);
        let executor = executor(&gpus);
        let (host, gpu) = (MemoryKind::Pinned, MemoryKind::Gpu(0));
        let (src, dst) = if packing { (gpu, host) } else { (host, gpu) };
        // Two slices, so two kernels and two calls that copy.
        let (from, to) = (Memory::new(&gpus, src, 4 * MIB), Memory::new(&gpus, dst, 4 * MIB));
        from.set(pattern(9));
        let options = BlockOptions::new().policy(StrategyPolicy::Require(Strategy::PackedCopy));
        gpus.faults.calls_left.store(calls, SeqCst);
        let error = wait(both(&executor, (&from, &to), &options)).unwrap_err();
        prop_assert!(error.to_string().contains("refused"), "{error}");
        prop_assert_eq!(gpus.faults.calls.load(SeqCst), calls + 1);
        prop_assert_eq!((gpus.faults.early.load(SeqCst), gpus.faults.busy.load(SeqCst)), (0, 0));
        gpus.faults.calls_left.store(4, SeqCst);
        prop_assert!(wait(both(&executor, (&from, &to), &options)).is_ok());
        prop_assert!(to.is(pattern(9)));
    }
}

#[test]
fn a_lost_gpu_ends_the_transfer() {
    let gpus = FaultyGpus::with(0);
    let executor = executor(&gpus);
    for (src, dst) in &ROUTES[..2] {
        let (from, to) = (Memory::new(&gpus, *src, 10 * MIB), Memory::new(&gpus, *dst, 10 * MIB));
        let paused = gpus.gpus.pause();
        let operation = both(&executor, (&from, &to), &BlockOptions::new());
        gpus.gpus.fail();
        drop(paused);
        let error = wait(operation).unwrap_err();
        assert!(error.to_string().contains("simulated failure"), "{error}");
        assert_eq!(gpus.faults.pinned.load(SeqCst), 0);
    }
}

#[test]
fn one_that_is_cancelled_stops_early_and_keeps_its_memory_until_it_has() {
    for (src, dst) in &ROUTES[..3] {
        let gpus = FaultyGpus::with(0);
        let executor = executor(&gpus);
        let (from, to) = (Memory::new(&gpus, *src, 32 * MIB), Memory::new(&gpus, *dst, 32 * MIB));
        let (seen, callback) = recorded();
        let options = BlockOptions::new().progress(callback);
        let paused = gpus.gpus.pause();
        let mut operation = both(&executor, (&from, &to), &options);
        operation.cancel();
        let clash = executor.execute(&from.layout, &[0], &to.layout, &[1], &options);
        assert!(clash.is_err(), "the GPU may still use it");
        drop(paused);
        let back = block_on(operation.settle());
        assert_eq!(back.outcome, Err(OperationError::Cancelled));
        assert_eq!(back.memory, MemoryFate::Released);
        assert_eq!(gpus.faults.pinned.load(SeqCst), 0);
        assert!(gpus.faults.calls.load(SeqCst) <= 4, "no slot was used twice");
        assert!(seen.lock().unwrap().is_empty());
        wait(both(&executor, (&from, &to), &BlockOptions::new())).unwrap();
    }
}

#[test]
fn one_in_flight_ends_after_its_executor_is_gone() {
    let gpus = FaultyGpus::with(3);
    let (from, to) = (
        Memory::new(&gpus, MemoryKind::Pageable, 10 * MIB),
        Memory::new(&gpus, MemoryKind::Gpu(0), 10 * MIB),
    );
    from.set(pattern(1));
    let paused = gpus.gpus.pause();
    let operation = both(&executor(&gpus), (&from, &to), &BlockOptions::new());
    drop(paused);
    wait(operation).unwrap();
    assert!(to.is(pattern(1)));
}

#[test]
fn progress_grows_to_the_total_before_the_end() {
    let gpus = FaultyGpus::with(0);
    let executor = executor(&gpus);
    let host = MemoryKind::Pageable;
    // Slots of a ring, parts of a host copy, and single requests.
    for (kinds, strategy, half, calls) in [
        (ROUTES[0], Strategy::PinnedRing, 10 * MIB, 5..20),
        (ROUTES[1], Strategy::PinnedRing, 64, 1..2),
        (ROUTES[2], Strategy::ThroughPinned, 10 * MIB, 5..20),
        ((host, host), Strategy::Memcpy, 10 * MIB, 3..6),
        ((host, host), Strategy::Memcpy, 1024, 1..2),
        ((MemoryKind::Gpu(0), MemoryKind::Gpu(0)), Strategy::Kernel, MIB, 1..2),
        ((MemoryKind::Pinned, MemoryKind::Gpu(0)), Strategy::PackedCopy, 1024, 1..2),
    ] {
        let (from, to) = (Memory::new(&gpus, kinds.0, half), Memory::new(&gpus, kinds.1, half));
        let (seen, callback) = recorded();
        let options =
            BlockOptions::new().policy(StrategyPolicy::Require(strategy)).progress(callback);
        wait(both(&executor, (&from, &to), &options)).unwrap();
        let seen = seen.lock().unwrap();
        assert!(calls.contains(&seen.len()), "{strategy}: {seen:?}");
        assert!(seen.is_sorted_by_key(|progress| progress.done()), "{seen:?}");
        assert!(seen.iter().all(|progress| progress.total() == 2 * half as u64));
        assert_eq!(seen.last().unwrap().done(), 2 * half as u64);
    }
}

#[test]
fn a_callback_that_panics_harms_no_other_copy() {
    let gpus = FaultyGpus::with(0);
    let executor = executor(&gpus);
    let host = MemoryKind::Pageable;
    for kinds in [ROUTES[0], ROUTES[1], (host, host), (MemoryKind::Gpu(0), MemoryKind::Gpu(0))] {
        let (from, to) =
            (Memory::new(&gpus, kinds.0, 6 * MIB), Memory::new(&gpus, kinds.1, 6 * MIB));
        from.set(pattern(2));
        let panics = |_| std::panic::resume_unwind(Box::new("the application's"));
        let options = BlockOptions::new().progress(Arc::new(panics));
        wait(both(&executor, (&from, &to), &options)).unwrap();
        assert!(to.is(pattern(2)));
        wait(both(&executor, (&from, &to), &BlockOptions::new())).unwrap();
    }
}
