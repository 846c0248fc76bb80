//! Peers that stop, die or never report, over real NIXL, and handles that are dropped whenever it suits them.
//!
//! Each test runs in a process of its own, in which nothing else is registered, leaked or counted.
#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a test says so, by failing too")]

use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use nixl_connector::{
    CancelOutcome, Connector, ConnectorError, DriverConfig, OperationError, OperationOptions,
    OperationStatus, ReadOperation, TransportError, WriteOperation,
};
use nixl_descriptor::{
    AccessError, DescriptorList, LeaseError, LeaseMode, ReclaimError, Region, leaked,
};
use nixl_metadata::RdmaMetadata;
use nixl_tests::{
    Offer, Peer, Random, Resources, alone, crc32, eventually, pattern, resources, within,
};

const PEER: &str = env!("CARGO_BIN_EXE_peer");
const LIMIT: Duration = Duration::from_secs(240);
const LARGE: usize = 64 << 20;

/// Over TCP a transfer needs its peer's help until the last byte. Without UCX's memory hooks, which nothing here
/// needs, a process starts in a sixth of the time.
fn tcp() -> [(&'static str, &'static Path); 2] {
    [("UCX_TLS", Path::new("tcp")), ("UCX_MEM_EVENTS", Path::new("no"))]
}

/// Shared memory and CMA, as between any two processes of one machine.
fn local() -> [(&'static str, &'static Path); 1] {
    [("UCX_MEM_EVENTS", Path::new("no"))]
}

fn decode(offer: &Offer) -> RdmaMetadata {
    RdmaMetadata::decode(offer.json.as_bytes()).unwrap()
}

fn draining(drain: Duration) -> DriverConfig {
    DriverConfig::default().drain(drain)
}

async fn verified_read(connector: &Connector, peer: &mut Peer, seed: u64) {
    let offer = peer.offer("readable", 100_000, seed).unwrap();
    let region = Region::zeroed(100_000).unwrap();
    let mut read = connector.begin_read(&decode(&offer), region.clone()).await.unwrap();
    read.wait_for_completion().await.unwrap();
    assert!(region.to_vec().unwrap() == pattern(seed, 100_000), "the bytes read are wrong");
    peer.ask(&format!("wait {}", offer.id)).unwrap();
}

// ---- A peer that is stopped ----

/// A read of 64 MiB whose peer was stopped in the middle of it.
struct Stopped {
    connector: Connector,
    peer: Peer,
    offer: Offer,
    region: Region,
    read: ReadOperation,
}

impl Stopped {
    async fn new(config: DriverConfig, options: OperationOptions) -> Self {
        let connector = Connector::builder().name("reader").driver(config).build().await.unwrap();
        let mut peer = Peer::start(PEER, &[]);
        // Its addresses are never those of memory that was given back. NIXL had to forget a peer that registers such again, which
        // it cannot while a request is in flight (`PeerBusy`).
        peer.ask("memory shared").unwrap();
        verified_read(&connector, &mut peer, 1).await;
        // A transfer may be over before it is stopped; then another is, sooner after its start.
        for delay in [40, 20, 10, 5, 2, 1, 0] {
            let offer = peer.offer("readable", LARGE, 2).unwrap();
            let region = Region::try_from(vec![0; LARGE]).unwrap();
            let remote = decode(&offer);
            let read = connector.begin_read_with(&remote, region.clone(), options).await.unwrap();
            thread::sleep(Duration::from_millis(delay));
            peer.stop().unwrap();
            // What is in the sockets still arrives.
            thread::sleep(Duration::from_millis(300));
            if connector.stats().active() == 1 {
                return Self { connector, peer, offer, region, read };
            }
            peer.resume().unwrap();
            peer.ask(&format!("wait {}", offer.id)).unwrap();
        }
        panic!("no read could be stopped in time");
    }
}

