//! Peers that may connect, and the operations of a connection.

use std::task::{Context, Waker};

use nixl_descriptor::{LeaseMode, Leased, Leases, Region};
use nixl_metadata::{NotificationKey, OperationKind, RdmaMetadata, SerializedDescriptor};
use nixl_ops::{OperationOptions, PeerId, TransferSpec, TransportError};
use proptest::collection::vec;
use proptest::prelude::*;

use nixl_connector::simulated::Fault;

use crate::side::{World, now, pattern};

#[test]
fn every_agent_has_its_own_name() {
    let world = World::new();
    let names: Vec<_> =
        (0..3).map(|_| world.side("same").transport.agent_name().to_owned()).collect();
    assert_eq!(names, ["same-1", "same-2", "same-3"]);
    assert!(world.fabric.faults_of("same-1").is_none(), "it is gone");
}

#[test]
fn no_peer_connects_to_itself() {
    let world = World::new();
    let side = world.side("a");
    let blob = side.transport.local_metadata().unwrap();
    let own = TransportError::OwnIdentity { name: "a-1".into() };
    assert_eq!(side.transport.connect(&blob), Err(own));
}

#[test]
fn another_incarnation_is_a_conflict() {
    let world = World::new();
    let (a, b) = (world.side("a"), world.side("b"));
    let genuine = a.transport.local_metadata().unwrap();
    b.transport.connect(&genuine).unwrap();
    // Behind the magic and the name with its length.
    let mut forged = genuine.to_vec();
    forged[8 + 2 + 3 + 7] += 1;
    let conflict = TransportError::IdentityConflict { name: "a-1".into() };
    assert_eq!(b.transport.connect(&forged), Err(conflict));
    b.transport.connect(&genuine).unwrap();
}

#[test]
fn the_dead_and_the_forgotten_cannot_be_reached() {
    let world = World::new();
    let scene = world.scene(10);
    let peer = PeerId::new(scene.target.transport.agent_name());
    scene.initiator.transport.disconnect(&peer).unwrap();
    scene.initiator.transport.disconnect(&PeerId::new("unknown")).unwrap();
    let blob = scene.target.transport.local_metadata().unwrap();
    drop((scene.target, scene.offer));
    let gone = TransportError::PeerGone { name: peer.as_str().into() };
    assert_eq!(scene.initiator.transport.connect(&blob), Err(gone));
}

#[test]
fn a_busy_peer_is_neither_forgotten_nor_replaced() {
    let world = World::new();
    let scene = world.scene(10);
    let (initiator, target) = (&scene.initiator, &scene.target);
    let peer = PeerId::new(target.transport.agent_name());
    let busy = TransportError::PeerBusy { name: peer.as_str().into() };
    world.fabric.faults().next([Fault::Stalls { after: 0 }]);
    let read = scene.read().unwrap();
    assert_eq!(initiator.transport.disconnect(&peer), Err(busy.clone()));

    // More memory is no change to what is in use; memory that was registered anew is.
    let more = Region::zeroed(10).unwrap();
    let registration = target.register(&more).unwrap();
    let both = target.transport.local_metadata().unwrap();
    assert!(!initiator.transport.connect(&both).unwrap().superseded());
    drop(registration);
    let _again = target.register(&more).unwrap();
    let anew = target.transport.local_metadata().unwrap();
    assert_eq!(initiator.transport.connect(&anew), Err(busy));

    world.fabric.faults().release();
    let mut read = read;
    now(read.wait_for_completion()).unwrap();
    assert!(initiator.transport.connect(&anew).unwrap().superseded());
    initiator.transport.disconnect(&peer).unwrap();
}

#[test]
fn registered_memory_comes_back() {
    let world = World::new();
    let side = world.side("a");
    let region = Region::try_from(vec![1; 64]).unwrap();
    let registration = side.register(&region).unwrap();
    let region = region.try_into_vec().unwrap_err().into_region();
    drop(registration);
    assert_eq!(region.try_into_vec().unwrap(), [1; 64]);
    let empty = side.transport.local_metadata().unwrap();
    let never = world.side("a").transport.local_metadata().unwrap();
    assert_eq!(empty.len(), never.len(), "nothing is left");
}

/// Lists of pieces; neighbours on both sides become one, and every byte goes where it should.
fn pieces() -> impl Strategy<Value = Vec<(usize, usize, usize)>> {
    vec((0..64usize, 1..8usize), 1..12).prop_map(|steps| {
        let (mut from, mut to) = (0, 0);
        steps
            .into_iter()
            .map(|(gap, len)| {
                // Most pieces touch, on one side or both.
                from += if gap % 3 == 0 { gap } else { 0 };
                to += if gap % 5 == 0 { gap } else { 0 };
                let piece = (from, to, len);
                from += len;
                to += len;
                piece
            })
            .collect()
    })
}

proptest! {
    #[test]
    fn neighbours_are_merged_and_the_bytes_are_right(pieces in pieces()) {
        const LEN: usize = 2000;
        let world = World::new();
        let (target, initiator) = (world.side("t"), world.side("i"));
        let source = Region::try_from(pattern(LEN)).unwrap();
        let local = Region::zeroed(LEN).unwrap();
        let _registered = target.register(&source).unwrap();
        let registration = initiator.register(&local).unwrap();
        let whole = target.metadata(&source, OperationKind::Read);
        let remote = pieces
            .iter()
            .map(|(from, _, len)| {
                let at = source.address() + *from as u64;
                SerializedDescriptor::new(source.device(), at, *len as u64).unwrap()
            })
            .collect();
        let agent = whole.agent_metadata().clone();
        let key = NotificationKey::random();
        let remote = RdmaMetadata::new(OperationKind::Read, remote, agent, key).unwrap();
        let list: Vec<_> = pieces
            .iter()
            .map(|(_, to, len)| local.descriptor(*to..to + len).unwrap())
            .collect();
        let peer = initiator.connect(&remote).unwrap().into_peer();
        let leased = Leased::from(Leases::acquire(&list, LeaseMode::Write).unwrap());
        let spec = TransferSpec::new(
            OperationKind::Read,
            &peer,
            (&list, &leased),
            remote.descriptors(),
            None,
            vec![registration],
        );
        let mut transfer = initiator.transport.prepare(spec.unwrap()).unwrap();
        drop(leased);
        let joints = pieces
            .windows(2)
            .filter(|w| w[0].0 + w[0].2 == w[1].0 && w[0].1 + w[0].2 == w[1].1)
            .count();
        prop_assert_eq!(transfer.descriptors(), pieces.len() - joints);
        prop_assert!(matches!(transfer.poll(&mut Context::from_waker(Waker::noop())), std::task::Poll::Ready(Ok(()))));
        let mut expected = vec![0; LEN];
        for (from, to, len) in pieces {
            expected[to..to + len].copy_from_slice(&pattern(LEN)[from..from + len]);
        }
        prop_assert_eq!(local.to_vec().unwrap(), expected);
    }

    /// For any changed part of a genuine blob, connecting is decided and nothing breaks.
    #[test]
    fn altered_metadata_breaks_nothing(at: prop::sample::Index, to: u8) {
        let world = World::new();
        let scene = world.scene(64);
        let mut blob = scene.target.transport.local_metadata().unwrap().to_vec();
        let at = at.index(blob.len());
        blob[at] = to;
        let _ = scene.initiator.transport.connect(&blob);
        let options = OperationOptions::new();
        let mut read =
            scene.initiator.read(scene.offer.metadata(), &scene.local, options).unwrap();
        now(read.wait_for_completion()).unwrap();
        prop_assert_eq!(scene.arrived(), 64);
    }
}
