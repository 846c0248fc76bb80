//! The executor that picks, between two connectors on a simulated network, with simulated GPU memory.
#![allow(clippy::unwrap_used, reason = "helpers of tests")]
#![allow(unsafe_code, reason = "looks into memory that stands for a GPU's")]

#[path = "common/apart.rs"]
mod apart;

use std::slice;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use apart::Apart;
use nixl_connector::simulated::{Fabric, Fault};
use nixl_connector::{Completion, Connector, ConnectorError, GrantOptions};
use nixl_descriptor::layout::{
    Dimensions, Inner, LayerOrder, Layout, LayoutDescription, LayoutGeometry, LayoutKind,
    RemoteLayout,
};
use nixl_descriptor::{
    AllocationKind, Dependency, DependencyError, Descriptor, DescriptorList, Region,
};
use nixl_executor::paths::LocalFacts;
use nixl_executor::{
    GpuBackend, GpuCapabilities, Medium, MemoryKind, PathExecutor, PathKind, PathPolicy,
    PathReport, SimulatedGpus, StagingConfig, StreamHandle,
};
use nixl_metadata::{OperationKind, RdmaMetadata};
use nixl_ops::{Executor, OperationError, OperationOptions, SystemClock, TransportError};

struct World {
    gpus: Arc<SimulatedGpus>,
    paths: Arc<PathExecutor>,
    fabric: Fabric,
    target: Connector,
    initiator: Connector,
}

impl World {
    async fn new() -> Self {
        Self::with(false).await
    }

    /// Where each side opens the other's GPU memory.
    async fn locality() -> Self {
        Self::with(true).await
    }

    async fn with(poses: bool) -> Self {
        Self::of(poses, GpuCapabilities::new(1).with_batch(true)).await
    }

    async fn of(poses: bool, capabilities: GpuCapabilities) -> Self {
        let facts = LocalFacts::discover().as_ref().clone().with_simulated_gpus(&capabilities);
        let gpus = Arc::new(SimulatedGpus::new(capabilities).unwrap());
        let executor =
            PathExecutor::with(Arc::clone(&gpus) as Arc<dyn GpuBackend>, Arc::new(facts)).unwrap();
        let staging = StagingConfig::default().slot_bytes(4096).slots(4);
        let paths = Arc::new(executor.staging(staging.gpu_slots(2, 4096)));
        let executor: Arc<dyn Executor> = Arc::new(Apart {
            executor: Arc::clone(&paths) as Arc<dyn Executor>,
            poses: poses.then(std::os::unix::process::parent_id),
        });
        let fabric = Fabric::new(Arc::new(SystemClock::new()));
        let build = |name: &str| {
            let transport = fabric.transport(name);
            Connector::builder().transport(transport).executor(Arc::clone(&executor)).build()
        };
        let (target, initiator) =
            (build("target").await.unwrap(), build("initiator").await.unwrap());
        Self { gpus, paths, fabric, target, initiator }
    }

    fn region(&self, kind: MemoryKind, bytes: &[u8]) -> Region {
        let region = self.gpus.region(kind, bytes.len()).unwrap();
        // SAFETY: the simulated GPUs made these bytes just now, and no other thread knows of them.
        unsafe { slice::from_raw_parts_mut(region.address() as *mut u8, bytes.len()) }
            .copy_from_slice(bytes);
        region
    }

    /// Memory of the GPU that no other process can open.
    fn unexported(&self, bytes: &[u8]) -> Region {
        self.allocated((AllocationKind::Pool, 0), bytes)
    }

    /// Memory of the GPU of a kind, with these types of handle.
    fn allocated(&self, made: (AllocationKind, u32), bytes: &[u8]) -> Region {
        let region = self.gpus.region_of(0, made, bytes.len()).unwrap();
        fill(&region, bytes);
        region
    }

    /// One transfer of two pieces, and what its sides hold afterwards, the initiator's first.
    async fn transfer(
        &self,
        kind: OperationKind,
        (here, there): (MemoryKind, MemoryKind),
        policy: PathPolicy,
    ) -> (Result<Completion, ConnectorError>, [Vec<u8>; 2]) {
        let sides = (self.region(here, &pattern(7)), self.region(there, &pattern(11)));
        self.transfer_between(kind, sides, policy).await
    }

