//! Deadlines of what comes before an operation.

use std::future::{Future, pending, ready};
use std::pin::pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use nixl_ops::{Next, OperationError, OperationOptions};

use crate::world::{Engine, Memory, World};

const SECOND: Duration = Duration::from_secs(1);

fn poll<F: Future>(future: std::pin::Pin<&mut F>) -> Poll<F::Output> {
    future.poll(&mut Context::from_waker(Waker::noop()))
}

#[test]
fn what_is_ready_at_once_involves_no_driver() {
    let world = World::new();
    let options = OperationOptions::new().timeout(SECOND);
    let within = pin!(world.driver.with_timeout(options, ready(7)));
    assert_eq!(poll(within), Poll::Ready(Ok((7, options))));
    assert_eq!(world.driver.stats().active(), 0);
}

#[test]
fn it_ends_with_the_deadline() {
    let mut world = World::new();
    let options = OperationOptions::new().timeout(SECOND);
    let driver = Arc::clone(&world.driver);
    let mut within = pin!(driver.with_timeout(options, pending::<()>()));
    assert!(poll(within.as_mut()).is_pending());
    world.clock.advance(SECOND / 2);
    world.reactor.turn();
    assert!(poll(within.as_mut()).is_pending());
    world.clock.advance(SECOND / 2);
    world.reactor.turn();
    let timed_out = OperationError::TimedOut { after: SECOND };
    assert_eq!(poll(within), Poll::Ready(Err(timed_out)));
    assert_eq!(world.driver.stats().active(), 0);
}

/// A driver with nothing but waits in hand sleeps until the first deadline, however many they are.
#[test]
fn waits_are_looked_at_by_their_deadlines_alone() {
    let mut world = World::new();
    let driver = Arc::clone(&world.driver);
    let mut waits: Vec<_> = (1..=1000)
        .map(|number| {
            let options = OperationOptions::new().timeout(SECOND / 4 + SECOND / 4 * number / 1000);
            Box::pin(driver.with_timeout(options, pending::<()>()))
        })
        .collect();
    assert!(waits.iter_mut().all(|wait| poll(wait.as_mut()).is_pending()));
    world.reactor.turn();
    world.clock.advance(SECOND / 8);
    world.reactor.turn();
    let Next::Park(Some(until)) = world.reactor.turn() else { panic!("it polls waits") };
    assert_eq!(until, SECOND / 8 + SECOND / 4 / 1000);
    world.clock.advance(until);
    world.reactor.turn();
    let ended = waits.iter_mut().map(|wait| poll(wait.as_mut())).filter(Poll::is_ready);
    assert_eq!(ended.count(), 1);
}

#[test]
fn the_operation_gets_what_is_left() {
    let mut world = World::new();
    let options = OperationOptions::new().timeout(SECOND);
    let driver = Arc::clone(&world.driver);
    let gate = Mutex::new(Poll::Pending);
    let mut within =
        pin!(driver.with_timeout(options, std::future::poll_fn(|_| *gate.lock().unwrap())));
    assert!(poll(within.as_mut()).is_pending());
    world.clock.advance(SECOND / 4);
    *gate.lock().unwrap() = Poll::Ready(());
    let Poll::Ready(Ok(((), options))) = poll(within) else { panic!("it is ready") };
    assert_eq!(world.driver.stats().active(), 0);
    // Three quarters are left of the second, which is what an error still tells of.
    let mut read = world.read(&Engine::pending(), &Memory::small(), options).unwrap();
    world.clock.advance(SECOND / 2);
    world.reactor.turn();
    assert!(poll(pin!(read.wait_for_completion())).is_pending());
    world.clock.advance(SECOND / 4);
    world.reactor.turn();
    let timed_out = OperationError::TimedOut { after: SECOND };
    assert_eq!(poll(pin!(read.wait_for_completion())), Poll::Ready(Err(timed_out)));
}

#[test]
fn dropping_it_leaves_nothing_behind() {
    let world = World::new();
    {
        let options = OperationOptions::new().timeout(SECOND);
        let mut within = pin!(world.driver.with_timeout(options, pending::<()>()));
        assert!(poll(within.as_mut()).is_pending());
        assert_eq!(world.driver.stats().active(), 1);
    }
    assert_eq!(world.driver.stats().active(), 0);
}
