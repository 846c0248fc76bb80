//! A network on which transfers move when a test says so.

use std::num::NonZeroU64;
use std::sync::Arc;
use std::time::Duration;

use nixl_connector::simulated::{Fabric, Fault};
use nixl_descriptor::DescriptorList;
use nixl_metadata::{NotificationKey, OperationKind, RdmaMetadata, SerializedDescriptor};
use nixl_ops::{
    Clock as _, ManualClock, Next, OperationError, OperationOptions, OperationStatus,
    TransportError,
};
use proptest::collection::vec;
use proptest::prelude::*;

use crate::side::{Scene, TIMEOUT, World, is_leased, now};

const LEN: usize = 1000;
const CHUNK: NonZeroU64 = NonZeroU64::new(64).unwrap();

fn scene() -> (World, Scene) {
    let clock = Arc::new(ManualClock::new());
    let world = World { fabric: Fabric::stepped(clock.clone(), CHUNK), clock };
    let scene = world.scene(LEN);
    (world, scene)
}

/// Reads pieces that the engine does not merge.
fn read_pieces(scene: &Scene, pieces: usize, len: usize) -> nixl_ops::ReadOperation {
    let places = (0..pieces).map(|piece| 2 * piece * len);
    let local: Vec<_> =
        places.clone().map(|at| scene.local.descriptor(at..at + len).unwrap()).collect();
    let there = |at| {
        let (device, address) = (scene.source.device(), scene.source.address() + at as u64);
        SerializedDescriptor::new(device, address, len as u64).unwrap()
    };
    let agent = scene.offer.metadata().agent_metadata().clone();
    let key = NotificationKey::random();
    let remote =
        RdmaMetadata::new(OperationKind::Read, places.map(there).collect(), agent, key).unwrap();
    let (list, options) = (DescriptorList::try_from(local).unwrap(), OperationOptions::new());
    scene.initiator.read_list(&remote, (&scene.local, list), options).unwrap()
}

#[test]
fn a_transfer_takes_a_step_for_each_chunk_and_one_to_end() {
    for choice in 0..20 {
        let (world, mut scene) = scene();
        let mut read = scene.read().unwrap();
        scene.turn();
        let agent = scene.initiator.transport.agent_name().to_owned();
        assert!(!world.fabric.step(scene.target.transport.agent_name(), choice), "it began none");
        for step in 0..LEN.div_ceil(64) as u64 + 1 {
            scene.turn();
            assert_eq!(read.status(), OperationStatus::InProgress, "step {step}");
            assert!(world.fabric.step(&agent, choice * 977 + (step << 32) * choice));
        }
        assert!(!world.fabric.step(&agent, choice));
        scene.turn();
        now(read.wait_for_completion()).unwrap();
        assert_eq!(scene.arrived(), LEN);
    }
}

#[test]
fn the_end_of_a_peer_ends_a_transfer() {
    let (world, mut scene) = scene();
    let mut read = scene.read().unwrap();
    scene.turn();
    let agent = scene.initiator.transport.agent_name().to_owned();
    assert!(world.fabric.step(&agent, 5));
    let name = scene.target.transport.agent_name().to_owned();
    assert!(world.fabric.kill(&name));
    assert!(!world.fabric.step(&agent, 5), "nothing moves any more");
    scene.turn();
    let gone = OperationError::Transport(TransportError::PeerGone { name });
    assert_eq!(now(read.wait_for_completion()), Err(gone));
    assert!(!is_leased(&scene.local));
}

