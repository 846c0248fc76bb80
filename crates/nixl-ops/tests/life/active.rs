//! Operations that an engine carries out.

use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use nixl_ops::{
    CancelOutcome, Driver, MemoryFate, Next, OperationError, OperationOptions, OperationStatus,
    PathKind, ReadOperation,
};

use crate::world::{
    DRAIN, Engine, Memory, Wakes, World, broken, config, is_pending, now, poll, timeout,
};

const SECOND: Duration = Duration::from_secs(1);

#[test]
fn what_the_engine_does_at_once_completes_without_the_driver() {
    let world = World::new();
    let (engine, memory) = (Engine::ready(Ok(())), Memory::small());
    let mut read = world.read(&engine, &memory, OperationOptions::new()).unwrap();
    assert_eq!(read.status(), OperationStatus::Complete);
    assert_eq!(world.driver.stats().active(), 0);
    assert!(engine.is_gone() && !memory.is_leased());
    let completion = now(read.wait_for_completion()).unwrap();
    assert_eq!(completion.bytes(), 64);
    assert_eq!(completion.path().unwrap().kind(), PathKind::Direct);
    assert_eq!(
        now(read.wait_for_completion()).unwrap(),
        completion,
        "asking again changes nothing"
    );
}

#[test]
fn a_small_transfer_completes_in_the_first_poll_of_its_wait() {
    let world = World::new();
    let (engine, memory) = (Engine::pending(), Memory::small());
    let mut read = world.read(&engine, &memory, OperationOptions::new()).unwrap();
    engine.end(Ok(()));
    now(read.wait_for_completion()).unwrap();
    assert_eq!(world.driver.stats().active(), 0);
}

#[test]
fn a_large_transfer_is_never_posted_on_the_callers_thread() {
    let mut world = World::new();
    let (engine, memory) = (Engine::pending(), Memory::large());
    let mut read = world.read(&engine, &memory, OperationOptions::new()).unwrap();
    assert!(is_pending(read.wait_for_completion()));
    assert!(!engine.was_posted());
    world.reactor.turn();
    assert!(engine.was_posted());
}

#[test]
fn the_driver_completes_operations_without_a_waiter() {
    let mut world = World::new();
    for memory in [Memory::small(), Memory::large()] {
        let engine = Engine::pending();
        let read = world.read(&engine, &memory, OperationOptions::new()).unwrap();
        world.reactor.turn();
        assert_eq!(read.status(), OperationStatus::InProgress);
        assert!(memory.is_leased());
        engine.end(Ok(()));
        world.reactor.turn();
        assert_eq!(read.status(), OperationStatus::Complete);
        assert!(!memory.is_leased());
    }
}

#[test]
fn the_waiter_wakes_once_and_finds_its_memory_free() {
    let mut world = World::new();
    let (engine, memory) = (Engine::pending(), Memory::small());
    let mut read = world.read(&engine, &memory, OperationOptions::new()).unwrap();
    let wakes = Arc::new(Wakes::default());
    let mut wait = pin!(read.wait_for_completion());
    assert!(poll(&mut wait, &wakes).is_pending());
    world.reactor.turn();
    assert_eq!(wakes.count(), 0);
    engine.end(Ok(()));
    world.reactor.turn();
    world.reactor.turn();
    assert_eq!(wakes.count(), 1);
    assert!(!memory.is_leased());
    assert!(matches!(poll(&mut wait, &wakes), Poll::Ready(Ok(_))));
}

#[test]
fn an_engines_error_is_the_outcome() {
    let mut world = World::new();
    for memory in [Memory::small(), Memory::large()] {
        let engine = Engine::ready(Err(broken()));
        let mut read = world.read(&engine, &memory, OperationOptions::new()).unwrap();
        world.reactor.turn();
        assert_eq!(read.status(), OperationStatus::Errored);
        assert_eq!(now(read.wait_for_completion()), Err(OperationError::Transport(broken())));
        assert!(!memory.is_leased());
    }
}

