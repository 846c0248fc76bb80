//! Transfers between two processes over real NIXL by the paths that need more than the engine: staged, by memory that the
//! other process shares, and by the other's GPU. With simulated GPU memory; both directions, any side, and peers that die
//! or stop halfway.
#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a test says so, by failing too")]

use std::path::Path;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use Memory::{Cuda, Host, Pool, Shared};
use PathKind::{CudaIpc, Direct, SharedMemory, StagedBothSides, StagedOnGpu, StagedOneSide};
use nixl_connector::{
    Completion, Connector, DriverConfig, Medium, OperationError, OperationOptions, PathKind,
    PathPolicy, ReadOperation, ReadableOperation, Reclaimed, WritableOperation, WriteOperation,
};
use nixl_descriptor::{Region, leaked};
use nixl_executor::paths::LocalFacts;
use nixl_executor::{GpuBackend, GpuCapabilities, PathExecutor, SimulatedGpus, StagingConfig};
use nixl_ops::Executor;
use nixl_tests::{
    Memory, Peer, Random, alone, bytes as contents, crc32, eventually, metadata, native_line,
    pattern, resources, within,
};

const PEER: &str = env!("CARGO_BIN_EXE_peer");
const LIMIT: Duration = Duration::from_secs(280);
/// The default of `StagingConfig::slots`.
const SLOTS: usize = 16;

fn tcp() -> [(&'static str, &'static Path); 2] {
    [("UCX_TLS", Path::new("tcp")), ("UCX_MEM_EVENTS", Path::new("no"))]
}

/// Shared memory and CMA, but nothing of GPUs.
fn shm() -> [(&'static str, &'static Path); 2] {
    [("UCX_TLS", Path::new("self,sm,tcp")), ("UCX_MEM_EVENTS", Path::new("no"))]
}

/// As between any two processes of one machine.
fn local() -> [(&'static str, &'static Path); 1] {
    [("UCX_MEM_EVENTS", Path::new("no"))]
}

struct Here {
    connector: Connector,
    gpus: Arc<SimulatedGpus>,
    staged: Arc<PathExecutor>,
}

impl Here {
    async fn new(silence: Duration, drain: Duration) -> Self {
        let capabilities = GpuCapabilities::new(1).with_batch(true);
        let facts = LocalFacts::discover().as_ref().clone().with_simulated_gpus(&capabilities);
        let gpus = Arc::new(SimulatedGpus::new(capabilities).unwrap());
        // The dead are noticed by the next word to them.
        let ping = silence.min(Duration::from_secs(2)) / 10;
        let config = StagingConfig::default().silence(silence).ping(ping);
        let staged =
            PathExecutor::with(gpus.clone() as Arc<dyn GpuBackend>, Arc::new(facts)).unwrap();
        let staged = Arc::new(staged.staging(config));
        let driving = DriverConfig::default().drain(drain);
        let connector = Connector::builder()
            .name("here")
            .driver(driving)
            .executor(staged.clone() as Arc<dyn Executor>)
            .build()
            .await
            .unwrap();
        Self { connector, gpus, staged }
    }

    fn region(&self, memory: Memory, bytes: &[u8]) -> Region {
        memory.region(&self.gpus, bytes).unwrap()
    }
}

fn peer(silence: &str) -> Peer {
    Peer::start(PEER, &[("NIXL_TEST_STAGED", Path::new(silence))])
}

fn memory(peer: &mut Peer, memory: Memory) {
    peer.ask(&format!("memory {memory}")).unwrap();
}

/// The memories at the two sides, and the path of large transfers that the first side begins.
type Way = ((Memory, Memory), PathKind);

fn every_way(name: &str, variables: &[(&str, &Path)], ways: &[Way]) {
    alone(name, variables, || {
        within(LIMIT, async {
            let here = Here::new(Duration::from_secs(30), Duration::from_secs(60)).await;
            let mut peer = peer("30000");
            let sizes = [1, 4096, 100_003, 1 << 20, (5 << 20) + 7, 64 << 20];
            for way in ways {
                memory(&mut peer, way.0.1);
                for (seed, len) in (1u64..).zip(sizes) {
                    let started = Instant::now();
                    one_of_each(&here, &mut peer, *way, seed, len).await;
                    println!("{way:?} {len}: {:?}", started.elapsed());
                }
            }
            eventually("all is quiet", LIMIT, || {
                (here.staged.staging_stats().sessions() == 0).then_some(())
            });
            let stats = here.staged.staging_stats();
            assert_eq!((stats.incoming().free(), stats.outgoing().free()), (SLOTS, SLOTS));
            assert_eq!(stats.on_gpus().quarantined(), 0);
            assert_eq!(leaked(), Default::default());
        });
    });
}

