//! Failed posts, with agents of NIXL's.

use std::task::{Context, Waker};
use std::thread;
use std::time::{Duration, Instant};

use nixl_descriptor::{CacheLimits, LeaseMode, Leased, Leases, Region, RegistrationCache};
use nixl_metadata::{OperationKind, SerializedDescriptor};
use nixl_ops::{Transfer, TransferSpec, Transport, TransportError};
use uuid::Uuid;

use super::super::options::{NixlBackend, NixlOptions};
use super::super::transport::NixlTransport;
use crate::control::ControlThread;

const LEN: usize = 16 << 20;

fn agent(name: &str, options: &NixlOptions) -> NixlTransport {
    let name = format!("{name}-{}", Uuid::new_v4());
    NixlTransport::open_with(&name, ControlThread::spawn().unwrap(), options).unwrap()
}

/// Reads memory of ones, with a post that fails although all of it has begun. Calls `check` with the transfer and its lease when it
/// has ended.
fn read(
    options: &NixlOptions,
    check: impl FnOnce(&dyn Transfer, &Leased, TransportError),
) -> Region {
    let [owner, reader] = ["owner", "reader"].map(|name| agent(name, options));
    let (theirs, ours) = (Region::try_from(vec![1; LEN]).unwrap(), Region::zeroed(LEN).unwrap());
    let caches = [&owner, &reader]
        .map(|side| RegistrationCache::new(side.registrar(), CacheLimits::default()));
    let _offered = caches[0].get_or_register(&theirs).unwrap();
    let registrations = vec![caches[1].get_or_register(&ours).unwrap()];
    let peer = reader.connect(&owner.local_metadata().unwrap()).unwrap().into_peer();
    let there = [SerializedDescriptor::new(theirs.device(), theirs.address(), LEN as u64).unwrap()];
    let here = [ours.whole()];
    let leased = Leased::from(Leases::acquire(&here, LeaseMode::Write).unwrap());
    let (kind, memory) = (OperationKind::Read, (&here[..], &leased));
    let spec = TransferSpec::new(kind, &peer, memory, &there, None, registrations).unwrap();
    let mut transfer = reader.prepare(spec).unwrap();
    reader.directory.agent().enter().inside().unwrap().failing_posts = 1;
    let until = Instant::now() + Duration::from_secs(30);
    let error = loop {
        let polled = transfer.poll(&mut Context::from_waker(Waker::noop()));
        if let std::task::Poll::Ready(ended) = polled {
            break ended.unwrap_err();
        }
        owner.take_notifications(&mut |_, _| ()).unwrap();
        assert!(Instant::now() < until, "the transfer does not end");
        thread::yield_now();
    };
    assert!(transfer.was_posted() && !transfer.in_flight());
    check(&*transfer, &leased, error);
    drop((transfer, leased));
    ours
}

/// Over sockets, where the bytes take long enough to be in flight at the failure.
fn over_tcp() -> NixlOptions {
    NixlOptions::new().transports(["tcp"])
}

#[test]
fn a_failed_post_ends_when_what_it_began_has_ended() {
    let memory = read(&over_tcp(), |_, leased, error| {
        assert!(matches!(error, TransportError::Engine { .. }), "the peer is well: {error:?}");
        assert!(!leased.is_leaked());
    });
    assert!(memory.to_vec().unwrap() == [1; LEN], "bytes arrive after the end");
}

#[test]
fn memory_of_a_failed_post_whose_end_cannot_be_known_is_kept() {
    let workers = over_tcp().parameter(NixlBackend::Ucx, "num_workers", "2");
    let memory = read(&workers, |_, leased, _| assert!(leased.is_leaked()));
    assert!(memory.to_vec().is_err(), "it is leased until the process ends");
}