#[test]
fn the_deadline_ends_the_wait_and_the_engine_ends_the_lease() {
    let mut world = World::new();
    let (engine, memory) = (Engine::pending(), Memory::small());
    let mut read = world.read(&engine, &memory, timeout(SECOND)).unwrap();
    world.clock.advance(SECOND - Duration::from_nanos(1));
    world.reactor.turn();
    assert_eq!(read.status(), OperationStatus::InProgress);
    world.clock.advance(Duration::from_nanos(1));
    world.reactor.turn();
    let timed_out = OperationError::TimedOut { after: SECOND };
    assert_eq!(now(read.wait_for_completion()), Err(timed_out.clone()));
    assert!(memory.is_leased() && engine.in_flight());
    engine.end(Ok(()));
    world.reactor.turn();
    assert!(!memory.is_leased());
    assert_eq!(now(read.wait_for_completion()), Err(timed_out), "the late end changes nothing");
}

#[test]
fn what_completes_before_the_driver_sees_the_deadline_is_complete() {
    let mut world = World::new();
    let (engine, memory) = (Engine::pending(), Memory::small());
    let mut read = world.read(&engine, &memory, timeout(SECOND)).unwrap();
    engine.end(Ok(()));
    world.clock.advance(2 * SECOND);
    world.reactor.turn();
    assert!(now(read.wait_for_completion()).is_ok());
}

#[test]
fn a_deadline_that_passed_before_the_post_prevents_it() {
    let mut world = World::new();
    let (engine, memory) = (Engine::pending(), Memory::large());
    let read = world.read(&engine, &memory, timeout(SECOND)).unwrap();
    world.clock.advance(SECOND);
    world.reactor.turn();
    assert_eq!(read.status(), OperationStatus::Errored);
    assert!(!engine.was_posted() && !memory.is_leased());
    assert_eq!(world.driver.stats().active(), 0);
}

#[test]
fn cancelling_before_the_post_prevents_it_and_frees_the_memory_at_once() {
    let mut world = World::new();
    let (engine, memory) = (Engine::pending(), Memory::large());
    let mut read = world.read(&engine, &memory, OperationOptions::new()).unwrap();
    assert_eq!(read.cancel(), CancelOutcome::Cancelled);
    assert!(!engine.was_posted() && engine.is_gone() && !memory.is_leased());
    assert_eq!(now(read.wait_for_completion()), Err(OperationError::Cancelled));
    assert_eq!(world.driver.stats().active(), 0);
    world.reactor.turn();
    assert!(!engine.was_posted());
}

#[test]
fn cancelling_in_flight_wakes_the_waiter_and_keeps_the_lease() {
    let mut world = World::new();
    let (engine, memory) = (Engine::pending(), Memory::small());
    let mut read = world.read(&engine, &memory, OperationOptions::new()).unwrap();
    world.reactor.turn();
    assert_eq!(read.cancel(), CancelOutcome::Cancelled);
    assert_eq!(read.cancel(), CancelOutcome::AlreadyEnded(OperationStatus::Cancelled));
    assert_eq!(now(read.wait_for_completion()), Err(OperationError::Cancelled));
    assert!(memory.is_leased());
    let mut reclaim = Box::pin(read.reclaim());
    let wakes = Arc::new(Wakes::default());
    assert!(poll(&mut reclaim, &wakes).is_pending());
    engine.end(Err(broken()));
    world.reactor.turn();
    assert_eq!(wakes.count(), 1);
    let Poll::Ready(reclaimed) = poll(&mut reclaim, &wakes) else { panic!("still pending") };
    assert_eq!(reclaimed.outcome, Err(OperationError::Cancelled));
    assert!(reclaimed.memory.is_some() && !memory.is_leased());
}

#[test]
fn cancelling_after_the_end_changes_nothing() {
    let world = World::new();
    let memory = Memory::small();
    let mut read = world.read(&Engine::ready(Ok(())), &memory, OperationOptions::new()).unwrap();
    assert_eq!(read.cancel(), CancelOutcome::AlreadyEnded(OperationStatus::Complete));
    assert!(now(read.wait_for_completion()).is_ok());
}

#[test]
fn dropping_in_flight_keeps_the_lease_until_the_engine_is_quiet() {
    let mut world = World::new();
    let (engine, memory) = (Engine::pending(), Memory::small());
    drop(world.read(&engine, &memory, OperationOptions::new()).unwrap());
    world.clock.advance(DRAIN / 2);
    world.reactor.turn();
    assert!(memory.is_leased() && !engine.is_gone());
    assert_eq!(world.driver.stats().active(), 1);
    engine.end(Ok(()));
    world.reactor.turn();
    assert!(!memory.is_leased() && engine.is_gone());
    assert_eq!(world.driver.stats().active(), 0);
}

