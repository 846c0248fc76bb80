//! Containment of panics: each ends its own operation, and nothing else.

use std::future::Future as _;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Wake, Waker};
use std::time::Duration;

use metrics::{
    Counter, Gauge, Histogram, Key, KeyName, Metadata, Recorder, SharedString, Unit,
    with_local_recorder,
};
use nixl_descriptor::{Access, Region};
use nixl_device::Device;
use nixl_ops::{
    ClaimDemand, Next, OperationError, OperationOptions, OperationStatus, TransportError,
};

use crate::world::{DRAIN, Engine, Memory, Offering, World, now, poll};

fn panicked(error: &OperationError) -> bool {
    matches!(error, OperationError::Transport(TransportError::Panicked { .. }))
}

struct Panics;

impl Wake for Panics {
    fn wake(self: Arc<Self>) {
        panic!("a waker's panic");
    }
}

#[test]
fn a_waker_that_panics_costs_no_other_operation() {
    let mut world = World::new();
    let engines: Vec<_> = (0..3).map(|_| Engine::pending()).collect();
    let begin = |engine| world.read(engine, &Memory::small(), OperationOptions::new()).unwrap();
    let mut reads: Vec<_> = engines.iter().map(begin).collect();
    let waker = Waker::from(Arc::new(Panics));
    {
        let mut wait = pin!(reads[0].wait_for_completion());
        assert!(wait.as_mut().poll(&mut Context::from_waker(&waker)).is_pending());
    }
    engines.iter().for_each(|engine| engine.end(Ok(())));
    world.reactor.turn();
    for read in &mut reads {
        assert_eq!(read.status(), OperationStatus::Complete);
        assert!(now(read.wait_for_completion()).is_ok());
    }
    assert_eq!(world.driver.stats().active(), 0);
}

#[test]
fn an_execution_that_panics_ends_its_own_operation() {
    for in_flight in [false, true] {
        let mut world = World::new();
        let (engine, memory) = (Engine::pending(), Memory::large());
        let other = Engine::pending();
        let mut read = world.read(&engine, &memory, OperationOptions::new()).unwrap();
        let mut next = world.read(&other, &Memory::large(), OperationOptions::new()).unwrap();
        if in_flight {
            world.reactor.turn();
        }
        engine.aside(|| panic!("an engine's panic"));
        other.end(Ok(()));
        world.reactor.turn();
        assert!(panicked(&now(read.wait_for_completion()).unwrap_err()));
        assert!(engine.is_gone());
        assert_eq!(memory.is_leased(), in_flight, "what was in flight may be written");
        assert_eq!(now(read.reclaim()).memory.is_some(), !in_flight);
        assert!(now(next.wait_for_completion()).is_ok());
        assert_eq!(world.driver.stats().active(), 0);
    }
}

