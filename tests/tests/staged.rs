//! Staged transfers between two processes over real NIXL, with simulated GPU memory: both directions, any side, and
//! peers that die or stop halfway.
#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a test says so, by failing too")]
#![allow(unsafe_code, reason = "looks into memory that stands for a GPU's")]

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use nixl_connector::{Connector, DriverConfig, PathKind};
use nixl_descriptor::{Region, leaked};
use nixl_executor::{Abilities, Gpus, MemoryKind, SimulatedGpus, StagedExecutor, StagingConfig};
use nixl_metadata::RdmaMetadata;
use nixl_ops::Executor;
use nixl_tests::{Peer, alone, crc32, device_memory, eventually, pattern, within};

const PEER: &str = env!("CARGO_BIN_EXE_peer");
const LIMIT: Duration = Duration::from_secs(280);

fn tcp() -> [(&'static str, &'static Path); 2] {
    [("UCX_TLS", Path::new("tcp")), ("UCX_MEM_EVENTS", Path::new("no"))]
}

/// Shared memory and CMA, as between any two processes of one machine.
fn local() -> [(&'static str, &'static Path); 1] {
    [("UCX_MEM_EVENTS", Path::new("no"))]
}

struct Here {
    connector: Connector,
    gpus: Arc<SimulatedGpus>,
    staged: Arc<StagedExecutor>,
}

impl Here {
    async fn new(silence: Duration, drain: Duration) -> Self {
        let mut abilities = Abilities::default();
        (abilities.gpus, abilities.batch) = (1, true);
        let gpus = Arc::new(SimulatedGpus::new(abilities).unwrap());
        let mut config = StagingConfig::default();
        config.silence = silence;
        let staged = Arc::new(StagedExecutor::new(gpus.clone() as Arc<dyn Gpus>, config));
        let mut driving = DriverConfig::default();
        driving.drain = drain;
        let connector = Connector::builder()
            .name("here")
            .driver(driving)
            .executor(staged.clone() as Arc<dyn Executor>)
            .build()
            .await
            .unwrap();
        Self { connector, gpus, staged }
    }

    fn region(&self, cuda: bool, bytes: &[u8]) -> Region {
        if !cuda {
            return Region::try_from(bytes.to_vec()).unwrap();
        }
        let region = self.gpus.region(MemoryKind::Gpu(0), bytes.len()).unwrap();
        // SAFETY: the simulated GPUs made it just now.
        unsafe { device_memory::upload(&region, bytes) }.unwrap();
        region
    }

    fn bytes(region: &Region) -> Vec<u8> {
        match region.device().is_host() {
            true => region.to_vec().unwrap(),
            // SAFETY: all such memory here is the simulated GPUs'.
            false => unsafe { device_memory::download(region) }.unwrap(),
        }
    }
}

fn peer(silence: &str) -> Peer {
    Peer::start(PEER, &[("NIXL_TEST_STAGED", Path::new(silence))])
}

fn memory(peer: &mut Peer, cuda: bool) {
    peer.ask(if cuda { "memory cuda" } else { "memory host" }).unwrap();
}

fn every_way(name: &str, variables: &[(&str, &Path)]) {
    alone(name, variables, || {
        within(LIMIT, async {
            let here = Here::new(Duration::from_secs(30), Duration::from_secs(60)).await;
            let mut peer = peer("30000");
            let sizes = [1, 4096, 100_003, 1 << 20, (5 << 20) + 7, 64 << 20];
            for (mine, theirs) in [(true, true), (true, false), (false, true)] {
                memory(&mut peer, theirs);
                for (seed, len) in (1u64..).zip(sizes) {
                    let started = Instant::now();
                    one_of_each(&here, &mut peer, (mine, theirs), seed, len).await;
                    println!("{mine} {theirs} {len}: {:?}", started.elapsed());
                }
            }
            eventually("all is quiet", LIMIT, || (here.staged.stats().sessions == 0).then_some(()));
            let stats = here.staged.stats();
            let slots = StagingConfig::default().slots;
            assert_eq!((stats.incoming.free, stats.outgoing.free), (slots, slots));
            assert_eq!(leaked(), Default::default());
        });
    });
}

/// Read and write, begun here and there.
async fn one_of_each(
    here: &Here,
    peer: &mut Peer,
    (mine, theirs): (bool, bool),
    seed: u64,
    len: usize,
) {
    let bytes = pattern(seed, len);
    let kind = match mine && theirs {
        true => PathKind::StagedBothSides,
        false => PathKind::StagedOneSide,
    };

    let offer = peer.offer("readable", len, seed).unwrap();
    let remote = RdmaMetadata::decode(offer.json.as_bytes()).unwrap();
    let region = here.region(mine, &vec![0; len]);
    let mut read = here.connector.begin_read(&remote, region.clone()).await.unwrap();
    let done = read.wait_for_completion().await.unwrap();
    println!("read {}", done.path().unwrap());
    assert_eq!(done.path().unwrap().kind, kind);
    assert!(Here::bytes(&region) == bytes, "the bytes read are wrong");
    assert_eq!(peer.ask(&format!("wait {}", offer.id)).unwrap(), crc32(&bytes));

    let offer = peer.offer("writable", len, 0).unwrap();
    let remote = RdmaMetadata::decode(offer.json.as_bytes()).unwrap();
    let region = here.region(mine, &bytes);
    let mut write = here.connector.begin_write(region, &remote).await.unwrap();
    let done = write.wait_for_completion().await.unwrap();
    println!("write {}", done.path().unwrap());
    assert_eq!(done.path().unwrap().kind, kind);
    assert_eq!(peer.ask(&format!("wait {}", offer.id)).unwrap(), crc32(&bytes));

    let mut offered = here.connector.create_readable(here.region(mine, &bytes)).await.unwrap();
    let json = offered.metadata().to_dynamo_json();
    let number = peer.ask(&format!("read {json}")).unwrap();
    assert_eq!(peer.ask(&format!("wait {number}")).unwrap(), crc32(&bytes));
    offered.wait_for_completion().await.unwrap();

    let region = here.region(mine, &vec![0; len]);
    let mut offered = here.connector.create_writable(region.clone()).await.unwrap();
    let json = offered.metadata().to_dynamo_json();
    let number = peer.ask(&format!("write {seed} {json}")).unwrap();
    peer.ask(&format!("wait {number}")).unwrap();
    offered.wait_for_completion().await.unwrap();
    assert!(Here::bytes(&region) == bytes, "the bytes written are wrong");
}

#[test]
fn every_way_over_tcp() {
    every_way("every_way_over_tcp", &tcp());
}

#[test]
fn every_way_over_shared_memory() {
    every_way("every_way_over_shared_memory", &local());
}