/// Begun after a turn has admitted what is new, and given up before the turn ends.
#[test]
fn what_begins_in_the_last_turn_is_waited_for() {
    let World { driver, mut reactor, .. } = World::new();
    let (first, last, memory) = (Engine::pending(), Engine::pending(), Memory::small());
    let begin = |driver: &Arc<Driver>, engine: &Arc<Engine>, memory: &Memory| {
        let execution = engine.moving(memory.leased());
        ReadOperation::begin(driver, execution, memory.list(), OperationOptions::new()).unwrap()
    };
    let read = begin(&driver, &first, &Memory::small());
    let mut rest = Some((driver, read, Arc::clone(&last), memory.leased(), memory.list()));
    let engine = Arc::clone(&first);
    first.aside(move || {
        if let Some((driver, read, last, leased, list)) = rest.take() {
            let execution = last.moving(leased);
            drop(ReadOperation::begin(&driver, execution, list, OperationOptions::new()).unwrap());
            drop((driver, read));
            engine.end(Ok(()));
        }
    });
    assert!(!matches!(reactor.turn(), Next::Exit), "the last is in flight");
    assert!(last.in_flight() && memory.is_leased());
    last.end(Ok(()));
    assert_eq!(reactor.turn(), Next::Exit);
    assert!(last.is_gone() && !memory.is_leased());
}

#[test]
fn what_never_becomes_quiet_is_counted_and_leaked_when_its_driver_ends() {
    let mut world = World::new();
    let (engine, memory) = (Engine::pending(), Memory::small());
    let mut read = world.read(&engine, &memory, OperationOptions::new()).unwrap();
    read.cancel();
    let before = nixl_descriptor::leaked();
    world.clock.advance(DRAIN - Duration::from_nanos(1));
    world.reactor.turn();
    assert_eq!(world.driver.stats().active(), 1);
    world.clock.advance(Duration::from_nanos(1));
    world.reactor.turn();
    let stats = world.driver.stats();
    assert_eq!((stats.active(), stats.overdue().operations(), stats.overdue().bytes()), (0, 1, 64));
    let reclaimed = now(read.reclaim());
    assert!(reclaimed.memory.is_none());
    assert_eq!(reclaimed.outcome, Err(OperationError::Cancelled));
    assert!(!engine.is_gone() && memory.is_leased());
    drop(world.driver);
    assert_eq!(world.reactor.turn(), Next::Exit, "its drain time is over");
    assert!(engine.is_gone() && memory.is_leased(), "for ever");
    let after = nixl_descriptor::leaked();
    // Other tests of this process leak too.
    assert!(after.leases() > before.leases() && after.bytes() >= before.bytes() + 64);
}

#[test]
fn reclaiming_a_completed_operation_gives_the_memory_back() {
    let world = World::new();
    let memory = Memory::small();
    let read = world.read(&Engine::ready(Ok(())), &memory, OperationOptions::new()).unwrap();
    let reclaimed = now(read.reclaim());
    assert!(reclaimed.outcome.is_ok());
    assert_eq!(reclaimed.memory.unwrap().total_bytes(), 64);
}

#[test]
fn dropping_a_reclaim_cancels() {
    let mut world = World::new();
    let (engine, memory) = (Engine::pending(), Memory::small());
    let read = world.read(&engine, &memory, OperationOptions::new()).unwrap();
    assert!(is_pending(read.reclaim()));
    assert!(memory.is_leased());
    engine.end(Ok(()));
    world.reactor.turn();
    assert!(!memory.is_leased());
}