    /// The same between these regions, which hold the patterns of 7 and 11.
    async fn transfer_between(
        &self,
        kind: OperationKind,
        (mine, theirs): (Region, Region),
        policy: PathPolicy,
    ) -> (Result<Completion, ConnectorError>, [Vec<u8>; 2]) {
        let pieces = |region: &Region| -> DescriptorList {
            let part = |(at, len)| -> Descriptor { region.descriptor(at..at + len).unwrap() };
            DescriptorList::try_from(PIECES.map(part).to_vec()).unwrap()
        };
        let options = OperationOptions::new().policy(policy);
        let ended = match kind {
            OperationKind::Read => {
                let mut offer = self.target.create_readable(pieces(&theirs)).await.unwrap();
                let remote = carried(offer.metadata());
                let ended = async {
                    let begun =
                        self.initiator.begin_read_with(&remote, pieces(&mine), options).await;
                    Ok(begun?.wait_for_completion().await?)
                };
                let ended = ended.await;
                if ended.is_ok() {
                    offer.wait_for_completion().await.unwrap();
                }
                ended
            }
            OperationKind::Write => {
                let mut offer = self.target.create_writable(pieces(&theirs)).await.unwrap();
                let remote = carried(offer.metadata());
                let ended = async {
                    let begun =
                        self.initiator.begin_write_with(pieces(&mine), &remote, options).await;
                    Ok(begun?.wait_for_completion().await?)
                };
                let ended = ended.await;
                if ended.is_ok() {
                    offer.wait_for_completion().await.unwrap();
                }
                ended
            }
        };
        let bytes = |region: &Region| {
            // SAFETY: as in `region`; the transfer is over.
            unsafe { slice::from_raw_parts(region.address() as *const u8, LEN) }.to_vec()
        };
        (ended, [bytes(&mine), bytes(&theirs)])
    }
}

/// A layout over new memory of a kind, filled with bytes that depend on their address.
fn cache(
    world: &World,
    kind: LayoutKind,
    memory: MemoryKind,
    factor: usize,
) -> (Layout, Vec<Region>) {
    let dimensions = Dimensions {
        blocks: 9,
        layers: 3,
        outer: 2,
        page_size: 4,
        inner: Inner::Heads { heads: 2, head_size: 5 },
        element_width: 2,
    };
    let geometry = LayoutGeometry::try_from(dimensions).unwrap();
    let parts = match kind {
        LayoutKind::PerLayer(_) => geometry.layers(),
        _ => 1,
    };
    let len = geometry.bytes() / parts;
    let bytes = |part: usize| -> Vec<u8> {
        (0..len).map(|at| (at * factor + at / 251 + part) as u8).collect()
    };
    let regions: Vec<_> = (0..parts).map(|part| world.region(memory, &bytes(part))).collect();
    let whole = |region: &Region| region.whole();
    let layout = match kind {
        LayoutKind::PerLayer(order) => {
            Layout::per_layer(geometry, order, regions.iter().map(whole).collect())
        }
        _ => Layout::fully_contiguous(geometry, regions[0].whole()),
    };
    (layout.unwrap(), regions)
}

/// The bytes of one chunk.
fn chunk(layout: &Layout, (block, layer, outer): (usize, usize, usize)) -> Vec<u8> {
    let span = layout.chunk(block, layer, outer).unwrap();
    let address = layout.parts()[span.part].address() + span.offset as u64;
    // SAFETY: inside the memory of the layout, which lives, and no transfer is under way.
    unsafe { slice::from_raw_parts(address as *const u8, span.len) }.to_vec()
}

