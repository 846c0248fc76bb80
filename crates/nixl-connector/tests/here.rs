//! Peers that claim this host and cannot prove it.
#![cfg(feature = "nixl")]
#![allow(clippy::unwrap_used, reason = "tests")]

use std::fs;
use std::task::{Context, Waker};
use std::time::{Duration, Instant};

use nixl_connector::ControlThread;
use nixl_connector::nixl::NixlTransport;
use nixl_descriptor::{CacheLimits, LeaseMode, Leased, Leases, Region, RegistrationCache};
use nixl_metadata::{OperationKind, SerializedDescriptor};
use nixl_ops::{TransferSpec, Transport};

const LEN: usize = 32 << 20;

fn open(name: &str) -> NixlTransport {
    NixlTransport::open(name, ControlThread::spawn().unwrap()).unwrap()
}

/// The peer's metadata under the name of an agent that no process here is: to this machine it is what a clone's would be, with
/// the same boot identity and a process identifier that means another process.
fn of_a_clone(metadata: &[u8], name: &str) -> Vec<u8> {
    let mut clone = metadata.to_vec();
    let at = metadata.windows(name.len()).position(|window| window == name.as_bytes()).unwrap();
    clone[at..at + name.len()].copy_from_slice(name.replace("target", "cloned").as_bytes());
    clone
}

/// Bytes that the interfaces of this network namespace have received. Tests of one binary share it; each adds to it only.
fn received() -> u64 {
    let table = fs::read_to_string("/proc/self/net/dev").unwrap();
    let interfaces = table.lines().filter_map(|line| line.split_once(':'));
    interfaces.map(|(_, row)| row.split_whitespace().next().unwrap().parse::<u64>().unwrap()).sum()
}

#[test]
fn a_peer_that_is_not_proven_to_be_here_is_reached_over_the_network() {
    let incarnation = std::process::id();
    let name = format!("target-{incarnation}");
    let (target, initiator) = (open(&name), open(&format!("initiator-{incarnation}")));
    let theirs = Region::try_from(vec![7; LEN]).unwrap();
    let ours = Region::zeroed(LEN).unwrap();
    let caches = [&target, &initiator]
        .map(|side| RegistrationCache::new(side.registrar(), CacheLimits::default()));
    let _offered = caches[0].get_or_register(&theirs).unwrap();
    let registrations = vec![caches[1].get_or_register(&ours).unwrap()];
    let metadata = target.local_metadata().unwrap();
    let before = received();
    let peer = initiator.connect(&of_a_clone(&metadata, &name)).unwrap().into_peer();
    let there = [SerializedDescriptor::new(theirs.device(), theirs.address(), LEN as u64).unwrap()];
    let here = [ours.whole()];
    let leased = Leased::from(Leases::acquire(&here, LeaseMode::Write).unwrap());
    let spec = TransferSpec::new(
        OperationKind::Read,
        &peer,
        (&here, &leased),
        &there,
        None,
        registrations,
    );
    let mut transfer = initiator.prepare(spec.unwrap()).unwrap();
    let until = Instant::now() + Duration::from_secs(30);
    while transfer.poll(&mut Context::from_waker(Waker::noop())).map(Result::unwrap).is_pending() {
        target.take_notifications(&mut |_, _| ()).unwrap();
        assert!(Instant::now() < until, "the transfer does not end");
    }
    drop((transfer, leased));
    assert!(ours.to_vec().unwrap() == vec![7; LEN]);
    let moved = received() - before;
    assert!(moved >= LEN as u64, "{moved} bytes of {LEN} went over the network");
}