/// Read and write, begun here and there.
async fn one_of_each(here: &Here, peer: &mut Peer, ((mine, _), kind): Way, seed: u64, len: usize) {
    let bytes = pattern(seed, len);
    // Others may be faster then.
    let is_small = len <= 1 << 20;

    let offer = peer.offer("readable", len, seed).unwrap();
    let remote = metadata(&offer.json).unwrap();
    let region = here.region(mine, &vec![0; len]);
    let mut read = here.connector.begin_read(&remote, region.clone()).await.unwrap();
    let done = read.wait_for_completion().await.unwrap();
    println!("read {}", done.path().unwrap());
    assert!(is_small || done.path().unwrap().kind() == kind);
    assert!(contents(&region).unwrap() == bytes, "the bytes read are wrong");
    assert_eq!(peer.ask(&format!("wait {}", offer.id)).unwrap(), crc32(&bytes));

    let offer = peer.offer("writable", len, 0).unwrap();
    let remote = metadata(&offer.json).unwrap();
    let region = here.region(mine, &bytes);
    let mut write = here.connector.begin_write(region, &remote).await.unwrap();
    let done = write.wait_for_completion().await.unwrap();
    println!("write {}", done.path().unwrap());
    assert!(is_small || done.path().unwrap().kind() == kind);
    assert_eq!(peer.ask(&format!("wait {}", offer.id)).unwrap(), crc32(&bytes));

    let mut offered = here.connector.create_readable(here.region(mine, &bytes)).await.unwrap();
    let line = native_line(offered.metadata());
    let number = peer.ask(&format!("read {line}")).unwrap();
    assert_eq!(peer.ask(&format!("wait {number}")).unwrap(), crc32(&bytes));
    offered.wait_for_completion().await.unwrap();

    let region = here.region(mine, &vec![0; len]);
    let mut offered = here.connector.create_writable(region.clone()).await.unwrap();
    let line = native_line(offered.metadata());
    let number = peer.ask(&format!("write {seed} {line}")).unwrap();
    peer.ask(&format!("wait {number}")).unwrap();
    offered.wait_for_completion().await.unwrap();
    assert!(contents(&region).unwrap() == bytes, "the bytes written are wrong");
}

/// Staging both sides.
const BOTH: Way = ((Cuda, Cuda), StagedBothSides);
const STAGED: [Way; 3] = [BOTH, ((Cuda, Host), StagedOneSide), ((Host, Cuda), StagedOneSide)];

#[test]
fn every_way_over_tcp() {
    // Memory that could be shared is not, if the user does not allow it.
    let shared = [((Cuda, Shared), StagedOneSide), ((Host, Shared), Direct)];
    every_way("every_way_over_tcp", &tcp(), &[&STAGED[..], &shared].concat());
}

#[test]
fn every_way_over_shared_memory() {
    let shared = [
        ((Cuda, Shared), SharedMemory),
        ((Host, Shared), SharedMemory),
        ((Shared, Host), Direct),
        ((Shared, Cuda), StagedOneSide),
    ];
    every_way("every_way_over_shared_memory", &shm(), &[&STAGED[..], &shared].concat());
}

/// Where each side opens the other's memory.
const OPENED: [Way; 8] = [
    ((Cuda, Cuda), CudaIpc),
    ((Host, Cuda), CudaIpc),
    ((Shared, Cuda), CudaIpc),
    ((Cuda, Host), CudaIpc),
    ((Cuda, Shared), SharedMemory),
    ((Cuda, Pool), CudaIpc),
    ((Pool, Cuda), CudaIpc),
    ((Pool, Pool), StagedOnGpu),
];

#[test]
fn every_way_where_memory_is_opened() {
    every_way("every_way_where_memory_is_opened", &local(), &OPENED);
}

/// Of a peer with Dynamo's metadata nothing is known. That its memory is reached by sockets, UCX itself expects.
fn silent_peer(name: &str, variables: &[(&str, &Path)], medium: Option<Medium>) {
    alone(name, variables, || {
        within(LIMIT, async {
            let here = Here::new(Duration::from_secs(30), Duration::from_secs(60)).await;
            let mut peer = Peer::start(PEER, &[]);
            let offer = peer.offer("readable", 1 << 20, 3).unwrap();
            let remote = metadata(&offer.json).unwrap();
            let region = here.region(Host, &vec![0; 1 << 20]);
            let begin = |policy| {
                let options = OperationOptions::new().policy(policy);
                here.connector.begin_read_with(&remote, region.clone(), options)
            };
            let refused = begin(PathPolicy::auto().forbid_medium(Medium::Tcp)).await;
            let mut read = match (refused, medium) {
                (Ok(read), None) => read,
                (Err(error), Some(_)) => {
                    println!("{error}");
                    begin(PathPolicy::auto()).await.unwrap()
                }
                (other, _) => panic!("{other:?}"),
            };
            let done = read.wait_for_completion().await.unwrap();
            assert_eq!(done.path().unwrap().medium(), medium);
            assert!(contents(&region).unwrap() == pattern(3, 1 << 20));
        });
    });
}