/// No safe code reaches the memory, by any way.
async fn unreachable(connector: &Connector, offer: &Offer, region: Region) -> Region {
    let leased = AccessError::Leased { mode: LeaseMode::Write };
    let mut byte = [0];
    for at in [0, LARGE / 2, LARGE - 1] {
        assert_eq!(region.copy_to_slice(at, &mut byte), Err(leased.clone()));
        assert_eq!(region.copy_from_slice(at, &byte), Err(leased.clone()));
    }
    assert_eq!(region.to_vec().unwrap_err(), leased);
    assert_eq!(
        connector.begin_read(&decode(offer), region.clone()).await.unwrap_err(),
        ConnectorError::Lease(LeaseError::Conflict { region: region.id(), held: LeaseMode::Write })
    );
    let refused = region.try_into_vec().unwrap_err();
    assert_eq!(refused.reason(), &ReclaimError::Shared);
    refused.into_region()
}

/// The peer goes on; from the moment at which the memory can be reached, it never changes.
async fn never_written_again(
    connector: Connector,
    mut peer: Peer,
    offer: Offer,
    mut region: Region,
) {
    for _ in 0..100 {
        region = unreachable(&connector, &offer, region).await;
        thread::sleep(Duration::from_millis(10));
    }
    peer.resume().unwrap();
    let first =
        eventually("the memory comes back", Duration::from_secs(30), || region.to_vec().ok());
    thread::sleep(Duration::from_secs(1));
    assert!(region.to_vec().unwrap() == first, "written after its lease was over");

    eventually("nothing is in flight", LIMIT, || (connector.stats().active() == 0).then_some(()));
    let mut held = Some(region);
    let mut bytes = eventually("the vector comes back", LIMIT, || {
        held.take()?.try_into_vec().map_err(|e| held = Some(e.into_region())).ok()
    });
    assert!(bytes == first, "written while it was handed back");
    // In place, so that the allocation is the one that the peer was writing to.
    bytes.fill(0x5a);
    thread::sleep(Duration::from_secs(2));
    assert!(bytes.iter().all(|b| *b == 0x5a), "written after it was handed back");

    assert_eq!(leaked(), Default::default());
    // The target was told, since the transfer went on to its end; and the two still get on.
    peer.ask(&format!("wait {}", offer.id)).unwrap();
    verified_read(&connector, &mut peer, 3).await;
}

#[test]
fn stopped_then_dropped() {
    alone("stopped_then_dropped", &tcp(), || {
        within(LIMIT, async {
            let Stopped { connector, peer, offer, region, read } =
                Stopped::new(DriverConfig::default(), OperationOptions::new()).await;
            drop(read);
            never_written_again(connector, peer, offer, region).await;
        });
    });
}

#[test]
fn stopped_then_cancelled() {
    alone("stopped_then_cancelled", &tcp(), || {
        within(LIMIT, async {
            let Stopped { connector, peer, offer, region, mut read } =
                Stopped::new(DriverConfig::default(), OperationOptions::new()).await;
            assert_eq!(read.cancel(), CancelOutcome::Cancelled);
            assert_eq!(read.wait_for_completion().await, Err(OperationError::Cancelled));
            assert_eq!(read.status(), OperationStatus::Cancelled);
            let cancelled = OperationStatus::Cancelled;
            assert_eq!(read.cancel(), CancelOutcome::AlreadyEnded(cancelled));
            drop(read);
            never_written_again(connector, peer, offer, region).await;
        });
    });
}

#[test]
fn stopped_past_the_deadline() {
    alone("stopped_past_the_deadline", &tcp(), || {
        within(LIMIT, async {
            let after = Duration::from_millis(1500);
            let options = OperationOptions::new().timeout(after);
            let Stopped { connector, peer, offer, region, mut read } =
                Stopped::new(DriverConfig::default(), options).await;
            let started = Instant::now();
            let error = read.wait_for_completion().await.unwrap_err();
            assert_eq!(error, OperationError::TimedOut { after });
            assert!(started.elapsed() < after + Duration::from_secs(1), "{:?}", started.elapsed());
            assert_eq!(read.status(), OperationStatus::Errored);
            drop(read);
            never_written_again(connector, peer, offer, region).await;
        });
    });
}