#[tokio::test]
async fn blocks_go_between_processes_whatever_their_layouts() {
    let world = World::new().await;
    let kinds = [
        LayoutKind::FullyContiguous,
        LayoutKind::PerLayer(LayerOrder::BlockFirst),
        LayoutKind::PerLayer(LayerOrder::OuterFirst),
    ];
    let (here, there, layers) = ([7usize, 0, 3], [1usize, 8, 2], 1..3usize);
    for (ours, theirs) in kinds.into_iter().flat_map(|a| kinds.map(|b| (a, b))) {
        for (my_memory, their_memory) in [(GPU, GPU), (HOST, GPU), (GPU, HOST)] {
            for kind in KINDS {
                let (mine, _mine) = cache(&world, ours, my_memory, 7);
                let (their, _their) = cache(&world, theirs, their_memory, 11);
                // The peer's layout is known from what it said of it.
                let said = serde_json::to_string(&LayoutDescription::from(&their)).unwrap();
                let description: LayoutDescription = serde_json::from_str(&said).unwrap();
                let remote_layout = RemoteLayout::try_from(&description).unwrap();
                assert_eq!(remote_layout.geometry(), mine.geometry());

                let offered = their.chunk_descriptors(&there, layers.clone()).unwrap();
                let local = mine.chunk_descriptors(&here, layers.clone()).unwrap();
                let before = |layout: &Layout, ids: [usize; 3]| -> Vec<Vec<u8>> {
                    let chunks = ids
                        .into_iter()
                        .flat_map(|b| (0..3).flat_map(move |l| (0..2).map(move |o| (b, l, o))));
                    chunks.map(|at| chunk(layout, at)).collect()
                };
                let (mine_before, their_before) = (before(&mine, here), before(&their, there));
                match kind {
                    OperationKind::Read => {
                        let mut offer = world.target.create_readable(offered).await.unwrap();
                        let remote = carried(offer.metadata());
                        let mut read = world.initiator.begin_read(&remote, local).await.unwrap();
                        read.wait_for_completion().await.unwrap();
                        offer.wait_for_completion().await.unwrap();
                    }
                    OperationKind::Write => {
                        let mut offer = world.target.create_writable(offered).await.unwrap();
                        let remote = carried(offer.metadata());
                        let mut write = world.initiator.begin_write(local, &remote).await.unwrap();
                        write.wait_for_completion().await.unwrap();
                        offer.wait_for_completion().await.unwrap();
                    }
                }
                let (mine_after, their_after) = (before(&mine, here), before(&their, there));
                for index in 0..18 {
                    let moved = layers.contains(&(index / 2 % 3));
                    let (a, b) = match kind {
                        OperationKind::Read if moved => (&their_before, &their_before),
                        OperationKind::Write if moved => (&mine_before, &mine_before),
                        _ => (&mine_before, &their_before),
                    };
                    assert!(mine_after[index] == a[index], "{kind} {ours:?} {theirs:?} {index}");
                    assert!(their_after[index] == b[index], "{kind} {ours:?} {theirs:?} {index}");
                }
            }
        }
    }
}

const LEN: usize = 40_000;
const PIECES: [(usize, usize); 2] = [(3, 20_001), (30_000, 9_999)];

fn pattern(factor: usize) -> Vec<u8> {
    (0..LEN).map(|at| (at * factor + at / 251) as u8).collect()
}

/// As a peer gets it.
fn carried(metadata: &RdmaMetadata) -> RdmaMetadata {
    RdmaMetadata::decode(&metadata.to_native_bytes().unwrap()).unwrap()
}

/// What the two sides hold after a transfer of the pieces.
fn moved(kind: OperationKind) -> [Vec<u8>; 2] {
    let [mut mine, mut theirs] = [pattern(7), pattern(11)];
    for (at, len) in PIECES {
        match kind {
            OperationKind::Read => mine[at..at + len].copy_from_slice(&theirs[at..at + len]),
            OperationKind::Write => theirs[at..at + len].copy_from_slice(&mine[at..at + len]),
        }
    }
    [mine, theirs]
}

const GPU: MemoryKind = MemoryKind::Gpu(0);
const HOST: MemoryKind = MemoryKind::Pageable;
const STAGED: PathKind = PathKind::StagedOneSide;
const KINDS: [OperationKind; 2] = [OperationKind::Read, OperationKind::Write];

#[tokio::test]
async fn every_pair_of_memories_has_a_path_and_the_report_names_it() {
    let world = World::new().await;
    for (sides, expected) in [
        ((HOST, HOST), PathKind::Direct),
        ((GPU, HOST), PathKind::StagedOneSide),
        ((HOST, GPU), PathKind::StagedOneSide),
        ((GPU, GPU), PathKind::StagedBothSides),
    ] {
        for kind in KINDS {
            let (ended, bytes) = world.transfer(kind, sides, PathPolicy::auto()).await;
            let completion = ended.unwrap();
            assert_eq!(completion.path().unwrap().kind(), expected, "{kind} {sides:?}");
            assert!(bytes == moved(kind), "{kind} {sides:?}");
        }
    }
}