#[test]
fn a_silent_peer_over_tcp() {
    silent_peer("a_silent_peer_over_tcp", &tcp(), Some(Medium::Tcp));
}

#[test]
fn a_silent_peer_over_shared_memory() {
    silent_peer("a_silent_peer_over_shared_memory", &shm(), None);
}

// ---- Peers that die or stop ----

const DEADLINE: Duration = Duration::from_secs(2);
/// Of offers, whose end is not notified if the peer is dead.
const OFFERED: Duration = Duration::from_millis(700);
const SILENCE: Duration = Duration::from_millis(1500);
const LEN: usize = 16 << 20;

enum Operation {
    Read(ReadOperation),
    Write(WriteOperation),
    Readable(ReadableOperation),
    Writable(WritableOperation),
}

impl Operation {
    async fn wait(&mut self) -> Result<Completion, OperationError> {
        match self {
            Self::Read(operation) => operation.wait_for_completion().await,
            Self::Write(operation) => operation.wait_for_completion().await,
            Self::Readable(operation) => operation.wait_for_completion().await,
            Self::Writable(operation) => operation.wait_for_completion().await,
        }
    }

    async fn reclaim(self) -> Reclaimed {
        match self {
            Self::Read(operation) => operation.reclaim().await,
            Self::Write(operation) => operation.reclaim().await,
            Self::Readable(operation) => operation.reclaim().await,
            Self::Writable(operation) => operation.reclaim().await,
        }
    }
}

/// How a peer is treated halfway.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Fate {
    Killed,
    /// For this long.
    Stopped(Duration),
}

/// One transfer with a peer that is hit at a random moment. Returns whether it completed all the same.
async fn hit(here: &Here, random: &mut Random, ways: &[Way], fate: Fate) -> bool {
    let mut peer = peer(&SILENCE.as_millis().to_string());
    let ((mine, theirs), _) = ways[random.below(ways.len() as u64) as usize];
    memory(&mut peer, theirs);
    let options = OperationOptions::new().timeout(DEADLINE);
    let offered = OperationOptions::new().timeout(OFFERED);
    let bytes = pattern(random.below(1 << 40), LEN);
    let region = here.region(mine, &bytes);
    let way = random.below(4);
    let mut operation = match way {
        0 => {
            let offer = peer.offer("readable", LEN, 1).unwrap();
            let remote = metadata(&offer.json).unwrap();
            let read = here.connector.begin_read_with(&remote, region.clone(), options).await;
            Operation::Read(read.unwrap())
        }
        1 => {
            let offer = peer.offer("writable", LEN, 1).unwrap();
            let remote = metadata(&offer.json).unwrap();
            let write = here.connector.begin_write_with(region.clone(), &remote, options).await;
            Operation::Write(write.unwrap())
        }
        2 => {
            let offer = here.connector.create_readable_with(region.clone(), offered).await.unwrap();
            peer.tell(&format!("read {}", native_line(offer.metadata()))).unwrap();
            Operation::Readable(offer)
        }
        _ => {
            let offer = here.connector.create_writable_with(region.clone(), offered).await.unwrap();
            peer.tell(&format!("write 1 {}", native_line(offer.metadata()))).unwrap();
            Operation::Writable(offer)
        }
    };
    let delay = Duration::from_micros(random.below(40_000));
    let killer = thread::spawn(move || {
        thread::sleep(delay);
        match fate {
            Fate::Killed => peer.kill().map(|_| ()).unwrap(),
            Fate::Stopped(time) => {
                peer.stop().unwrap();
                thread::sleep(time);
                peer.resume().unwrap();
                // What it still does must harm no other operation.
                thread::sleep(Duration::from_millis(300));
            }
        }
        drop(peer);
    });
    let started = Instant::now();
    let outcome = operation.wait().await;
    let took = started.elapsed();
    assert!(took < DEADLINE + Duration::from_secs(1), "a wait of {took:?}");
    println!(
        "way {way}, {mine} {theirs}, {fate:?} after {delay:?}: {took:?} {:?}",
        outcome.as_ref().err()
    );

    // Memory that was given back stays as it is.
    let reclaimed = operation.reclaim().await;
    if reclaimed.memory.is_some() {
        let first = contents(&region).unwrap();
        thread::sleep(Duration::from_millis(20));
        assert!(contents(&region).unwrap() == first, "written after it was given back");
    }
    killer.join().unwrap();
    outcome.is_ok()
}