/// After the drain time the wait for the memory ends, and the memory stays unreachable until the engine is quiet.
#[test]
fn stopped_for_longer_than_the_drain_time() {
    alone("stopped_for_longer_than_the_drain_time", &tcp(), || {
        within(LIMIT, async {
            let config = draining(Duration::from_millis(500));
            let Stopped { connector, mut peer, offer, mut region, mut read } =
                Stopped::new(config, OperationOptions::new()).await;
            read.cancel();
            let reclaimed = read.reclaim().await;
            assert_eq!(reclaimed.outcome, Err(OperationError::Cancelled));
            assert!(reclaimed.memory.is_none(), "memory was handed out that NIXL may write to");
            // It is not lost: the engine is asked on, and the memory comes back when it is quiet.
            let overdue = connector.stats().overdue();
            assert_eq!((overdue.operations(), overdue.bytes()), (1, LARGE as u64));
            assert_eq!((connector.stats().active(), leaked().leases()), (0, 0));

            region = unreachable(&connector, &offer, region).await;
            peer.resume().unwrap();
            eventually("the engine is quiet", LIMIT, || {
                (connector.stats().overdue().operations() == 0).then_some(())
            });
            let bytes = region.to_vec().unwrap();
            thread::sleep(Duration::from_secs(1));
            assert!(region.to_vec().unwrap() == bytes, "it was written again");
            drop(region);
            verified_read(&connector, &mut peer, 3).await;
            assert_eq!((leaked().leases(), leaked().regions()), (0, 0));
        });
    });
}

// ---- Peers that are killed ----

enum Active {
    Read(ReadOperation),
    Write(WriteOperation),
}

/// What came of all the operations with one peer.
#[derive(Debug, Default)]
struct Tally {
    completed: usize,
    gone: usize,
    /// Attempts to connect to a peer that was dead already.
    refused: usize,
}

/// How long an operation may take before its wait must end.
const DEADLINE: Duration = Duration::from_secs(10);

/// One large and some small operations, both ways, with a peer that is killed at a random moment.
async fn killed(connector: &Connector, mut peer: Peer, random: &mut Random, tally: &mut Tally) {
    let large = if random.below(2) == 0 { "readable" } else { "writable" };
    let small = [("readable", 4096), ("writable", 4096)].into_iter().cycle();
    let wanted: Vec<_> = [(large, 16 << 20)].into_iter().chain(small.take(8)).collect();
    let offers: Vec<_> =
        wanted.iter().map(|(kind, len)| peer.offer(kind, *len, 1).unwrap()).collect();
    // On a slow machine none would be done in the shorter time.
    let longest = if random.below(6) == 0 { 1_000_000 } else { 60_000 };
    let delay = Duration::from_micros(random.below(longest));
    let killer = thread::spawn(move || {
        thread::sleep(delay);
        peer.kill()
    });

    let options = OperationOptions::new().timeout(DEADLINE);
    let mut operations = Vec::new();
    for ((kind, len), offer) in wanted.iter().zip(&offers) {
        let (remote, region) = (decode(offer), Region::zeroed(*len).unwrap());
        let begun = match *kind {
            "readable" => {
                connector.begin_read_with(&remote, region, options).await.map(Active::Read)
            }
            _ => connector.begin_write_with(region, &remote, options).await.map(Active::Write),
        };
        match begun {
            Ok(operation) => operations.push(operation),
            Err(ConnectorError::Transport(TransportError::PeerGone { .. })) => tally.refused += 1,
            Err(other) => panic!("{delay:?}: {other:?}"),
        }
    }
    for operation in operations {
        let started = Instant::now();
        let outcome = match operation {
            Active::Read(mut read) => read.wait_for_completion().await,
            Active::Write(mut write) => write.wait_for_completion().await,
        };
        assert!(started.elapsed() < DEADLINE + Duration::from_secs(1), "a wait was too long");
        match outcome {
            Ok(_) => tally.completed += 1,
            Err(OperationError::Transport(TransportError::PeerGone { .. })) => tally.gone += 1,
            Err(OperationError::TimedOut { .. }) => panic!("{delay:?}: found out by timeout only"),
            Err(other) => panic!("{delay:?}: {other:?}"),
        }
    }
    killer.join().unwrap().unwrap();
}