/// Memory of pools and of the VMM API has no handle of CUDA IPC: the side that has one is reached by the other's GPU.
#[tokio::test]
async fn gpu_memory_of_any_kind_goes_by_cuda_ipc_if_one_side_has_a_handle_and_bounces_if_not() {
    let kinds = [
        (AllocationKind::Legacy, 0),
        (AllocationKind::Pool, 0),
        (AllocationKind::Virtual, 0),
        (AllocationKind::Virtual, 1),
        (AllocationKind::Pool, 1),
        (AllocationKind::Managed, 0),
    ];
    let has_handle = |made| matches!(made, (AllocationKind::Legacy, _) | (_, 1));
    for kind in KINDS {
        let world = World::locality().await;
        for (ours, theirs) in kinds.into_iter().flat_map(|one| kinds.map(|other| (one, other))) {
            let expected = match has_handle(ours) || has_handle(theirs) {
                true => PathKind::CudaIpc,
                false => PathKind::StagedOnGpu,
            };
            for _ in 0..2 {
                let mine = world.allocated(ours, &pattern(7));
                let sides = (mine, world.allocated(theirs, &pattern(11)));
                let policy = PathPolicy::auto();
                let (ended, bytes) = world.transfer_between(kind, sides, policy).await;
                let completion = ended.unwrap();
                let path = completion.path().unwrap();
                assert_eq!(path.kind(), expected, "{kind} {ours:?} {theirs:?}: {path}");
                assert!(bytes == moved(kind), "{kind} {ours:?} {theirs:?}");
            }
        }
    }
}

#[tokio::test]
async fn gpu_memory_without_a_handle_on_both_sides_bounces_on_a_gpu() {
    let world = World::locality().await;
    for round in 0..3 {
        for kind in KINDS {
            let sides = (world.unexported(&pattern(7)), world.unexported(&pattern(11)));
            let region = sides.0.clone();
            let before = world.gpus.asked();
            let (ended, bytes) = world.transfer_between(kind, sides, PathPolicy::auto()).await;
            let completion = ended.unwrap();
            let path = completion.path().unwrap();
            // Of 4096 bytes each.
            assert_eq!((path.kind(), path.chunks()), (PathKind::StagedOnGpu, 8), "{path}");
            assert_eq!(path.medium(), Some(Medium::Gpu));
            assert_eq!(world.gpus.asked() - before, 60_000, "each byte is copied twice");
            assert!(bytes == moved(kind), "{kind} {round}");
            let shown = format!("{region:?}");
            assert!(shown.contains("kind: Pool") && shown.contains("ipc: false"), "{shown}");
        }
    }
    // The other side's last session may end after the operation.
    while world.paths.staging_stats().sessions() > 0 {
        tokio::task::yield_now().await;
    }
    let stats = world.paths.staging_stats();
    assert_eq!((stats.on_gpus().gpu_bytes(), stats.on_gpus().free()), (2 * 4096, 2));
    assert_eq!(world.paths.peer_stats().imports(), 2);
}

/// Blocks of a cache are many and short: a kernel gathers a chunk of them and another scatters it.
#[tokio::test]
async fn scattered_gpu_memory_without_a_handle_bounces_by_kernels() {
    const PIECE: usize = 40;
    let capabilities = GpuCapabilities::new(1).with_batch(true).with_kernel(true);
    let world = World::of(true, capabilities).await;
    let places: Vec<_> = (0..LEN / PIECE / 2).map(|i| i * 2 * PIECE).collect();
    let list = |region: &Region, reversed: bool| {
        let mut places = places.clone();
        if reversed {
            places.reverse();
        }
        let part = |at: usize| region.descriptor(at..at + PIECE).unwrap();
        DescriptorList::try_from(places.into_iter().map(part).collect::<Vec<_>>()).unwrap()
    };
    for kind in KINDS {
        let (mine, theirs) = (world.unexported(&pattern(7)), world.unexported(&pattern(11)));
        let (here, there) = (list(&mine, true), list(&theirs, false));
        let (from, into) = match kind {
            OperationKind::Read => (pattern(11), &mine),
            OperationKind::Write => (pattern(7), &theirs),
        };
        let path = match kind {
            OperationKind::Read => {
                let mut offer = world.target.create_readable(there).await.unwrap();
                let remote = carried(offer.metadata());
                let mut read = world.initiator.begin_read(&remote, here).await.unwrap();
                let done = read.wait_for_completion().await.unwrap();
                offer.wait_for_completion().await.unwrap();
                done.path().unwrap().clone()
            }
            OperationKind::Write => {
                let mut offer = world.target.create_writable(there).await.unwrap();
                let remote = carried(offer.metadata());
                let mut write = world.initiator.begin_write(here, &remote).await.unwrap();
                let done = write.wait_for_completion().await.unwrap();
                offer.wait_for_completion().await.unwrap();
                done.path().unwrap().clone()
            }
        };
        assert_eq!(path.kind(), PathKind::StagedOnGpu, "{path}");
        // SAFETY: memory of a simulated GPU, of this length; the transfer is over.
        let found = unsafe { slice::from_raw_parts(into.address() as *const u8, LEN) };
        for (index, at) in places.iter().enumerate() {
            let mirrored = places[places.len() - 1 - index];
            assert!(found[*at..at + PIECE] == from[mirrored..mirrored + PIECE], "{kind} {at}");
        }
    }
}

