//! Requests of peers to an executor.

use std::sync::atomic::Ordering;
use std::time::Duration;

use nixl_ops::{Next, OperationOptions, OperationStatus};

use crate::peer::PeerSlot;
use crate::world::{DRAIN, Engine, Memory, Offering, World};

/// A world in which messages are looked for.
fn listening() -> World {
    let world = World::new();
    world.announced.listens.store(true, Ordering::SeqCst);
    world
}

fn serving(world: &mut World) -> std::sync::Arc<Engine> {
    let engine = Engine::pending();
    *world.announced.serves.lock().unwrap() = Some(engine.clone());
    world.inbox.push(b"serve");
    world.reactor.turn();
    engine
}

#[test]
fn messages_are_taken_only_while_a_service_listens() {
    let mut world = World::new();
    world.inbox.push(b"early");
    world.reactor.turn();
    assert_eq!(world.inbox.len(), 1);
    world.clock.advance(Duration::from_millis(500));
    assert!(matches!(world.reactor.turn(), Next::Park(_)));
    assert_eq!(world.inbox.len(), 1);
    world.announced.listens.store(true, Ordering::SeqCst);
    world.reactor.turn();
    assert_eq!(*world.announced.messages.lock().unwrap(), [b"early"]);
    world.clock.advance(Duration::from_secs(1));
    assert!(matches!(world.reactor.turn(), Next::Sleep(_)), "a listener keeps the driver looking");
}

#[test]
fn messages_that_are_not_expected_are_taken_now_and_then() {
    let mut world = World::new();
    *world.announced.checks_every.lock().unwrap() = Some(Duration::from_secs(1));
    world.inbox.push(b"late");
    for passed in [0, 400, 500] {
        world.clock.advance(Duration::from_millis(passed));
        world.reactor.turn();
        assert_eq!(world.inbox.len(), 1);
    }
    world.clock.advance(Duration::from_millis(100));
    world.reactor.turn();
    assert_eq!(*world.announced.messages.lock().unwrap(), [b"late"]);
    world.inbox.push(b"later");
    world.reactor.turn();
    assert_eq!(world.inbox.len(), 1);
}

#[test]
fn what_a_peer_asked_for_is_polled_to_its_end() {
    let mut world = listening();
    let engine = serving(&mut world);
    world.reactor.turn();
    assert!(engine.was_posted() && engine.in_flight());
    assert_eq!(world.driver.stats().active(), 1);
    engine.end(Ok(()));
    world.reactor.turn();
    assert!(engine.is_gone());
    assert_eq!(world.driver.stats().active(), 0);
}

#[test]
fn what_the_slot_says_of_a_claimed_offer_is_for_the_executor_that_claimed_it() {
    let mut world = World::new();
    let memory = Memory::small();
    let writable = world.offer(Offering::writable().with_slot(), &memory);
    let peer = PeerSlot::of(writable.metadata());
    let claim = world.announced.offers.lock().unwrap()[0].claim().unwrap();
    assert!(peer.claim() && peer.written(true));
    world.reactor.turn();
    assert_eq!(writable.status(), OperationStatus::Initialized, "it is claimed");
    let key = writable.metadata().notification_key().clone();
    assert_eq!(*world.announced.by_slot.lock().unwrap(), [key]);
    claim.complete();
    assert_eq!(writable.status(), OperationStatus::Complete);
    assert!(!memory.is_leased());
}

#[test]
fn its_expected_end_is_looked_for_closely() {
    let mut world = listening();
    let engine = Engine::pending();
    engine.expect(Duration::from_micros(5000));
    *world.announced.serves.lock().unwrap() = Some(engine.clone());
    world.inbox.push(b"serve");
    let (mut closely, mut passed) = (Duration::ZERO, Duration::ZERO);
    while passed < Duration::from_micros(10_000) {
        let step = match world.reactor.turn() {
            Next::Spin => Duration::from_micros(1),
            Next::Sleep(time) => time,
            next => panic!("{next:?}"),
        };
        let near = Duration::from_micros(4700)..Duration::from_micros(5300);
        if step <= Duration::from_micros(1) && near.contains(&passed) {
            closely += step;
        }
        world.clock.advance(step);
        passed += step;
    }
    let closely = closely.as_micros();
    assert!((395..=405).contains(&closely), "{closely} us");
    engine.end(Ok(()));
    world.reactor.turn();
}

#[test]
fn once_the_driver_is_dropped_it_is_abandoned_and_then_left() {
    let mut world = listening();
    let engine = serving(&mut world);
    world.reactor.turn();
    let World { driver, mut reactor, clock, announced, .. } = world;
    drop(driver);
    assert!(!matches!(reactor.turn(), Next::Exit), "it is in flight");
    engine.end(Ok(()));
    reactor.turn();
    assert!(engine.is_gone());
    assert_eq!(reactor.turn(), Next::Exit, "though the executor still listens");
    assert!(announced.listens.load(Ordering::SeqCst));
    let _ = clock;
}

#[test]
fn one_that_never_ends_is_left_after_the_drain_time() {
    let mut world = listening();
    let engine = serving(&mut world);
    world.reactor.turn();
    let World { driver, mut reactor, clock, .. } = world;
    drop(driver);
    reactor.turn();
    assert!(!engine.is_gone());
    clock.advance(DRAIN);
    reactor.turn();
    assert!(engine.is_gone());
    assert_eq!(reactor.turn(), Next::Exit);
}

#[test]
fn the_key_of_a_claimed_offer_is_for_the_agent_that_claimed_it() {
    let mut world = World::new();
    let memory = Memory::small();
    let writable = world.writable(&memory, OperationOptions::new()).unwrap();
    let key = writable.metadata().notification_key().clone();
    let claim = world.announced.offers.lock().unwrap()[0].claim().unwrap();
    world.inbox.push(key.as_bytes());
    world.reactor.turn();
    assert_eq!(writable.status(), OperationStatus::Initialized);
    assert_eq!(*world.announced.messages.lock().unwrap(), [key.as_bytes()]);
    claim.complete();
    assert_eq!(writable.status(), OperationStatus::Complete);
    assert!(!memory.is_leased());
}

#[test]
fn steps_keep_the_driver_looking_closely() {
    let mut world = World::new();
    let engine = Engine::pending();
    let read = world.read(&engine, &Memory::large(), OperationOptions::new()).unwrap();
    world.reactor.turn();
    world.clock.advance(Duration::from_secs(1));
    assert!(matches!(world.reactor.turn(), Next::Sleep(_)));
    engine.step();
    assert_eq!(world.reactor.turn(), Next::Spin);
    world.clock.advance(Duration::from_secs(1));
    assert!(matches!(world.reactor.turn(), Next::Sleep(_)));
    engine.end(Ok(()));
    world.reactor.turn();
    assert_eq!(read.status(), OperationStatus::Complete);
}