/// Nothing is in flight, and the threads and files are as many as expected.
fn settled(connector: &Connector, threads: usize, files: usize) -> Resources {
    eventually("everything is given back", Duration::from_secs(20), || {
        let (stats, now) = (connector.stats(), resources());
        let quiet =
            stats.active() == 0 && stats.passive() == 0 && stats.registrations().entries() == 0;
        (quiet && now.threads <= threads && now.files <= files).then_some(now)
    })
}

/// What NIXL and UCX keep, seen with NIXL 1.5.1: some 30 KiB for each peer that died; and over shared memory a file for
/// some of the attempts to connect to a peer that was dead already, which are few, because such a peer is not tried
/// again soon.
fn kill_many(times: usize, variables: &[(&str, &Path)], name: &str) {
    alone(name, variables, || {
        within(LIMIT, async {
            let seed = 20_260_821;
            println!("seed {seed}");
            let mut random = Random::new(seed);
            let connector = Connector::builder().name("survivor").build().await.unwrap();
            // What is set up once: pools, listeners, the first peer's endpoints.
            let mut warm = Tally::default();
            for _ in 0..5 {
                killed(&connector, Peer::start(PEER, &[]), &mut random, &mut warm).await;
            }
            thread::sleep(Duration::from_millis(500));
            let before = settled(&connector, usize::MAX, usize::MAX);

            let mut tally = Tally::default();
            for _ in 0..times {
                killed(&connector, Peer::start(PEER, &[]), &mut random, &mut tally).await;
            }
            let after = settled(&connector, before.threads, before.files + tally.refused);
            println!("{tally:?}\nbefore {before:?}\nafter  {after:?}\n{:?}", connector.stats());
            assert!(tally.completed > 0 && tally.gone > 0, "no kill hit a transfer: {tally:?}");
            assert_eq!(leaked(), Default::default());
            let grown = after.resident.saturating_sub(before.resident);
            assert!(grown < times * (64 << 10) + (4 << 20), "grew by {grown} bytes");

            // And the connector is as good as new.
            verified_read(&connector, &mut Peer::start(PEER, &[]), 7).await;
        });
    });
}

#[test]
fn killed_at_random_over_tcp() {
    kill_many(100, &tcp(), "killed_at_random_over_tcp");
}

#[test]
fn killed_at_random_over_shared_memory() {
    kill_many(25, &local(), "killed_at_random_over_shared_memory");
}

/// TCP has no reads: the owner's UCX replies to them with messages, which cannot be sent to a reader that has died. UCX by itself
/// ends the process of the owner then.
#[test]
fn readers_that_are_killed_while_they_are_replied_to() {
    const READERS: usize = 4;
    const ROUNDS: usize = 8;
    alone("readers_that_are_killed_while_they_are_replied_to", &tcp(), || {
        within(LIMIT, async {
            let mut random = Random::new(11);
            let connector = Connector::builder().name("owner").build().await.unwrap();
            let region = Region::try_from(pattern(3, LARGE)).unwrap();
            for round in 0..ROUNDS {
                let mut readers: Vec<_> = (0..READERS).map(|_| Peer::start(PEER, &[])).collect();
                // One read that is long under way, or many that arrive together.
                let (reads, len) = if round % 2 == 0 { (1, LARGE) } else { (32, 256 << 10) };
                let list = DescriptorList::from(region.descriptor(..len).unwrap());
                let mut offers = Vec::new();
                for reader in &mut readers {
                    for _ in 0..reads {
                        let offer = connector.create_readable(list.clone()).await.unwrap();
                        let metadata = offer.metadata().to_dynamo_json();
                        reader.tell(&format!("read {metadata}")).unwrap();
                        offers.push(offer);
                    }
                }
                for reader in &mut readers {
                    reader.answer("read").unwrap();
                }
                thread::sleep(Duration::from_millis(random.below(30)));
                for reader in &mut readers {
                    reader.kill().unwrap();
                }
            }
            // The owner lives, and serves others.
            let mut reader = Peer::start(PEER, &[]);
            let mut offer = connector.create_readable(region.clone()).await.unwrap();
            let read = reader.ask(&format!("read {}", offer.metadata().to_dynamo_json())).unwrap();
            let sum = reader.ask(&format!("wait {read}")).unwrap();
            assert_eq!(sum, crc32(&pattern(3, LARGE)));
            offer.wait_for_completion().await.unwrap();
        });
    });
}