/// A GPU that fails on the way of a bounce costs the operation that path alone.
#[tokio::test]
async fn a_bounce_that_fails_is_followed_by_staging_through_the_host() {
    for kind in KINDS {
        let world = World::locality().await;
        let sides = (world.unexported(&pattern(7)), world.unexported(&pattern(11)));
        world.gpus.refuse(1);
        let (ended, bytes) = world.transfer_between(kind, sides, PathPolicy::auto()).await;
        let completion = ended.unwrap();
        let path = completion.path().unwrap();
        assert_eq!(path.kind(), PathKind::StagedBothSides, "{kind} {path}");
        let failed = path.rejected().iter().find(|r| r.kind() == PathKind::StagedOnGpu).unwrap();
        assert!(failed.reason().contains("simulated refusal"), "{}", failed.reason());
        assert!(bytes == moved(kind), "{kind}");
        let slots = world.paths.staging_stats().on_gpus();
        assert_eq!((slots.free(), slots.quarantined()), (2, 0), "{kind}");
    }
}

#[tokio::test]
async fn a_path_that_cannot_be_prepared_is_followed_by_the_next_and_the_report_says_so() {
    let world = World::new().await;
    for kind in KINDS {
        // The simulated engine registers no GPU memory, so its own way with such memory is preferred in vain.
        let policy = PathPolicy::auto().prefer(PathKind::EngineStaged);
        let (ended, bytes) = world.transfer(kind, (GPU, GPU), policy).await;
        let completion = ended.unwrap();
        let path = completion.path().unwrap();
        assert_eq!(path.kind(), PathKind::StagedBothSides, "{path}");
        let rejected = path.rejected().iter().find(|r| r.kind() == PathKind::EngineStaged).unwrap();
        assert!(rejected.reason().contains("not registered"), "{}", rejected.reason());
        assert!(bytes == moved(kind));
    }
}

/// Bytes had moved by the path that failed. They are written over by the next one, and the target is told once.
#[tokio::test]
async fn a_path_that_fails_halfway_is_followed_by_the_next() {
    for (sides, first) in
        [((GPU, GPU), PathKind::StagedBothSides), ((GPU, HOST), STAGED), ((HOST, GPU), STAGED)]
    {
        for kind in KINDS {
            // A path that failed is avoided for a while.
            let world = World::locality().await;
            let policy = PathPolicy::auto().prefer(first);
            // Of eight chunks, the last one of them at times.
            let arrive = if kind == OperationKind::Read { 1 } else { 7 };
            let mut faults = vec![Fault::Delay(Duration::ZERO); arrive];
            faults.push(Fault::Fails { after: 1000 });
            world.fabric.faults().next(faults);
            let (ended, bytes) = world.transfer(kind, sides, policy).await;
            let completion = ended.unwrap();
            let path = completion.path().unwrap();
            assert_eq!(path.kind(), PathKind::CudaIpc, "{kind} {sides:?} {path}");
            let failed = path.rejected().iter().find(|r| r.kind() == first).unwrap();
            assert!(failed.reason().contains("failed"), "{}", failed.reason());
            assert!(bytes == moved(kind), "{kind} {sides:?}");
        }
    }
}

/// One read of 1 MiB between GPUs: its path, and the bytes that GPUs were asked to copy.
async fn read_large(world: &World) -> (PathReport, u64) {
    let bytes: Vec<u8> = (0..LARGE).map(|at| (at * 31 + at / 253) as u8).collect();
    let (mine, theirs) = (world.region(GPU, &vec![0; LARGE]), world.region(GPU, &bytes));
    let offer = world.target.create_readable(theirs).await.unwrap();
    let remote = carried(offer.metadata());
    let before = world.gpus.asked();
    let mut read = world.initiator.begin_read(&remote, mine.clone()).await.unwrap();
    let done = read.wait_for_completion().await.unwrap();
    // SAFETY: memory of a simulated GPU, of this length; the transfer is over.
    let read = unsafe { slice::from_raw_parts(mine.address() as *const u8, LARGE) };
    assert!(read == bytes);
    (done.path().unwrap().clone(), world.gpus.asked() - before)
}

const LARGE: usize = 1 << 20;