fn hit_many(name: &str, variables: &[(&str, &Path)], ways: &[Way], times: usize, stopped: bool) {
    alone(name, variables, || {
        // The long ones run side by side.
        let limit = if times > 25 { 4 * LIMIT } else { LIMIT };
        within(limit, async {
            let seed = 20_261_122;
            println!("seed {seed}");
            let mut random = Random::new(seed);
            let here = Here::new(SILENCE, Duration::from_secs(1)).await;
            let mut completed = 0;
            for _ in 0..times {
                let fate = match stopped {
                    true => Fate::Stopped(Duration::from_millis(random.below(2500))),
                    false => Fate::Killed,
                };
                completed += usize::from(hit(&here, &mut random, ways, fate).await);
            }
            println!("{completed} of {times} completed");
            let stats = eventually("everything has ended", Duration::from_secs(20), || {
                let (staged, connection) = (here.staged.staging_stats(), here.connector.stats());
                let over = staged.sessions() == 0 && connection.active() == 0;
                // All peers have ended, and their GPUs read nothing any more.
                let over = over && staged.on_gpus().quarantined() == 0;
                (over && connection.passive() == 0).then_some(staged)
            });
            println!("{stats:?}");
            for pool in [stats.incoming(), stats.outgoing()] {
                assert_eq!(pool.free() + pool.quarantined(), SLOTS, "a slot was lost");
                // The dead write nothing.
                assert!(stopped || pool.quarantined() == 0, "{stats:?}");
            }
            // And all is as good as new.
            let mut peer = peer("30000");
            memory(&mut peer, Cuda);
            one_of_each(&here, &mut peer, ways[0], 9, 100_003).await;
        });
    });
}

#[test]
fn killed_at_random_over_tcp() {
    hit_many("killed_at_random_over_tcp", &tcp(), &STAGED, 25, false);
}

#[test]
fn killed_at_random_over_shared_memory() {
    hit_many("killed_at_random_over_shared_memory", &shm(), &STAGED, 25, false);
}

#[test]
fn killed_at_random_where_memory_is_opened() {
    hit_many("killed_at_random_where_memory_is_opened", &local(), &OPENED, 25, false);
}

#[test]
#[ignore = "takes minutes: run with `cargo test -p nixl-tests --test staged -- --ignored`"]
fn killed_two_hundred_times_where_memory_is_opened() {
    let name = "killed_two_hundred_times_where_memory_is_opened";
    hit_many(name, &local(), &OPENED, 200, false);
}

/// Through slots on a GPU, which a peer that was stopped may read when it goes on.
#[test]
fn stopped_at_random_between_gpus() {
    hit_many("stopped_at_random_between_gpus", &local(), &OPENED[7..], 8, true);
}

#[test]
fn stopped_at_random_over_tcp() {
    hit_many("stopped_at_random_over_tcp", &tcp(), &STAGED, 8, true);
}

#[test]
#[ignore = "takes minutes: run with `cargo test -p nixl-tests --test staged -- --ignored`"]
fn killed_two_hundred_times() {
    hit_many("killed_two_hundred_times", &tcp(), &STAGED, 200, false);
}

#[test]
#[ignore = "takes minutes: run with `cargo test -p nixl-tests --test staged -- --ignored`"]
fn stopped_fifty_times() {
    hit_many("stopped_fifty_times", &tcp(), &STAGED, 50, true);
}

#[test]
fn connections_leave_nothing_behind() {
    alone("connections_leave_nothing_behind", &tcp(), || {
        within(LIMIT, async {
            let mut before = None;
            for round in 0..4 {
                let here = Here::new(SILENCE, Duration::from_secs(1)).await;
                let mut peer = peer("30000");
                memory(&mut peer, Cuda);
                one_of_each(&here, &mut peer, BOTH, round, 3 << 20).await;
                drop((here, peer));
                // What is set up once, the first round sets up.
                let now =
                    eventually("threads and files come back", Duration::from_secs(20), || {
                        let now = resources();
                        let (threads, files) = before.unwrap_or((now.threads, usize::MAX));
                        (now.threads <= threads && now.files <= files).then_some(now)
                    });
                if round == 0 {
                    thread::sleep(Duration::from_millis(500));
                    let settled = resources();
                    before = Some((settled.threads, settled.files));
                } else {
                    println!("{now:?}");
                }
            }
            assert_eq!(leaked(), Default::default());
        });
    });
}
