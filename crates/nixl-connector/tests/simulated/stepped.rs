//! A network on which transfers move when a test says so.

use std::num::NonZeroU64;
use std::sync::Arc;

use nixl_connector::simulated::Fabric;
use nixl_ops::{ManualClock, OperationError, OperationStatus, TransportError};

use crate::side::{Scene, World, is_leased, now};

const LEN: usize = 1000;
const CHUNK: NonZeroU64 = NonZeroU64::new(64).unwrap();

fn scene() -> (World, Scene) {
    let clock = Arc::new(ManualClock::new());
    let world = World { fabric: Fabric::stepped(clock.clone(), CHUNK), clock };
    let scene = world.scene(LEN);
    (world, scene)
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