proptest! {
    #[test]
    fn a_failed_post_keeps_its_memory_until_what_it_began_has_ended(
        begun in 0usize..7, dropped_after in 0u64..12, choices in vec(any::<u64>(), 30),
    ) {
        const PIECES: usize = 5;
        const PIECE: usize = 100;
        let (world, mut scene) = scene();
        world.faults_of(&scene.initiator).next([Fault::PostFailsAfter { pieces: begun }]);
        let mut read = Some(read_pieces(&scene, PIECES, PIECE));
        let agent = scene.initiator.transport.agent_name().to_owned();
        let mut at_end = None;
        for (step, choice) in (0..).zip(choices) {
            if step == dropped_after {
                read = None;
            }
            scene.turn();
            if at_end.is_none() && !is_leased(&scene.local) {
                at_end = Some(scene.local.to_vec().unwrap());
            }
            world.fabric.step(&agent, choice);
        }
        let arrived = scene.local.to_vec().unwrap();
        prop_assert!(at_end.as_ref() == Some(&arrived), "bytes arrive after the end");
        let count = arrived.iter().filter(|byte| **byte != 0).count();
        prop_assert_eq!(count, begun.min(PIECES) * PIECE);
        if let Some(mut read) = read {
            prop_assert!(now(read.wait_for_completion()).is_err());
        }
    }
}

#[test]
fn a_transfer_that_was_given_up_goes_on_and_gives_its_memory_back() {
    let (world, mut scene) = scene();
    let read = scene.read().unwrap();
    scene.turn();
    drop(read);
    scene.turn();
    let agent = scene.initiator.transport.agent_name().to_owned();
    for _ in 0..LEN.div_ceil(64) + 1 {
        assert!(is_leased(&scene.local));
        assert!(world.fabric.step(&agent, 3));
        scene.turn();
    }
    assert!(!world.fabric.step(&agent, 3));
    assert!(!is_leased(&scene.local));
    assert_eq!(scene.arrived(), LEN);
}

/// The same, with an initiator whose transfers wake.
fn waking() -> (World, Scene) {
    let clock = Arc::new(ManualClock::new());
    let world = World { fabric: Fabric::stepped(clock.clone(), CHUNK), clock };
    let transport = world.fabric.waking_transport("initiator").unwrap();
    let scene = world.scene_of(LEN, transport);
    (world, scene)
}

/// Turns the initiator until it parks, and says for how long at most.
fn parks(world: &World, scene: &mut Scene) -> Duration {
    for _ in 0..100 {
        match scene.initiator.reactor.turn() {
            Next::Park(bound) => return bound.unwrap(),
            _ => world.clock.advance(Duration::from_millis(2)),
        }
    }
    panic!("it goes on looking");
}

#[test]
fn a_transfer_that_wakes_is_not_polled() {
    let (world, mut scene) = waking();
    let mut read = scene.read().unwrap();
    parks(&world, &mut scene);
    let agent = scene.initiator.transport.agent_name().to_owned();
    while world.fabric.step(&agent, 3) {}
    scene.turn();
    now(read.wait_for_completion()).unwrap();
    assert_eq!(scene.arrived(), LEN);
}

#[test]
fn a_transfer_that_loses_its_wake_ends_late() {
    let (world, mut scene) = waking();
    world.faults_of(&scene.initiator).next([Fault::WakeLost]);
    let mut read = scene.read().unwrap();
    let agent = scene.initiator.transport.agent_name().to_owned();
    parks(&world, &mut scene);
    while world.fabric.step(&agent, 3) {}
    let bound = parks(&world, &mut scene);
    assert_eq!(read.status(), OperationStatus::InProgress);
    assert!(bound <= Duration::from_secs(1), "{bound:?}");
    world.clock.advance(bound);
    scene.turn();
    now(read.wait_for_completion()).unwrap();
    assert_eq!(scene.arrived(), LEN);
}

#[test]
fn a_transfer_that_stands_still_ends_by_its_deadline() {
    let (world, mut scene) = waking();
    let mut read = scene.read().unwrap();
    let begun = world.clock.now();
    while read.status() == OperationStatus::InProgress {
        let bound = parks(&world, &mut scene);
        world.clock.advance(bound);
        scene.turn();
        assert!(world.clock.now() - begun <= TIMEOUT + Duration::from_millis(2));
    }
    let timed_out = OperationError::TimedOut { after: TIMEOUT };
    assert_eq!(now(read.wait_for_completion()), Err(timed_out));
}
