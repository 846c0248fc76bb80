//! The driver's back-off when nothing, or nothing new, is to be done.

use std::time::Duration;

use nixl_ops::{Next, OperationOptions};

use crate::world::{Engine, Memory, World, config};

const MICRO: Duration = Duration::from_micros(1);
/// The default bound on one sleep.
const LONGEST: Duration = Duration::from_micros(1200);

#[test]
fn it_spins_then_sleeps_ever_longer_then_parks() {
    let mut world = World::new();
    let engine = Engine::pending();
    let read = world.read(&engine, &Memory::small(), OperationOptions::new()).unwrap();
    assert_eq!(world.reactor.turn(), Next::Spin);
    world.clock.advance(29 * MICRO);
    assert_eq!(world.reactor.turn(), Next::Spin);
    let mut last = Duration::ZERO;
    for _ in 0..3000 {
        world.clock.advance(10 * MICRO);
        let Next::Sleep(sleep) = world.reactor.turn() else { panic!("it should sleep") };
        assert!(sleep >= last && sleep <= LONGEST);
        last = sleep;
    }
    assert_eq!(last, LONGEST);

    // The end is progress: it stays awake for a moment, then parks.
    engine.end(Ok(()));
    assert_eq!(world.reactor.turn(), Next::Sleep(1000 * MICRO));
    world.clock.advance(400 * MICRO);
    assert_eq!(world.reactor.turn(), Next::Sleep(600 * MICRO));
    world.clock.advance(600 * MICRO);
    assert!(matches!(world.reactor.turn(), Next::Park(_)));
    drop(read);
}

#[test]
fn new_work_makes_it_spin_again() {
    let mut world = World::new();
    let _first = world.read(&Engine::pending(), &Memory::small(), OperationOptions::new()).unwrap();
    world.reactor.turn();
    world.clock.advance(Duration::from_secs(1));
    assert!(matches!(world.reactor.turn(), Next::Sleep(_)));
    let _second =
        world.read(&Engine::pending(), &Memory::small(), OperationOptions::new()).unwrap();
    assert_eq!(world.reactor.turn(), Next::Spin);
}

#[test]
fn a_waiting_target_sleeps_and_does_not_park() {
    let mut world = World::new();
    let writable = world.writable(&Memory::small(), OperationOptions::new()).unwrap();
    assert_eq!(world.reactor.turn(), Next::Spin);
    world.clock.advance(Duration::from_secs(1));
    assert_eq!(world.reactor.turn(), Next::Sleep(LONGEST));
    // One that begins to wait now is not made to pay for how long the other has waited.
    let second = world.writable(&Memory::small(), OperationOptions::new()).unwrap();
    assert_eq!(world.reactor.turn(), Next::Spin);
    drop(second);
    drop(writable);
    world.clock.advance(Duration::from_secs(1));
    assert!(matches!(world.reactor.turn(), Next::Park(_)));
}

#[test]
fn it_exits_when_the_driver_is_gone_and_all_has_ended() {
    let mut world = World::new();
    let (engine, memory) = (Engine::pending(), Memory::small());
    let read = world.read(&engine, &memory, OperationOptions::new()).unwrap();
    let writable = world.writable(&Memory::small(), OperationOptions::new()).unwrap();
    let key = writable.metadata().notification_key().clone();
    drop(world.driver);
    assert_ne!(world.reactor.turn(), Next::Exit, "operations hold the driver");
    drop(read);
    drop(writable);
    assert_ne!(world.reactor.turn(), Next::Exit, "engine and peer are not quiet");
    engine.end(Ok(()));
    assert_ne!(world.reactor.turn(), Next::Exit, "the peer is not quiet");
    assert!(!memory.is_leased());
    world.inbox.push(key.as_bytes());
    assert_eq!(world.reactor.turn(), Next::Exit);
}

fn with_head_start() -> World {
    let config = config().inline_spin(50 * MICRO);
    World::with(config)
}

#[test]
fn callers_look_first_and_the_driver_after_them() {
    let mut world = with_head_start();
    let engine = Engine::pending();
    let _read = world.read(&engine, &Memory::small(), OperationOptions::new()).unwrap();
    assert_eq!(engine.polls(), 1, "it was posted");
    assert_eq!(world.reactor.turn(), Next::Sleep(50 * MICRO));
    world.clock.advance(20 * MICRO);
    assert_eq!(world.reactor.turn(), Next::Sleep(30 * MICRO));
    assert_eq!(engine.polls(), 1);
    world.clock.advance(30 * MICRO);
    assert_eq!(world.reactor.turn(), Next::Spin);
    assert_eq!(engine.polls(), 2, "there may be no other waiter");
}

#[test]
fn a_waiter_is_not_delayed_by_the_callers_of_other_operations() {
    let mut world = with_head_start();
    let first = Engine::pending();
    let _first = world.read(&first, &Memory::small(), OperationOptions::new()).unwrap();
    world.reactor.turn();
    world.clock.advance(50 * MICRO);
    world.reactor.turn();
    let polls = first.polls();
    for more in 1..5 {
        let _other = world.read(&Engine::pending(), &Memory::small(), OperationOptions::new());
        world.reactor.turn();
        assert_eq!(first.polls(), polls + more);
    }
}

#[test]
fn what_the_driver_posts_gets_no_head_start() {
    let mut world = with_head_start();
    let engine = Engine::pending();
    let _read = world.read(&engine, &Memory::large(), OperationOptions::new()).unwrap();
    assert_eq!(engine.polls(), 0);
    assert_eq!(world.reactor.turn(), Next::Spin);
    assert_eq!(engine.polls(), 1);
}
