//! Loss of single paths: a missing resource takes its path away, and no more.
#![allow(clippy::unwrap_used, reason = "helpers of tests")]
#![allow(unsafe_code, reason = "GPUs of which some calls fail, and looks into their memory")]

#[path = "common/apart.rs"]
mod apart;

use std::slice;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use apart::Apart;
use nixl_connector::simulated::Fabric;
use nixl_connector::{Completion, Connector, ConnectorError};
use nixl_descriptor::{AllocationKind, DescriptorList, GpuAllocation, Region, SharedPieces};
use nixl_device::{Device, SharedError};
use nixl_executor::paths::LocalFacts;
use nixl_executor::{
    GpuBackend, GpuCapabilities, GpuError, GpuEvent, GpuStream, MemoryKind, PathExecutor, PathKind,
    PathPolicy, SharedHandle, SimulatedGpus, StagingBudget, StagingConfig, StreamHandle,
    TransferBuffer,
};
use nixl_metadata::RdmaMetadata;
use nixl_ops::{Executor, OperationOptions, SystemClock, TransportError};

const GPU: MemoryKind = MemoryKind::Gpu(0);
const LIMIT: Duration = Duration::from_secs(30);

/// Simulated GPUs of which some calls fail.
#[derive(Debug)]
struct Failing {
    inner: SimulatedGpus,
    pinning: AtomicBool,
    /// There is no memory for slots on the GPU.
    full: AtomicBool,
    /// How often the driver was asked for an allocation.
    asked: AtomicUsize,
    /// The memory that cannot be opened.
    closed: Mutex<Option<SharedHandle>>,
}

impl Failing {
    fn refused() -> GpuError {
        GpuError::Unsupported { reason: SharedError::text("pinned memory is exhausted") }
    }

    fn may_pin(&self) -> Result<(), GpuError> {
        match self.pinning.load(Ordering::Relaxed) {
            true => Err(Self::refused()),
            false => Ok(()),
        }
    }
}

// SAFETY: as those inside.
unsafe impl GpuBackend for Failing {
    fn capabilities(&self) -> &GpuCapabilities {
        self.inner.capabilities()
    }

    fn memory_kind(&self, device: Device, address: u64) -> MemoryKind {
        self.inner.memory_kind(device, address)
    }

    fn is_open_to_peers(&self, region: &Region) -> bool {
        self.inner.is_open_to_peers(region)
    }

    fn record_event_on(
        &self,
        gpu: u32,
        stream: StreamHandle,
    ) -> Result<Box<dyn GpuEvent>, GpuError> {
        self.inner.record_event_on(gpu, stream)
    }

    fn create_stream(&self, gpu: u32) -> Result<Box<dyn GpuStream>, GpuError> {
        self.inner.create_stream(gpu)
    }

    fn pinned(&self, gpu: u32, len: usize) -> Result<Box<dyn TransferBuffer>, GpuError> {
        self.may_pin()?;
        self.inner.pinned(gpu, len)
    }

    fn pinned_region(&self, gpu: u32, len: usize) -> Result<Region, GpuError> {
        self.may_pin()?;
        self.inner.pinned_region(gpu, len)
    }

    fn shareable_region(&self, gpu: u32, len: usize) -> Result<Region, GpuError> {
        match self.full.load(Ordering::Relaxed) {
            true => Err(GpuError::Unsupported { reason: SharedError::text("the GPU is full") }),
            false => self.inner.shareable_region(gpu, len),
        }
    }

    fn scratch(&self, gpu: u32, len: usize) -> Result<Box<dyn TransferBuffer>, GpuError> {
        self.inner.scratch(gpu, len)
    }

    fn allocation(&self, gpu: u32, address: u64) -> Result<GpuAllocation, GpuError> {
        self.asked.fetch_add(1, Ordering::Relaxed);
        self.inner.allocation(gpu, address)
    }

    fn share_pieces(
        &self,
        gpu: u32,
        address: u64,
        len: u64,
    ) -> Result<(u64, Arc<SharedPieces>), GpuError> {
        self.inner.share_pieces(gpu, address, len)
    }