/// What both sides say of themselves only proposes a path: it moves a little before it is trusted with the rest.
#[tokio::test]
async fn a_path_shows_that_it_works_before_it_is_trusted() {
    const PROBE: u64 = 64 * 1024;
    let world = World::locality().await;
    for expected in [PROBE + LARGE as u64, LARGE as u64] {
        let (path, asked) = read_large(&world).await;
        assert_eq!((path.kind(), asked), (PathKind::CudaIpc, expected), "{path}");
    }
    // What fails to show it is not trusted, and not asked again for a while.
    let world = World::locality().await;
    world.gpus.refuse(1);
    for _ in 0..2 {
        let (path, _) = read_large(&world).await;
        assert_eq!(path.kind(), PathKind::StagedOnGpu, "{path}");
        let rejected = path.rejected().iter().find(|r| r.kind() == PathKind::CudaIpc).unwrap();
        assert!(rejected.reason().contains("simulated refusal"), "{}", rejected.reason());
    }
}

#[tokio::test]
async fn what_the_policy_requires_is_not_replaced() {
    let world = World::new().await;
    let policy = PathPolicy::auto().require(PathKind::EngineStaged);
    let (ended, bytes) = world.transfer(OperationKind::Read, (GPU, GPU), policy).await;
    let error = ended.unwrap_err();
    let expected = matches!(error, ConnectorError::Transport(TransportError::NotRegistered { .. }));
    assert!(expected, "{error:?}");
    assert!(bytes == [pattern(7), pattern(11)], "nothing moved");
}

#[tokio::test]
async fn a_transfer_that_fails_on_its_only_path_is_an_error_and_the_next_one_is_well() {
    let world = World::new().await;
    for sides in [(HOST, HOST), (GPU, HOST), (GPU, GPU)] {
        for kind in KINDS {
            let policy = PathPolicy::auto().forbid(PathKind::EngineStaged);
            world.fabric.faults().next([Fault::Fails { after: 5000 }]);
            let (ended, _) = world.transfer(kind, sides, policy).await;
            let error = ended.unwrap_err();
            let failed = matches!(error, ConnectorError::Operation(OperationError::Transport(_)));
            assert!(failed, "{error:?}");
            let (ended, bytes) = world.transfer(kind, sides, policy).await;
            assert!(ended.is_ok(), "{ended:?}");
            assert!(bytes == moved(kind));
        }
    }
}

#[tokio::test]
async fn a_path_that_is_not_there_is_an_error_before_bytes_move() {
    let world = World::new().await;
    let policy = PathPolicy::auto().require(PathKind::GpuDirect);
    for kind in KINDS {
        let (ended, bytes) = world.transfer(kind, (GPU, GPU), policy).await;
        let error = ended.unwrap_err();
        let ConnectorError::Transport(TransportError::NoPath { rejected }) = &error else {
            panic!("{error:?}")
        };
        assert_eq!(rejected[0].kind(), PathKind::GpuDirect, "what is missing comes first");
        assert!(bytes == [pattern(7), pattern(11)], "nothing moved");
    }
}

/// Work on memory that ends when a test says so.
#[derive(Debug, Default)]
struct Work(Mutex<Option<Result<(), DependencyError>>>);

impl Work {
    fn end(&self, result: Result<(), DependencyError>) {
        *self.0.lock().unwrap() = Some(result);
    }
}

impl Dependency for Work {
    fn is_done(&self) -> Result<bool, DependencyError> {
        self.0.lock().unwrap().clone().map_or(Ok(false), |ended| ended.map(|()| true))
    }
}

/// Long enough for what does not wait to end.
const MOMENT: Duration = Duration::from_millis(5);

fn fill(region: &Region, bytes: &[u8]) {
    // SAFETY: the simulated GPUs made these bytes, and nothing moves them while work is pending on them.
    unsafe { slice::from_raw_parts_mut(region.address() as *mut u8, bytes.len()) }
        .copy_from_slice(bytes);
}

#[tokio::test]
async fn memory_that_is_worked_on_is_left_alone_until_that_is_done() {
    for (world, locality) in [(World::new().await, false), (World::locality().await, true)] {
        for (here, there) in [(GPU, GPU), (HOST, GPU), (GPU, HOST), (HOST, HOST)] {
            let (mine, theirs) = (world.region(here, &[0; LEN]), world.region(there, &[0; LEN]));
            let mut offer = world.target.create_writable(theirs.clone()).await.unwrap();
            let remote = carried(offer.metadata());
            let (first, second) = (Arc::new(Work::default()), Arc::new(Work::default()));
            let list =
                DescriptorList::from(mine.clone()).after(first.clone()).after(second.clone());
            let mut write = world.initiator.begin_write(list, &remote).await.unwrap();
            first.end(Ok(()));
            let soon = tokio::time::timeout(MOMENT, write.wait_for_completion()).await;
            assert!(soon.is_err(), "{here} to {there}, {locality}");
            fill(&mine, &pattern(7));
            second.end(Ok(()));
            write.wait_for_completion().await.unwrap();
            offer.wait_for_completion().await.unwrap();
            // SAFETY: as in `fill`; the transfer is over.
            let moved = unsafe { slice::from_raw_parts(theirs.address() as *const u8, LEN) };
            assert!(moved == pattern(7), "{here} to {there}, {locality}");
        }
    }
}