/// A target learns nothing of its initiator's death: its wait ends at the deadline, and since the peer might only be
/// slow, the memory is given up after the drain time.
#[test]
fn targets_of_peers_that_die() {
    alone("targets_of_peers_that_die", &tcp(), || {
        within(LIMIT, async {
            let drain = Duration::from_secs(1);
            let connector = Connector::builder().driver(draining(drain)).build().await.unwrap();
            let after = Duration::from_secs(1);
            let options = OperationOptions::new().timeout(after);
            let mut held = 0;
            for begun in [true, false] {
                let mut peer = Peer::start(PEER, &[]);
                let region = Region::zeroed(LARGE).unwrap();
                let started = Instant::now();
                let mut offered =
                    connector.create_writable_with(region.clone(), options).await.unwrap();
                if begun {
                    let json = offered.metadata().to_dynamo_json();
                    peer.ask(&format!("write 5 {json}")).unwrap();
                    thread::sleep(Duration::from_millis(5));
                }
                peer.kill().unwrap();
                // All of it may have arrived, and the word of it too.
                let Err(error) = offered.wait_for_completion().await else { continue };
                assert_eq!(error, OperationError::TimedOut { after });
                assert!(started.elapsed() < after + DEADLINE);
                let reclaimed = offered.reclaim().await;
                // Who never had the metadata cannot use it.
                assert_eq!(reclaimed.memory.is_some(), !begun);
                assert_eq!(region.to_vec().is_ok(), !begun);
                held += usize::from(begun);
            }
            // With Dynamo's profile any holder of the message may write until its life time is over.
            let stats = connector.stats();
            assert_eq!((stats.passive(), stats.quarantined_without_terms().offers()), (held, held));
            assert_eq!(leaked(), Default::default(), "it can still come back");
            verified_read(&connector, &mut Peer::start(PEER, &[]), 7).await;
            drop(connector);
            eventually("no proof is possible now", LIMIT, || {
                (leaked().leases() == held as u64).then_some(())
            });
        });
    });
}

// ---- Memory that comes and goes ----

/// Each read is of memory that was registered just now, where other memory was registered before, and several are under way.
#[test]
fn files_stay_while_memory_of_a_healthy_peer_changes() {
    alone("files_stay_while_memory_of_a_healthy_peer_changes", &tcp(), || {
        within(LIMIT, async {
            let connector = Connector::builder().build().await.unwrap();
            let mut peer = Peer::start(PEER, &[]);
            let mut random = Random::new(20_261_129);
            let mut round = async |seed: u64| {
                let (mut under_way, mut lens) = (Vec::new(), Vec::new());
                for at in 0..3 {
                    let len = 1 + random.below(200_000) as usize;
                    let offer = peer.offer("readable", len, seed + at).unwrap();
                    let region = Region::zeroed(len).unwrap();
                    let read = connector.begin_read(&decode(&offer), region.clone()).await;
                    under_way.push((read.unwrap(), region, offer, seed + at));
                    lens.push(len);
                }
                for ((mut read, region, offer, seed), len) in under_way.into_iter().zip(lens) {
                    read.wait_for_completion().await.unwrap();
                    assert!(region.to_vec().unwrap() == pattern(seed, len), "wrong bytes");
                    peer.ask(&format!("wait {}", offer.id)).unwrap();
                }
            };
            for seed in 0..20 {
                round(seed * 10).await;
            }
            let before = resources();
            for seed in 20..120 {
                round(seed * 10).await;
            }
            let after = resources();
            assert!(after.files <= before.files, "{before:?} -> {after:?}");
        });
    });
}

// ---- Handles ----