    fn open(&self, gpu: u32, handle: &SharedHandle) -> Result<Box<dyn TransferBuffer>, GpuError> {
        match *self.closed.lock().unwrap() == Some(*handle) {
            true => Err(GpuError::Unsupported { reason: SharedError::text("not this memory") }),
            false => self.inner.open(gpu, handle),
        }
    }

    unsafe fn pin(&self, region: &Region) -> Result<Box<dyn TransferBuffer>, GpuError> {
        self.may_pin()?;
        // SAFETY: the caller's promise is the same.
        unsafe { self.inner.pin(region) }
    }
}

struct World {
    gpus: Arc<Failing>,
    paths: Arc<PathExecutor>,
    target: Connector,
    initiator: Connector,
}

impl World {
    async fn new(locality: bool) -> Self {
        let staging = StagingConfig::default().slot_bytes(4096).slots(4);
        Self::staging(locality, staging).await
    }

    async fn staging(locality: bool, staging: StagingConfig) -> Self {
        let capabilities = GpuCapabilities::new(1).with_batch(true);
        let facts = LocalFacts::discover().as_ref().clone().with_simulated_gpus(&capabilities);
        let inner = SimulatedGpus::new(capabilities).unwrap();
        let gpus = Arc::new(Failing {
            inner,
            pinning: AtomicBool::new(false),
            full: AtomicBool::new(false),
            asked: AtomicUsize::new(0),
            closed: Mutex::default(),
        });
        let executor =
            PathExecutor::with(Arc::clone(&gpus) as Arc<dyn GpuBackend>, Arc::new(facts)).unwrap();
        let paths = Arc::new(executor.staging(staging));
        let inner = Arc::clone(&paths) as Arc<dyn Executor>;
        let executor: Arc<dyn Executor> = Arc::new(Apart {
            executor: inner,
            poses: locality.then(std::os::unix::process::parent_id),
        });
        let fabric = Fabric::new(Arc::new(SystemClock::new()));
        let build = |name: &str| {
            let transport = fabric.transport(name);
            Connector::builder().transport(transport).executor(Arc::clone(&executor)).build()
        };
        let (target, initiator) =
            (build("target").await.unwrap(), build("initiator").await.unwrap());
        Self { gpus, paths, target, initiator }
    }

    fn region(&self, bytes: &[u8]) -> Region {
        let region = self.gpus.inner.region(GPU, bytes.len()).unwrap();
        // SAFETY: the simulated GPUs made these bytes just now, and no other thread knows of them.
        unsafe { slice::from_raw_parts_mut(region.address() as *mut u8, bytes.len()) }
            .copy_from_slice(bytes);
        region
    }

    /// Reads between GPUs; bytes that were read are right.
    async fn read(&self) -> Result<Completion, ConnectorError> {
        self.read_from(self.region(&[7; 10_000])).await
    }

    async fn read_from(&self, theirs: Region) -> Result<Completion, ConnectorError> {
        let mine = self.region(&[0; 10_000]);
        let offer = self.target.create_readable(theirs).await.unwrap();
        let remote = RdmaMetadata::decode(&offer.metadata().to_native_bytes().unwrap()).unwrap();
        let policy = PathPolicy::auto().forbid(PathKind::EngineStaged);
        let options = OperationOptions::new().policy(policy);
        let mut read = self.initiator.begin_read_with(&remote, mine.clone(), options).await?;
        let completion = read.wait_for_completion().await?;
        // SAFETY: memory of a simulated GPU, of this length; the transfer is over.
        let bytes = unsafe { slice::from_raw_parts(mine.address() as *const u8, 10_000) };
        assert!(bytes == [7; 10_000]);
        Ok(completion)
    }
}

#[tokio::test]
async fn without_pinned_slots_operations_take_other_paths() {
    let world = World::new(true).await;
    world.gpus.pinning.store(true, Ordering::Relaxed);
    let completion = world.read().await.unwrap();
    assert_eq!(completion.path().unwrap().kind(), PathKind::CudaIpc);
    assert_eq!(world.paths.staging_stats().incoming().pinned_bytes(), 0);
}