#[tokio::test]
async fn memory_is_offered_once_the_work_on_it_is_done() {
    let world = World::new().await;
    let (region, work) = (world.region(GPU, &pattern(7)), Arc::new(Work::default()));
    let list = DescriptorList::from(region.clone()).after(work.clone());
    let mut offering = std::pin::pin!(world.target.create_readable(list.clone()));
    assert!(tokio::time::timeout(MOMENT, offering.as_mut()).await.is_err());
    work.end(Ok(()));
    drop(offering.await.unwrap());
    // Or never, within the time that it is given.
    let work = Arc::new(Work::default());
    let list = DescriptorList::from(world.region(GPU, &pattern(7))).after(work.clone());
    let options = OperationOptions::new().timeout(MOMENT);
    let late = world.target.create_readable_with(list.clone(), options).await.unwrap_err();
    assert!(matches!(late, ConnectorError::Operation(OperationError::TimedOut { .. })), "{late}");
    work.end(Err(DependencyError::new("the kernel faulted")));
    let failed = world.target.create_readable(list).await.unwrap_err().to_string();
    assert!(failed.contains("the kernel faulted"), "{failed}");
}

#[tokio::test]
async fn work_that_fails_says_nothing_against_the_path() {
    let world = World::locality().await;
    let theirs = world.region(GPU, &pattern(11));
    let broken = Arc::new(Work::default());
    broken.end(Err(DependencyError::new("the kernel faulted")));
    let offer = world.target.create_readable(theirs).await.unwrap();
    let list = DescriptorList::from(world.region(GPU, &pattern(7))).after(broken);
    let mut read = world.initiator.begin_read(&carried(offer.metadata()), list).await.unwrap();
    let error = read.wait_for_completion().await.unwrap_err();
    let expected =
        TransportError::MemoryNotReady { error: DependencyError::new("the kernel faulted") };
    assert_eq!(error, OperationError::Transport(expected));
    let auto = PathPolicy::auto();
    let (ended, _) = world.transfer(OperationKind::Read, (GPU, GPU), auto).await;
    let path = ended.unwrap().path().unwrap().clone();
    assert_eq!((path.kind(), path.rejected().len()), (PathKind::CudaIpc, 0), "{path}");
}

#[tokio::test]
async fn a_gpu_waits_for_a_stream_by_itself() {
    let world = World::locality().await;
    let theirs = world.region(GPU, &[0; LEN]);
    // SAFETY: simulated GPUs do not look at the handle.
    let stream = unsafe { StreamHandle::from_raw(0) };
    let mine = world.region(GPU, &pattern(7));
    let mut offer = world.target.create_writable(theirs.clone()).await.unwrap();
    let remote = carried(offer.metadata());
    let paused = world.gpus.pause();
    let point = world.paths.stream_point(0, stream).unwrap();
    assert!(matches!(point.is_done(), Ok(false)));
    let list = DescriptorList::from(mine).after(point.clone());
    let before = world.gpus.asked();
    let mut write = world.initiator.begin_write(list.clone(), &remote).await.unwrap();
    assert!(tokio::time::timeout(MOMENT, write.wait_for_completion()).await.is_err());
    assert!(world.gpus.asked() > before, "it is queued behind the stream's work");
    let mut offering = std::pin::pin!(world.target.create_readable(list));
    assert!(tokio::time::timeout(MOMENT, offering.as_mut()).await.is_err(), "peers cannot wait");
    drop(paused);
    write.wait_for_completion().await.unwrap();
    offer.wait_for_completion().await.unwrap();
    drop(offering.await.unwrap());
    assert!(matches!(point.is_done(), Ok(true)));
    assert!(world.paths.stream_point(1, stream).is_err(), "there is one GPU");
}

