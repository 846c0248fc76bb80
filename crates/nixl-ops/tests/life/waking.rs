//! Executions that wake need no polls.

use std::sync::Arc;
use std::time::Duration;

use nixl_ops::{Next, OperationError, OperationOptions, OperationStatus};

use crate::world::{DRAIN, Engine, Memory, World, is_pending, now, timeout};

const SECOND: Duration = Duration::from_secs(1);

fn waking() -> Arc<Engine> {
    let engine = Engine::pending();
    engine.set_wakes();
    engine
}

/// Turns until the driver parks, for how long at most.
fn parks(world: &mut World) -> Option<Duration> {
    for _ in 0..1000 {
        match world.reactor.turn() {
            Next::Spin => world.clock.advance(Duration::from_micros(1)),
            Next::Sleep(time) => world.clock.advance(time),
            Next::Park(bound) => return bound,
            Next::Exit => panic!("the driver was not dropped"),
        }
    }
    panic!("it goes on looking");
}

#[test]
fn the_driver_parks_and_looks_when_it_is_woken() {
    let (mut world, engine) = (World::new(), waking());
    let mut read = world.read(&engine, &Memory::small(), OperationOptions::new()).unwrap();
    assert!(is_pending(read.wait_for_completion()));
    parks(&mut world);
    let polls = engine.polls();
    world.clock.advance(SECOND / 2);
    world.reactor.turn();
    assert_eq!(engine.polls(), polls, "nothing has woken it");
    engine.wake();
    world.reactor.turn();
    assert_eq!(engine.polls(), polls + 1);
    parks(&mut world);
    engine.end(Ok(()));
    world.reactor.turn();
    assert_eq!(read.status(), OperationStatus::InProgress);
    engine.wake();
    world.reactor.turn();
    now(read.wait_for_completion()).unwrap();
    assert!(engine.is_gone());
}

#[test]
fn one_that_is_polled_keeps_the_driver_looking_and_is_looked_at_alone() {
    let (mut world, wakes, polled) = (World::new(), waking(), Engine::pending());
    let memory = [Memory::small(), Memory::small()];
    let _first = world.read(&wakes, &memory[0], OperationOptions::new()).unwrap();
    let _second = world.read(&polled, &memory[1], OperationOptions::new()).unwrap();
    for _ in 0..10 {
        assert!(matches!(world.reactor.turn(), Next::Spin | Next::Sleep(_)));
        world.clock.advance(Duration::from_millis(10));
    }
    assert_eq!((wakes.polls(), polled.polls()), (1, 11));
    polled.end(Ok(()));
    world.reactor.turn();
    parks(&mut world);
}

#[test]
fn a_lost_wake_costs_a_second_at_most() {
    let (mut world, engine) = (World::new(), waking());
    let mut read = world.read(&engine, &Memory::small(), OperationOptions::new()).unwrap();
    engine.end(Ok(()));
    let bound = parks(&mut world).unwrap();
    assert!(bound <= SECOND, "{bound:?}");
    assert_eq!(engine.polls(), 1);
    world.clock.advance(bound);
    world.reactor.turn();
    now(read.wait_for_completion()).unwrap();
}

#[test]
fn the_deadline_ends_what_lost_its_wake() {
    let (mut world, engine, memory) = (World::new(), waking(), Memory::small());
    let after = Duration::from_millis(20);
    let mut read = world.read(&engine, &memory, timeout(after)).unwrap();
    let bound = parks(&mut world).unwrap();
    assert!(bound <= after);
    world.clock.advance(bound);
    world.reactor.turn();
    assert_eq!(now(read.wait_for_completion()), Err(OperationError::TimedOut { after }));
    // Its memory comes back when the engine is quiet, by a wake or late.
    assert!(memory.is_leased());
    engine.end(Ok(()));
    engine.wake();
    world.reactor.turn();
    assert!(!memory.is_leased());
}

#[test]
fn a_cancelled_one_is_drained_and_then_overdue() {
    let (mut world, engine, memory) = (World::new(), waking(), Memory::small());
    let mut read = world.read(&engine, &memory, OperationOptions::new()).unwrap();
    parks(&mut world);
    read.cancel();
    assert_eq!(now(read.wait_for_completion()), Err(OperationError::Cancelled));
    world.clock.advance(DRAIN);
    world.reactor.turn();
    assert_eq!(world.driver.stats().overdue().operations(), 1);
    engine.end(Ok(()));
    engine.wake();
    world.reactor.turn();
    assert_eq!(world.driver.stats().overdue().operations(), 0, "the wake ends it");
    assert!(!memory.is_leased());
}

#[test]
fn a_wake_during_a_poll_is_for_the_next() {
    let (mut world, engine) = (World::new(), waking());
    let woken = Arc::clone(&engine);
    engine.aside(move || {
        if woken.polls() == 2 {
            woken.wake();
        }
    });
    let _read = world.read(&engine, &Memory::small(), OperationOptions::new()).unwrap();
    parks(&mut world);
    engine.wake();
    world.reactor.turn();
    assert_eq!(engine.polls(), 2);
    world.reactor.turn();
    assert_eq!(engine.polls(), 3, "it was woken while it was polled");
    parks(&mut world);
    assert_eq!(engine.polls(), 3);
}
