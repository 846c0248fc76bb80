//! Operations that are awaited themselves, and cancelled from elsewhere.

use std::future::IntoFuture;
use std::sync::Arc;
use std::task::Poll;
use std::thread;

use nixl_ops::{
    CancelHandle, CancelOutcome, Driver, OperationError, OperationOptions, OperationStatus,
    ReadOperation, SystemClock,
};

use crate::world::{
    Engine, Inbox, Memory, Offering, Wakes, World, block_on, broken, config, now, poll,
};

#[test]
fn awaiting_an_operation_gives_its_end() {
    let mut world = World::new();
    for result in [Ok(()), Err(broken())] {
        let (engine, memory) = (Engine::pending(), Memory::small());
        let read = world.read(&engine, &memory, OperationOptions::new()).unwrap();
        let (mut future, wakes) = (read.into_future(), Arc::new(Wakes::default()));
        assert!(poll(&mut future, &wakes).is_pending());
        engine.end(result.clone());
        world.reactor.turn();
        assert_eq!(wakes.count(), 1);
        let Poll::Ready(outcome) = poll(&mut future, &wakes) else { panic!("still pending") };
        assert_eq!(outcome.map(|done| done.bytes()), result.map(|()| 64).map_err(Into::into));
        assert!(!memory.is_leased());
    }
}

#[test]
fn dropping_what_awaits_an_operation_cancels_it() {
    let mut world = World::new();
    let (engine, memory) = (Engine::pending(), Memory::small());
    let read = world.read(&engine, &memory, OperationOptions::new()).unwrap();
    let handle = read.cancel_handle();
    let mut future = read.into_future();
    assert!(poll(&mut future, &Arc::default()).is_pending());
    drop(future);
    assert_eq!(handle.status(), OperationStatus::Cancelled);
    assert!(memory.is_leased(), "the engine still works");
    engine.end(Ok(()));
    world.reactor.turn();
    assert!(!memory.is_leased());
}

#[test]
fn an_offer_is_awaited_like_a_transfer() {
    let world = World::new();
    let memory = Memory::small();
    let mut offer = world.readable(Offering::readable(), &memory);
    offer.cancel();
    assert_eq!(now(offer.into_future()), Err(OperationError::Cancelled));
    assert!(!memory.is_leased());
}

#[test]
fn a_handle_cancels_once_and_wakes_the_waiter() {
    let mut world = World::new();
    let (engine, memory) = (Engine::pending(), Memory::small());
    let read = world.read(&engine, &memory, OperationOptions::new()).unwrap();
    let (one, other) = (read.cancel_handle(), read.cancel_handle().clone());
    let (mut reclaim, wakes) = (Box::pin(read.reclaim()), Arc::new(Wakes::default()));
    assert!(poll(&mut reclaim, &wakes).is_pending());
    assert_eq!(one.cancel(), CancelOutcome::Cancelled);
    assert_eq!(wakes.count(), 1);
    let again = CancelOutcome::AlreadyEnded(OperationStatus::Cancelled);
    assert_eq!((one.cancel(), other.cancel()), (again, again));
    assert!(memory.is_leased(), "the engine still works");
    engine.end(Ok(()));
    world.reactor.turn();
    let reclaimed = now(reclaim);
    assert_eq!(reclaimed.outcome, Err(OperationError::Cancelled));
    assert!(reclaimed.memory.is_some());
}

#[test]
fn a_handle_prevents_what_was_not_posted() {
    let mut world = World::new();
    let (engine, memory) = (Engine::pending(), Memory::large());
    let read = world.read(&engine, &memory, OperationOptions::new()).unwrap();
    assert_eq!(read.cancel_handle().cancel(), CancelOutcome::Cancelled);
    assert!(!memory.is_leased() && engine.is_gone());
    world.reactor.turn();
    assert!(!engine.was_posted());
}

#[test]
fn a_handle_of_what_has_ended_changes_nothing() {
    let world = World::new();
    let (engine, memory) = (Engine::ready(Ok(())), Memory::small());
    let read = world.read(&engine, &memory, OperationOptions::new()).unwrap();
    let handle = read.cancel_handle();
    let complete = CancelOutcome::AlreadyEnded(OperationStatus::Complete);
    assert_eq!(handle.cancel(), complete);
    assert!(now(read.into_future()).is_ok());
    assert_eq!(handle.cancel(), complete);
}

#[test]
fn a_handle_keeps_neither_its_operation_nor_the_driver() {
    let world = World::new();
    let (engine, memory) = (Engine::pending(), Memory::small());
    let read = world.read(&engine, &memory, OperationOptions::new()).unwrap();
    let (handle, driver) = (read.cancel_handle(), Arc::downgrade(&world.driver));
    drop((read, world.driver));
    assert_eq!(driver.strong_count(), 0);
    assert_eq!(handle.cancel(), CancelOutcome::AlreadyEnded(OperationStatus::Cancelled));
}

/// Ends and cancels race: the waiter learns of the one that won, and every handle of the same.
#[test]
fn an_end_and_a_cancel_race_to_one_outcome() {
    let inbox = Arc::new(Inbox::default());
    let driver = Arc::new(Driver::spawn(inbox, Arc::new(SystemClock::new()), config()).unwrap());
    for round in 0..200 {
        let (engine, memory) = (Engine::pending(), Memory::of(1 + round % 2 * 100));
        let execution = engine.moving(memory.leased());
        let read = ReadOperation::begin(&driver, execution, memory.list(), OperationOptions::new());
        let read = read.unwrap();
        let handles: [CancelHandle; 2] = [read.cancel_handle(), read.cancel_handle()];
        thread::scope(|scope| {
            scope.spawn(|| engine.end(Ok(())));
            let cancels = handles.each_ref().map(|handle| scope.spawn(|| handle.cancel()));
            let outcome = block_on(read.into_future());
            let cancels = cancels.map(|cancel| cancel.join().unwrap());
            let won = cancels.iter().filter(|won| **won == CancelOutcome::Cancelled).count();
            let status = match outcome {
                Ok(_) => OperationStatus::Complete,
                Err(OperationError::Cancelled) => OperationStatus::Cancelled,
                Err(error) => panic!("{error}"),
            };
            assert_eq!(won, usize::from(status == OperationStatus::Cancelled));
            assert!(handles.iter().all(|handle| handle.status() == status));
        });
    }
}
