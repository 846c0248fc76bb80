//! Holders of an offer whose UCX addresses are damaged: what ends the process that meets them, and what is refused before.
#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a test says so, by failing too")]

use std::env;
use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::mpsc;
use std::task::Poll;
use std::thread;
use std::time::{Duration, Instant};

use nixl_connector::ControlThread;
use nixl_connector::nixl::NixlTransport;
use nixl_metadata::{AgentMetadata, NotificationKey, OperationKind, RdmaMetadata};
use nixl_ops::{Transport, TransportError};
use nixl_tests::Random;
use nixl_tests::forge::Blob;
use rustix::fs::{MemfdFlags, memfd_create};

const BLOB: &str = "NIXL_TEST_ADDRESSES";
const RANGE: &str = "NIXL_TEST_ADDRESSES_RANGE";
/// A child that says nothing for so long hangs.
const PATIENCE: Duration = Duration::from_secs(60);
/// UCX leaks files with each peer that it cannot reach.
const PER_CHILD: usize = 200;

#[derive(Debug, Default)]
struct Tally {
    inputs: usize,
    refused: usize,
    connected: usize,
    failed: usize,
    died: usize,
    hung: usize,
    /// The first that died, and how.
    deaths: Vec<String>,
}

/// One damaged address.
fn damaged(address: &[u8], number: u64) -> (String, Vec<u8>) {
    let mut random = Random::new(0x5eed_0000 + number);
    let mut bytes = address.to_vec();
    let mut what = String::new();
    let some = |random: &mut Random, most: usize| random.below(most as u64) as usize;
    for _ in 0..1 + some(&mut random, 2) {
        let at = some(&mut random, bytes.len().max(1));
        if bytes.is_empty() {
            break;
        }
        match random.below(10) {
            0..5 => {
                let to = random.below(256) as u8;
                what += &format!(" {at}:{}->{to}", bytes[at]);
                bytes[at] = to;
            }
            5 | 6 => {
                let bit = random.below(8);
                what += &format!(" {at}^{}", 1 << bit);
                bytes[at] ^= 1 << bit;
            }
            7 => {
                what += &format!(" cut at {at}");
                bytes.truncate(at);
            }
            8 => {
                let more = some(&mut random, 12);
                what += &format!(" {more} more at {at}");
                let new: Vec<u8> = (0..more).map(|_| random.below(256) as u8).collect();
                bytes.splice(at..at, new);
            }
            _ => {
                let end = (at + 1 + some(&mut random, 12)).min(bytes.len());
                what += &format!(" without {at}..{end}");
                bytes.drain(at..end);
            }
        }
    }
    (what, bytes)
}

/// Meets damaged addresses in a range, one line for each. Run by the tests below, in a process of its own.
#[test]
#[ignore = "a part of the other tests"]
fn meets_addresses() {
    let (Ok(path), Ok(range)) = (env::var(BLOB), env::var(RANGE)) else { return };
    let (from, to) = range.split_once(' ').unwrap();
    let blob = fs::read(path).unwrap();
    let agent = AgentMetadata::compress(&blob).unwrap();
    let device = nixl_device::Device::HOST;
    let memory = nixl_metadata::SerializedDescriptor::new(device, 4096, 1).unwrap();
    let key = NotificationKey::random();
    let metadata = RdmaMetadata::new(OperationKind::Read, vec![memory], agent, key).unwrap();
    let honest = Blob::of(&metadata);
    let control = ControlThread::spawn().unwrap();
    let own = format!("meets-{}-{from}", std::process::id());
    let transport = NixlTransport::open(&own, control).unwrap();
    for number in from.parse().unwrap()..to.parse().unwrap() {
        let mut blob = honest.clone();
        let (what, address) = damaged(&honest.connections[0].1, number);
        blob.connections[0].1 = address;
        blob.name = name(number).into_bytes();
        println!("begin {number}{what}");
        let outcome = match transport.connect(&blob.bytes()) {
            Ok(connected) => {
                for _ in 0..3 {
                    let told = transport.notify(connected.peer(), &[7; 100]);
                    if let Poll::Ready(Err(_)) = told {
                        break;
                    }
                    thread::sleep(Duration::from_millis(1));
                }
                transport.take_notifications(&mut |_, _| {}).unwrap();
                let _ = transport.disconnect(connected.peer());
                "connected"
            }
            Err(TransportError::BadMetadata { .. }) => "refused",
            Err(_) => "failed",
        };
        println!("end {outcome}");
    }
    println!("over");
    // The engine's state is not worth its destructors.
    std::process::exit(0);
}