#[tokio::test]
async fn grants_begin_and_end_in_the_order_of_a_stream() {
    let world = World::new().await;
    let geometry = LayoutGeometry::try_from(Dimensions {
        blocks: 2,
        layers: 3,
        outer: 1,
        page_size: 1,
        inner: Inner::Elements(64),
        element_width: 1,
    });
    let region = Region::zeroed(2 * 3 * 64).unwrap();
    let layout = Layout::fully_contiguous(geometry.unwrap(), region.clone()).unwrap();
    let export = world.target.export([("cache", layout)]).await.unwrap();
    let import = world.initiator.import(export.metadata()).await.unwrap();
    // SAFETY: simulated GPUs do not look at the handle.
    let stream = unsafe { StreamHandle::from_raw(0) };
    let queue = world.paths.stream_queue(0, stream);
    let paused = world.gpus.pause();
    let grant = export.grant(0, &[1], GrantOptions::new().ready(1).after(queue.clone())).unwrap();
    grant.ready_through_on(3, &*queue).unwrap();
    let ticket = grant.ticket().clone();
    import.layers_ready(&ticket).await.unwrap_err();
    drop(paused);
    while import.layers_ready(&ticket).await != Ok(3) {
        tokio::task::yield_now().await;
    }
    let paused = world.gpus.pause();
    let free = grant.free_blocks().unwrap();
    grant.end_on(&*queue).unwrap();
    assert_eq!((export.stats().alive(), import.layers_ready(&ticket).await), (1, Ok(3)));
    assert!(region.copy_from_slice(3 * 64, &[1]).is_err(), "it is granted");
    drop(paused);
    free.await;
    import.layers_ready(&ticket).await.unwrap_err();
    region.copy_from_slice(3 * 64, &[1]).unwrap();
    // A GPU that fails ends what it was to end, and makes nothing valid.
    let [ending, _valid] =
        [GrantOptions::new(), GrantOptions::new().after(queue.clone())].map(|options| {
            world.gpus.fail();
            export.grant(0, &[0], options)
        });
    let _ = ending.unwrap().end_on(&*queue);
    assert_eq!(export.stats().alive(), 0);
    let none = world.paths.stream_queue(1, stream);
    let refused = export.grant(0, &[0], GrantOptions::new()).unwrap().end_on(&*none);
    assert!(matches!(refused, Err(ConnectorError::WorkQueue(_))), "{refused:?}");
}

#[tokio::test]
async fn what_fails_behind_a_stream_is_waited_for_without_a_thread() {
    let world = World::locality().await;
    let (mine, theirs) = (world.region(GPU, &pattern(7)), world.region(GPU, &[0; LEN]));
    let mut offer = world.target.create_writable(theirs.clone()).await.unwrap();
    let remote = carried(offer.metadata());
    let paused = world.gpus.pause();
    // SAFETY: simulated GPUs do not look at the handle.
    let point = world.paths.stream_point(0, unsafe { StreamHandle::from_raw(0) }).unwrap();
    world.gpus.refuse(1);
    let list = DescriptorList::from(mine).after(point);
    // Begins, though the GPU goes on only below.
    let mut write = world.initiator.begin_write(list, &remote).await.unwrap();
    assert!(tokio::time::timeout(MOMENT, write.wait_for_completion()).await.is_err());
    drop(paused);
    let done = write.wait_for_completion().await.unwrap();
    offer.wait_for_completion().await.unwrap();
    let path = done.path().unwrap();
    let failed = path.rejected().iter().find(|r| r.kind() == PathKind::CudaIpc);
    assert!(path.kind() != PathKind::CudaIpc && failed.is_some(), "{path}");
    // SAFETY: as in `fill`; the transfer is over.
    let moved = unsafe { slice::from_raw_parts(theirs.address() as *const u8, LEN) };
    assert!(moved == pattern(7));
}

#[tokio::test]
async fn memory_of_several_devices_is_refused_and_says_nothing_against_a_path() {
    let world = World::locality().await;
    let theirs = world.region(GPU, &pattern(11));
    let offer = world.target.create_readable(vec![
        theirs.descriptor(..100).unwrap(),
        theirs.descriptor(200..300).unwrap(),
    ]);
    let remote = carried(offer.await.unwrap().metadata());
    let (gpu, host) = (world.region(GPU, &[0; 100]), world.region(HOST, &[0; 100]));
    let mixed = vec![gpu.whole(), host.whole()];
    let refused = world.initiator.begin_read(&remote, mixed).await.unwrap_err().to_string();
    assert!(refused.contains("several devices"), "{refused}");
    let (ended, _) = world.transfer(OperationKind::Read, (GPU, GPU), PathPolicy::auto()).await;
    assert_eq!(ended.unwrap().path().unwrap().kind(), PathKind::CudaIpc);
}