#[tokio::test]
async fn slots_beyond_the_bound_of_the_process_take_their_path_away_and_no_other() {
    let most = usize::try_from(StagingBudget::PINNED).unwrap();
    let slot = most / StagingConfig::MAX_SLOTS + 1;
    let beyond = StagingConfig::default().slot_bytes(slot).slots(StagingConfig::MAX_SLOTS);
    let world = World::staging(true, beyond).await;
    let completion = world.read().await.unwrap();
    assert_eq!(completion.path().unwrap().kind(), PathKind::CudaIpc);

    let world = World::staging(false, beyond).await;
    let error = world.read().await.unwrap_err();
    let ConnectorError::Transport(TransportError::NoPath { rejected }) = &error else {
        panic!("{error:?}")
    };
    let staged = rejected.iter().find(|r| r.kind() == PathKind::StagedBothSides).unwrap();
    assert!(staged.reason().contains("StagingBudget::set_pinned_bytes"), "{}", staged.reason());
    let stats = world.paths.staging_stats();
    assert_eq!(stats.incoming().pinned_bytes(), 0);
    assert!(stats.budget().refused() > 0);
    assert_eq!(stats.budget().most_pinned_bytes(), StagingBudget::PINNED);
}

#[tokio::test]
async fn without_pinned_slots_and_other_paths_the_error_says_so_until_there_are_some() {
    let world = World::new(false).await;
    world.gpus.pinning.store(true, Ordering::Relaxed);
    let error = world.read().await.unwrap_err();
    let ConnectorError::Transport(TransportError::NoPath { rejected }) = &error else {
        panic!("{error:?}")
    };
    let staged = rejected.iter().find(|r| r.kind() == PathKind::StagedBothSides).unwrap();
    assert!(staged.reason().starts_with("no pinned slots: "), "{}", staged.reason());
    assert!(staged.reason().contains("exhausted"), "{}", staged.reason());
    world.gpus.pinning.store(false, Ordering::Relaxed);
    let began = Instant::now();
    let completion = loop {
        match world.read().await {
            Ok(completion) => break completion,
            Err(error) => assert!(began.elapsed() < LIMIT, "{error}"),
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    };
    assert_eq!(completion.path().unwrap().kind(), PathKind::StagedBothSides);
}

#[tokio::test]
async fn connections_share_the_pinned_slots() {
    let world = World::new(false).await;
    let fabric = Fabric::new(Arc::new(SystemClock::new()));
    let executor = Arc::clone(&world.paths) as Arc<dyn Executor>;
    let mut kept = Vec::new();
    for index in 0..20 {
        let transport = fabric.transport(&index.to_string());
        let connector = Connector::builder().transport(transport).executor(Arc::clone(&executor));
        let connector = connector.build().await.unwrap();
        let offer = connector.create_readable(world.region(&[7; 100])).await.unwrap();
        kept.push((connector, offer));
    }
    let stats = world.paths.staging_stats();
    assert_eq!(
        (stats.incoming().pinned_bytes(), stats.outgoing().pinned_bytes()),
        (4 * 4096, 4 * 4096)
    );
    world.read().await.unwrap();
}

#[tokio::test]
async fn memory_that_cannot_be_opened_says_nothing_of_other_memory() {
    let world = World::new(true).await;
    let bad = world.region(&[7; 10_000]);
    let allocation = world.gpus.allocation(0, bad.address()).unwrap();
    *world.gpus.closed.lock().unwrap() = allocation.ipc_handle().copied();
    for _ in 0..2 {
        let completion = world.read_from(bad.clone()).await.unwrap();
        let path = completion.path().unwrap();
        assert_eq!(path.kind(), PathKind::StagedOnGpu, "{path}");
        let rejected = path.rejected().iter().find(|r| r.kind() == PathKind::CudaIpc).unwrap();
        assert!(rejected.reason().contains("not this memory"), "{}", rejected.reason());
        let completion = world.read().await.unwrap();
        assert_eq!(completion.path().unwrap().kind(), PathKind::CudaIpc);
    }
    *world.gpus.closed.lock().unwrap() = None;
    let began = Instant::now();
    while world.read_from(bad.clone()).await.unwrap().path().unwrap().kind() != PathKind::CudaIpc {
        assert!(began.elapsed() < LIMIT, "it is tried again");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test]
async fn the_driver_is_asked_once_for_each_region() {
    let world = World::new(true).await;
    let (mine, theirs) = (world.region(&[0; 10_000]), world.region(&[7; 10_000]));
    for _ in 0..4 {
        let offer = world.target.create_readable(theirs.clone()).await.unwrap();
        let remote = RdmaMetadata::decode(&offer.metadata().to_native_bytes().unwrap()).unwrap();
        let part = mine.descriptor(..10_000).unwrap();
        let mut read = world.initiator.begin_read(&remote, part).await.unwrap();
        let completion = read.wait_for_completion().await.unwrap();
        assert_eq!(completion.path().unwrap().kind(), PathKind::CudaIpc);
    }
    assert_eq!(world.gpus.asked.load(Ordering::Relaxed), 2);
    for region in [mine, theirs] {
        assert_eq!(region.allocation().unwrap().base(), region.address());
        assert!(format!("{region:?}").contains("kind: Legacy"), "{region:?}");
    }
}

/// Memory that no other process can open is staged through the host then.
#[tokio::test]
async fn without_slots_on_a_gpu_operations_take_other_paths() {
    let world = World::new(true).await;
    world.gpus.full.store(true, Ordering::Relaxed);
    for expected in [PathKind::StagedBothSides, PathKind::StagedOnGpu] {
        let began = Instant::now();
        loop {
            let mine = world.gpus.inner.region_of(0, (AllocationKind::Pool, 0), 10_000).unwrap();
            let theirs = world.gpus.inner.region_of(0, (AllocationKind::Pool, 0), 10_000).unwrap();
            let mut offer = world.target.create_writable(theirs).await.unwrap();
            let remote =
                RdmaMetadata::decode(&offer.metadata().to_native_bytes().unwrap()).unwrap();
            let mut write = world.initiator.begin_write(mine, &remote).await.unwrap();
            let completion = write.wait_for_completion().await.unwrap();
            offer.wait_for_completion().await.unwrap();
            let path = completion.path().unwrap();
            if path.kind() == expected {
                let rejected = path.rejected().iter().find(|r| r.kind() == PathKind::StagedOnGpu);
                let reason = rejected.map(|rejected| rejected.reason().to_owned());
                let is_full = reason.as_ref().is_some_and(|r| r.contains("the GPU is full"));
                assert_eq!(is_full, expected == PathKind::StagedBothSides, "{path}");
                break;
            }
            // The failure is remembered for a second.
            assert!(began.elapsed() < LIMIT && expected == PathKind::StagedOnGpu, "{path}");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        world.gpus.full.store(false, Ordering::Relaxed);
    }
}

/// More than stay open would close each other, one after the other, on the thread that all of the connection's peers need.
#[tokio::test]
async fn memory_in_more_pieces_than_stay_open_is_not_opened() {
    const PIECES: usize = 1100;
    let world = World::new(true).await;
    let list = |byte: u8| -> (Vec<Region>, DescriptorList) {
        let regions: Vec<_> = (0..PIECES).map(|_| world.region(&[byte; 8])).collect();
        let whole: Vec<_> = regions.iter().map(Region::whole).collect();
        (regions, DescriptorList::try_from(whole).unwrap())
    };
    let (_theirs, offered) = list(7);
    let (mine, local) = list(0);
    let offer = world.target.create_readable(offered).await.unwrap();
    let remote = RdmaMetadata::decode(&offer.metadata().to_native_bytes().unwrap()).unwrap();
    let mut read = world.initiator.begin_read(&remote, local).await.unwrap();
    let completion = read.wait_for_completion().await.unwrap();
    let path = completion.path().unwrap();
    let rejected = path.rejected().iter().find(|r| r.kind() == PathKind::CudaIpc).unwrap();
    assert!(rejected.reason().contains("1100 pieces of memory are more"), "{}", rejected.reason());
    // The slots of the bounce are one piece.
    assert_eq!((path.kind(), world.paths.peer_stats().imports()), (PathKind::StagedOnGpu, 1));
    for region in mine {
        // SAFETY: memory of a simulated GPU, of this length; the transfer is over.
        let bytes = unsafe { slice::from_raw_parts(region.address() as *const u8, 8) };
        assert!(bytes == [7; 8]);
    }
}