/// Memory whose owner panics when it is dropped, and says that it was.
fn bomb(dropped: &Arc<AtomicBool>) -> Memory {
    struct Bomb(Arc<AtomicBool>, #[expect(dead_code, reason = "the memory")] Box<[u8]>);
    impl Drop for Bomb {
        fn drop(&mut self) {
            self.0.store(true, Ordering::SeqCst);
            panic!("a destructor's panic");
        }
    }
    let bytes = Box::leak(vec![0u8; 64].into_boxed_slice());
    let (ptr, len) = (std::ptr::NonNull::from(&mut bytes[0]), bytes.len());
    let owner = Bomb(Arc::clone(dropped), Box::default());
    // SAFETY: the bytes are leaked, so they stay valid for ever, and nothing else uses them.
    #[allow(unsafe_code, reason = "memory of a kind of its own")]
    let region =
        unsafe { Region::from_raw_parts(ptr, len, Device::HOST, Access::ReadWrite, owner) };
    Memory::from(region.unwrap())
}

#[test]
fn memory_whose_destructor_panics_costs_no_other_operation() {
    let mut world = World::new();
    let dropped = Arc::<AtomicBool>::default();
    let (engine, other) = (Engine::pending(), Engine::pending());
    let memory = bomb(&dropped);
    drop(world.read(&engine, &memory, OperationOptions::new()).unwrap());
    drop(memory);
    let offered = bomb(&Arc::default());
    let offer = world.readable(Offering::readable().claims(ClaimDemand::SameHost), &offered);
    drop(offered);
    drop(offer);
    let mut read = world.read(&other, &Memory::small(), OperationOptions::new()).unwrap();
    [&engine, &other].iter().for_each(|engine| engine.end(Ok(())));
    assert!(!dropped.load(Ordering::SeqCst), "the driver has the last handle");
    world.reactor.turn();
    assert!(dropped.load(Ordering::SeqCst));
    assert!(now(read.wait_for_completion()).is_ok());
    assert_eq!(world.driver.stats().active(), 0);
}

#[test]
fn a_driver_that_ends_fails_everything_at_once() {
    let ended = || OperationError::Transport(TransportError::ThreadEnded { thread: "nixl-driver" });
    let world = World::new();
    let (begun, posted) = (Memory::large(), Memory::small());
    let mut reads = [&begun, &posted]
        .map(|memory| world.read(&Engine::pending(), memory, OperationOptions::new()).unwrap());
    let mut wait = Box::pin(reads[1].wait_for_completion());
    assert!(poll(&mut wait, &Arc::default()).is_pending());
    let mut offer = world.readable(Offering::readable(), &Memory::small());
    drop(world.reactor);
    assert_eq!(now(wait), Err(ended()));
    assert_eq!(now(reads[0].wait_for_completion()), Err(ended()));
    assert!(!begun.is_leased(), "it was not posted");
    assert!(posted.is_leased(), "it was");
    assert_eq!(now(offer.wait_for_completion()), Err(ended()));

    let (engine, memory) = (Engine::pending(), Memory::small());
    let leased = memory.leased();
    let begin = nixl_ops::ReadOperation::begin(
        &world.driver,
        engine.moving(leased),
        memory.list(),
        OperationOptions::new(),
    );
    assert_eq!(begin.unwrap_err(), ended());
    assert!(!engine.was_posted() && !memory.is_leased());
}

#[test]
fn a_turn_that_panics_is_not_the_last() {
    let mut world = World::new();
    let engine = Engine::pending();
    engine.aside(|| std::panic::panic_any(7));
    let read = world.read(&engine, &Memory::large(), OperationOptions::new()).unwrap();
    assert_ne!(world.reactor.turn(), Next::Exit);
    assert_eq!(read.status(), OperationStatus::Errored);
    world.clock.advance(DRAIN + Duration::from_secs(1));
    assert!(matches!(world.reactor.turn(), Next::Park(_)));
}

/// Panics when a message is counted that was for no operation.
struct PanickingRecorder;

impl Recorder for PanickingRecorder {
    fn describe_counter(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}
    fn describe_gauge(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}
    fn describe_histogram(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}

    fn register_counter(&self, key: &Key, _: &Metadata<'_>) -> Counter {
        assert!(!key.name().starts_with("nixl_unexpected"), "a recorder's panic");
        Counter::noop()
    }

    fn register_gauge(&self, _: &Key, _: &Metadata<'_>) -> Gauge {
        Gauge::noop()
    }

    fn register_histogram(&self, _: &Key, _: &Metadata<'_>) -> Histogram {
        Histogram::noop()
    }
}

#[test]
fn a_recorder_that_panics_loses_no_message_of_others() {
    let mut world = World::new();
    let mut offer = world.offer(Offering::writable(), &Memory::small());
    // What no executor takes.
    world.inbox.push(b"serve");
    world.inbox.push(offer.metadata().notification_key().as_bytes());
    with_local_recorder(&PanickingRecorder, || world.reactor.turn());
    assert!(now(offer.wait_for_completion()).is_ok());
    assert_eq!(world.driver.stats().unexpected_notifications(), 1);
}
