//! State of peers, which ends with its peer and without another operation.
#![allow(clippy::unwrap_used, reason = "helpers of tests")]

#[path = "common/apart.rs"]
mod apart;

use std::process::{Child, Command, Stdio};
use std::sync::{Arc, OnceLock};
use std::task::Poll;
use std::time::{Duration, Instant};

use apart::Apart;
use nixl_connector::Connector;
use nixl_connector::simulated::Fabric;
use nixl_executor::paths::LocalFacts;
use nixl_executor::{
    GpuBackend, GpuCapabilities, MemoryKind, PathExecutor, PathKind, PeerStats, SimulatedGpus,
};
use nixl_metadata::RdmaMetadata;
use nixl_ops::{
    ConnectionContext, ConnectionExecutor, Executor, PeerId, SystemClock, Transport, TransportError,
};

const GPU: MemoryKind = MemoryKind::Gpu(0);
/// In which what is looked at comes to be.
const LIMIT: Duration = Duration::from_secs(30);

/// Keeps the executor of a connection.
#[derive(Debug)]
struct Keeping {
    executor: Apart,
    connected: Arc<OnceLock<Arc<dyn ConnectionExecutor>>>,
}

#[deny(clippy::missing_trait_methods, reason = "a wrapper forwards every method")]
impl Executor for Keeping {
    fn connect(&self, link: ConnectionContext) -> Arc<dyn ConnectionExecutor> {
        let connected = self.executor.connect(link);
        Arc::clone(self.connected.get_or_init(|| connected))
    }

    fn check_process(&self) -> Result<(), TransportError> {
        self.executor.check_process()
    }
}

/// A target that is another process as far as the initiator can tell.
struct World {
    process: Child,
    gpus: Arc<SimulatedGpus>,
    paths: Arc<PathExecutor>,
    target: Connector,
    initiator: Connector,
    transport: Arc<dyn Transport>,
    connected: Arc<OnceLock<Arc<dyn ConnectionExecutor>>>,
}

impl World {
    async fn new() -> Self {
        let process = Command::new("cat").stdin(Stdio::piped()).spawn().unwrap();
        let capabilities = GpuCapabilities::new(1).with_batch(true);
        let facts = LocalFacts::discover().as_ref().clone().with_simulated_gpus(&capabilities);
        let gpus = Arc::new(SimulatedGpus::new(capabilities).unwrap());
        let paths = || {
            let gpus = Arc::clone(&gpus) as Arc<dyn GpuBackend>;
            Arc::new(PathExecutor::with(gpus, Arc::new(facts.clone())).unwrap())
        };
        let (theirs, ours) = (paths(), paths());
        let fabric = Fabric::new(Arc::new(SystemClock::new()));
        let connected = Arc::<OnceLock<_>>::default();
        let [theirs_by, transport] = ["target", "initiator"].map(|name| fabric.transport(name));
        let build = |transport: &Arc<dyn Transport>, paths: &Arc<PathExecutor>, poses| {
            let executor = Apart { executor: Arc::clone(paths) as Arc<dyn Executor>, poses };
            let connected = match poses {
                Some(_) => Arc::default(),
                None => Arc::clone(&connected),
            };
            let executor = Keeping { executor, connected };
            Connector::builder()
                .transport(Arc::clone(transport))
                .executor(Arc::new(executor))
                .build()
        };
        let target = build(&theirs_by, &theirs, Some(process.id())).await.unwrap();
        let initiator = build(&transport, &ours, None).await.unwrap();
        Self { process, gpus, paths: ours, target, initiator, transport, connected }
    }

    /// Reads from the target's GPU.
    async fn read(&self) -> PeerId {
        let region = || self.gpus.region(GPU, 10_000).unwrap();
        let offer = self.target.create_readable(region()).await.unwrap();
        let remote = RdmaMetadata::decode(&offer.metadata().to_native_bytes().unwrap()).unwrap();
        let mut read = self.initiator.begin_read(&remote, region()).await.unwrap();
        let completion = read.wait_for_completion().await.unwrap();
        assert_eq!(completion.path().unwrap().kind(), PathKind::CudaIpc);
        PeerId::new(remote.peer().unwrap().agent_name())
    }

    fn until_nothing_is_kept(&self) {
        self.until(|stats| *stats == PeerStats::default());
    }

    fn until(&self, is_there: impl Fn(&PeerStats) -> bool) {
        let began = Instant::now();
        while !is_there(&self.paths.peer_stats()) {
            assert!(began.elapsed() < LIMIT, "{:?}", self.paths.peer_stats());
            std::thread::sleep(Duration::from_millis(1));
        }
    }
}

impl Drop for World {
    fn drop(&mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
    }
}

#[tokio::test]
async fn what_is_kept_for_a_peer_goes_when_its_process_is_killed() {
    let mut world = World::new().await;
    world.read().await;
    world.read().await;
    let stats = world.paths.peer_stats();
    assert_eq!((stats.peers(), stats.imports()), (1, 2));
    world.process.kill().unwrap();
    world.until_nothing_is_kept();
}

#[tokio::test]
async fn what_is_kept_for_a_peer_goes_when_its_connection_is_dead() {
    let world = World::new().await;
    let peer = world.read().await;
    assert_eq!(world.paths.peer_stats().imports(), 1);
    world.connected.get().unwrap().peers().unwrap().peer_ended(&peer);
    world.until_nothing_is_kept();
    // It comes back if it is there after all.
    world.read().await;
    assert_eq!(world.paths.peer_stats().imports(), 1);
}

#[tokio::test]
async fn what_is_kept_for_a_peer_goes_when_the_engine_finds_its_connection_dead() {
    let mut world = World::new().await;
    let peer = world.read().await;
    assert_eq!(world.paths.peer_stats().imports(), 1);
    let another = Connector::builder()
        .transport(Fabric::new(Arc::new(SystemClock::new())).transport("another"))
        .build();
    drop(std::mem::replace(&mut world.target, another.await.unwrap()));
    // Its threads end first.
    while world.transport.notify(&peer, b"are you there?").map(|told| told.is_ok())
        != Poll::Ready(false)
    {
        tokio::task::yield_now().await;
    }
    world.until_nothing_is_kept();
    assert_eq!(world.initiator.stats().peers(), 0);
}

#[tokio::test]
async fn a_peer_whose_process_had_ended_at_the_first_begin_is_forgotten() {
    let mut world = World::new().await;
    world.process.kill().unwrap();
    world.process.wait().unwrap();
    let region = || world.gpus.region(GPU, 10_000).unwrap();
    let offer = world.target.create_readable(region()).await.unwrap();
    let remote = RdmaMetadata::decode(&offer.metadata().to_native_bytes().unwrap()).unwrap();
    if let Ok(mut read) = world.initiator.begin_read(&remote, region()).await {
        let _ended = read.wait_for_completion().await;
    }
    world.until(|stats| stats.peers() == 0);
}

#[tokio::test]
async fn a_peer_that_is_said_to_leave_keeps_what_it_has_not_released() {
    let mut world = World::new().await;
    let mut peer = world.read().await;
    for reads in 1..4 {
        let connected = Arc::clone(world.connected.get().unwrap());
        connected.peers().unwrap().peer_leaves(&peer);
        connected.peers().unwrap().look_for_released();
        assert_eq!(world.paths.peer_stats().imports(), reads);
        peer = world.read().await;
    }
    let stats = world.paths.peer_stats();
    assert_eq!((stats.peers(), stats.imports()), (1, 4));
    world.process.kill().unwrap();
    world.until_nothing_is_kept();
}