/// NIXL tells the target only when the initiator asks how the transfer stands. The initiator does not here, and the target is told.
fn without_a_waiter(name: &str, variables: &[(&str, &Path)]) {
    alone(name, variables, || {
        within(LIMIT, async {
            let connector = Connector::builder().build().await.unwrap();
            let mut peer = Peer::start(PEER, &[]);
            for len in [1, 4096, 4 << 20, LARGE] {
                let writable = peer.offer("writable", len, 1).unwrap();
                let bytes = pattern(9, len);
                let crc = crc32(&bytes);
                let region = Region::try_from(bytes).unwrap();
                let write = connector.begin_write(region, &decode(&writable)).await.unwrap();
                // The thread of this runtime waits for the other process and polls nothing.
                assert_eq!(peer.ask(&format!("wait {}", writable.id)).unwrap(), crc);
                drop(write);

                let readable = peer.offer("readable", len, 1).unwrap();
                let region = Region::zeroed(len).unwrap();
                let read = connector.begin_read(&decode(&readable), region).await.unwrap();
                peer.ask(&format!("wait {}", readable.id)).unwrap();
                drop(read);
            }
            eventually("all is over", LIMIT, || (connector.stats().active() == 0).then_some(()));
        });
    });
}

#[test]
fn without_a_waiter_over_tcp() {
    without_a_waiter("without_a_waiter_over_tcp", &tcp());
}

#[test]
fn without_a_waiter_over_shared_memory() {
    without_a_waiter("without_a_waiter_over_shared_memory", &local());
}

/// Any order of drops: no crash, and all memory comes back.
#[test]
fn handles_dropped_in_any_order() {
    alone("handles_dropped_in_any_order", &tcp(), || {
        within(LIMIT, async {
            let seed = 20_260_822;
            println!("seed {seed}");
            let mut random = Random::new(seed);
            any_order(&mut random, true).await;
            thread::sleep(Duration::from_millis(300));
            let before = resources();
            let mut unreported = 0;
            for round in 0..30 {
                // A transfer that is over, and one that is in flight.
                unreported += any_order(&mut random, round % 2 == 0).await;
            }
            let after = eventually("threads and files come back", LIMIT, || {
                let now = resources();
                (now.threads <= before.threads && now.files <= before.files).then_some(now)
            });
            println!("before {before:?}\nafter  {after:?}\n{:?}", leaked());
            // A read that was dropped before it was posted never happens, so its target never hears of it.
            assert!(leaked().leases() <= unreported && leaked().regions() == 0, "{:?}", leaked());
            let kept = usize::try_from(leaked().bytes()).unwrap();
            let grown = after.resident.saturating_sub(before.resident);
            assert!(grown < kept + (16 << 20), "grew by {grown} bytes");
        });
    });
}

/// Two connectors with a transfer between them, taken apart in a random order. Says how many of their operations
/// might never be reported.
async fn any_order(random: &mut Random, complete: bool) -> u64 {
    const LEN: usize = 8 << 20;
    let config = draining(Duration::from_secs(1));
    let source = Connector::builder().name("source").driver(config).build().await.unwrap();
    let sink = Connector::builder().name("sink").driver(config).build().await.unwrap();
    let (from, to) = (Region::zeroed(LEN).unwrap(), Region::zeroed(LEN).unwrap());
    let mut offered = source.create_readable(from.clone()).await.unwrap();
    let remote = decode_dynamo(&offered.metadata().to_dynamo_json());
    let mut read = sink.begin_read(&remote, to.clone()).await.unwrap();
    if complete {
        read.wait_for_completion().await.unwrap();
        offered.wait_for_completion().await.unwrap();
    }
    let mut handles: Vec<Box<dyn std::any::Any>> = vec![
        Box::new(source),
        Box::new(sink),
        Box::new(from),
        Box::new(to),
        Box::new(offered),
        Box::new(read),
    ];
    while !handles.is_empty() {
        let index = usize::try_from(random.below(handles.len() as u64)).unwrap();
        drop(handles.swap_remove(index));
        if random.below(2) == 0 {
            thread::sleep(Duration::from_millis(random.below(5)));
        }
    }
    u64::from(!complete)
}

fn decode_dynamo(json: &str) -> RdmaMetadata {
    RdmaMetadata::decode(json.as_bytes()).unwrap()
}