#[test]
fn a_full_queue_refuses_and_has_room_again_when_one_ends() {
    let config = config().max_in_flight(2);
    let mut world = World::with(config);
    let engines = [Engine::pending(), Engine::pending()];
    let reads: Vec<_> = engines
        .iter()
        .map(|engine| world.read(engine, &Memory::small(), OperationOptions::new()).unwrap())
        .collect();
    let (refused, memory) = (Engine::pending(), Memory::small());
    let error = world.read(&refused, &memory, OperationOptions::new()).unwrap_err();
    assert_eq!(error, OperationError::QueueFull { limit: 2 });
    assert!(!refused.was_posted() && refused.is_gone() && !memory.is_leased());
    engines[0].end(Ok(()));
    world.reactor.turn();
    world.read(&refused, &memory, OperationOptions::new()).unwrap();
    drop(reads);
}

#[test]
fn a_full_queue_is_drained_as_any_other() {
    let mut world = World::with(config().max_in_flight(1));
    let (engine, memory) = (Engine::pending(), Memory::small());
    let _read = world.read(&engine, &memory, OperationOptions::new()).unwrap();
    let driver = Arc::clone(&world.driver);
    let wakes = Arc::new(Wakes::default());
    let mut drained = pin!(driver.until_drained(OperationOptions::new()));
    assert!(poll(&mut drained, &wakes).is_pending());
    world.reactor.turn();
    assert!(poll(&mut drained, &wakes).is_pending());
    engine.end(Ok(()));
    (0..2).for_each(|_| _ = world.reactor.turn());
    assert_eq!(poll(&mut drained, &wakes), Poll::Ready(Ok(())));
}

#[test]
fn thousands_in_flight_all_end() {
    const COUNT: usize = 5000;
    let mut world = World::new();
    let engines: Vec<_> = (0..COUNT).map(|_| Engine::pending()).collect();
    let memories: Vec<_> =
        (0..COUNT).map(|i| if i % 2 == 0 { Memory::small() } else { Memory::large() }).collect();
    let reads: Vec<_> = engines
        .iter()
        .zip(&memories)
        .map(|(engine, memory)| world.read(engine, memory, OperationOptions::new()).unwrap())
        .collect();
    assert_eq!(world.driver.stats().active(), COUNT);
    world.reactor.turn();
    for engine in engines.iter().rev().step_by(3) {
        engine.end(Ok(()));
    }
    world.reactor.turn();
    assert_eq!(world.driver.stats().active(), COUNT - COUNT.div_ceil(3));
    for engine in &engines {
        engine.end(Ok(()));
    }
    world.reactor.turn();
    assert!(reads.iter().all(|read| read.status() == OperationStatus::Complete));
    assert!(memories.iter().all(|memory| !memory.is_leased()));
    assert_eq!(world.driver.stats().active(), 0);
}

/// Each poll takes half a turn, so a turn sees three operations; within a few turns every one must have
/// been seen about equally often.
#[test]
fn a_turn_that_is_cut_short_starves_no_operation() {
    let mut world = World::new();
    let engines: Vec<_> =
        (0..10).map(|_| Engine::slow(&world.clock, Duration::from_micros(500))).collect();
    let _reads: Vec<_> = engines
        .iter()
        .map(|engine| world.read(engine, &Memory::large(), OperationOptions::new()).unwrap())
        .collect();
    for _ in 0..10 {
        assert!(matches!(world.reactor.turn(), Next::Spin | Next::Sleep(_)));
    }
    let polls: Vec<_> = engines.iter().map(|engine| engine.polls()).collect();
    assert_eq!(polls, [3; 10]);
}

#[test]
fn a_copy_settles_when_its_memory_is_free_or_never_will_be() {
    let mut world = World::new();
    let (engine, memory) = (Engine::pending(), Memory::small());
    let mut copy = world.copy(&engine, &memory).unwrap();
    copy.cancel();
    let mut settle = Box::pin(copy.settle());
    assert!(poll(&mut settle, &Arc::default()).is_pending(), "the engine still works");
    engine.end(Ok(()));
    world.reactor.turn();
    let settled = now(settle);
    assert_eq!(settled.outcome, Err(OperationError::Cancelled));
    assert_eq!(settled.memory, MemoryFate::Released);
    assert!(!memory.is_leased());

    let mut copy = world.copy(&Engine::pending(), &memory).unwrap();
    copy.cancel();
    world.reactor.turn();
    world.clock.advance(DRAIN);
    world.reactor.turn();
    assert_eq!(now(copy.settle()).memory, MemoryFate::Leaked);
    assert!(memory.is_leased(), "for ever");
}
