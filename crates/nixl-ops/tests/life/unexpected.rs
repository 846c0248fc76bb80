//! Notifications that are for no operation.

use std::time::Duration;

use nixl_ops::{ClaimDemand, Next, OperationOptions};

use crate::world::{Engine, Memory, Offering, TOKEN, World};

const SECOND: Duration = Duration::from_secs(1);

/// What no executor takes.
const FOR_NOTHING: &[u8] = b"serve";

/// Parks, with nothing outstanding.
fn parked() -> World {
    let mut world = World::new();
    let read = world.read(&Engine::pending(), &Memory::small(), OperationOptions::new()).unwrap();
    world.reactor.turn();
    drop(read);
    while !matches!(world.reactor.turn(), Next::Park(_)) {
        world.clock.advance(Duration::from_millis(1));
    }
    world
}

#[test]
fn an_idle_driver_takes_what_arrives_once_a_second() {
    let mut world = parked();
    for second in 0..100 {
        world.inbox.push(FOR_NOTHING);
        assert!(matches!(world.reactor.turn(), Next::Park(_)));
        assert_eq!(world.inbox.len(), 1, "it was just looked at");
        world.clock.advance(SECOND);
        assert!(matches!(world.reactor.turn(), Next::Park(_)), "nothing is outstanding");
        assert_eq!(world.inbox.len(), 0);
        let stats = world.driver.stats();
        assert_eq!(stats.unexpected_notifications(), second + 1);
        assert_eq!(stats.unexpected_bytes(), (second + 1) * FOR_NOTHING.len() as u64);
    }
}

#[test]
fn a_driver_that_had_nothing_to_do_so_far_takes_what_strangers_send() {
    let mut world = World::new();
    // The driver sleeps before it parks.
    world.clock.advance(Duration::from_millis(1));
    for second in 0..10 {
        world.inbox.push(FOR_NOTHING);
        let next = world.reactor.turn();
        assert!(matches!(next, Next::Park(Some(bound)) if bound <= SECOND), "{next:?}");
        assert_eq!(world.inbox.len(), 1, "it was just looked at");
        world.clock.advance(SECOND);
        assert!(matches!(world.reactor.turn(), Next::Park(_)), "nothing is outstanding");
        assert_eq!(world.inbox.len(), 0);
        assert_eq!(world.driver.stats().unexpected_notifications(), second + 1);
    }
}

/// A claim as an initiator sends it.
fn claim(key: &[u8], token: u64, metadata: usize) -> Vec<u8> {
    let mut bytes = b"\x89NXC\x01\x01".to_vec();
    bytes.push(key.len().try_into().unwrap());
    bytes.extend(key);
    bytes.extend(token.to_le_bytes());
    bytes.extend(vec![7; metadata]);
    bytes
}

#[test]
fn claims_without_end_keep_no_more_than_a_share_waiting() {
    let mut world = World::new();
    let (_proofs, jobs) = world.proving();
    let offer = world.offer(Offering::writable().claims(ClaimDemand::Everywhere), &Memory::small());
    let key = offer.metadata().notification_key().as_bytes().to_vec();
    let flood = |world: &mut World, token| {
        let before = world.driver.stats().unexpected_notifications();
        (0..1000).for_each(|_| world.inbox.push(&claim(&key, token, 100_000)));
        world.reactor.turn();
        1000 - (world.driver.stats().unexpected_notifications() - before)
    };
    assert_eq!(flood(&mut world, TOKEN), 10, "1 MiB of them");
    assert_eq!(format!("{jobs:?}"), "Jobs(10)");
    assert_eq!(flood(&mut world, TOKEN), 0);
    // What was answered makes room.
    jobs.run_all();
    assert_eq!(flood(&mut world, TOKEN), 10);
    jobs.run_all();
    assert_eq!(flood(&mut world, TOKEN + 1), 0, "a stranger is not answered");
}