/// Each input has a name of its own: peers that cannot be reached are not tried often.
fn name(number: u64) -> String {
    format!("holder-{number}")
}

fn meet(numbers: std::ops::Range<u64>) -> Tally {
    let control = ControlThread::spawn().unwrap();
    let own = format!("holder-{}", std::process::id());
    let holder = NixlTransport::open(&own, control).unwrap();
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("blob");
    fs::write(&path, holder.local_metadata().unwrap()).unwrap();
    let mut tally = Tally::default();
    let mut next = numbers.start;
    while next < numbers.end {
        let some = next..numbers.end.min(next + PER_CHILD as u64);
        // The proof that all of these are on this host, so that UCX reaches into this process.
        let beacon = |number| {
            memfd_create(format!("nixl-agent-{}", name(number)), MemfdFlags::CLOEXEC).unwrap()
        };
        let beacons: Vec<_> = some.clone().map(beacon).collect();
        next = child(&path, some, &mut tally);
        drop(beacons);
        holder.take_notifications(&mut |_, _| {}).unwrap();
    }
    tally
}

/// Returns the first number that the child has not met.
fn child(path: &Path, numbers: std::ops::Range<u64>, tally: &mut Tally) -> u64 {
    let mut child = Command::new(env::current_exe().unwrap())
        .args(["meets_addresses", "--exact", "--nocapture", "--ignored", "--test-threads=1"])
        .env(BLOB, path)
        .env(RANGE, format!("{} {}", numbers.start, numbers.end))
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let (send, lines) = mpsc::channel();
    let output: Box<dyn Read + Send> = Box::new(child.stdout.take().unwrap());
    let reader = thread::spawn(move || {
        for line in BufReader::new(output).lines().map_while(Result::ok) {
            if send.send(line).is_err() {
                return;
            }
        }
    });
    let (mut next, mut begun, mut is_over) = (numbers.start, None, false);
    let mut hung = false;
    loop {
        let line = match lines.recv_timeout(PATIENCE) {
            Ok(line) => line,
            Err(mpsc::RecvTimeoutError::Disconnected) => break,
            Err(mpsc::RecvTimeoutError::Timeout) => {
                hung = true;
                child.kill().unwrap();
                break;
            }
        };
        if let Some(what) = line.split("begin ").nth(1) {
            begun = Some(what.to_owned());
            tally.inputs += 1;
            next += 1;
        } else if let Some(outcome) = line.strip_prefix("end ") {
            begun = None;
            match outcome {
                "connected" => tally.connected += 1,
                "refused" => tally.refused += 1,
                _ => tally.failed += 1,
            }
        } else if line == "over" {
            is_over = true;
        }
    }
    let status = child.wait().unwrap();
    reader.join().unwrap();
    if hung {
        tally.hung += 1;
        tally.deaths.push(format!("hung: {begun:?}"));
    } else if !is_over {
        tally.died += 1;
        tally.deaths.push(format!("{status}: {begun:?}"));
    }
    next
}

/// Some of what `many_damaged_addresses` tries. UCX sees none that it would fall over.
#[test]
fn damaged_addresses_are_refused() {
    let tally = meet(0..150);
    println!("{tally:#?}");
    assert_eq!((tally.inputs, tally.hung, tally.died), (150, 0, 0), "{:?}", tally.deaths);
    assert!(tally.refused > tally.inputs / 4, "{tally:?}");
}

/// Measures how often a damaged address of a holder still ends the process.
#[test]
#[ignore = "takes minutes: run with `cargo test -p nixl-tests --test addresses -- --ignored --nocapture`"]
fn many_damaged_addresses() {
    if env::var_os(BLOB).is_some() {
        return;
    }
    let most = env::var("NIXL_TEST_ADDRESSES_COUNT").ok().and_then(|n| n.parse().ok());
    let began = Instant::now();
    let tally = meet(0..most.unwrap_or(4000));
    println!("{tally:#?} in {:?}", began.elapsed());
}
