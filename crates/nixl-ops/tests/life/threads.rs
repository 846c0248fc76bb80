//! The driver on a thread of its own, with real time.

use std::sync::Arc;
use std::sync::mpsc::channel;
use std::thread;
use std::time::{Duration, Instant};

use nixl_ops::{
    Backoff, ClaimDemand, Driver, DriverConfig, FoundSlot, OperationError, OperationOptions,
    OperationStatus, ReadOperation, RemoteSlots, SystemClock,
};

use crate::peer::PeerSlot;
use crate::world::{Engine, Inbox, Memory, Offering, World, block_on, config};

fn begin(driver: &Arc<Driver>, engine: &Arc<Engine>, len: usize) -> ReadOperation {
    let memory = Memory::of(len);
    let execution = engine.moving(memory.leased());
    ReadOperation::begin(driver, execution, memory.list(), OperationOptions::new()).unwrap()
}

/// Waiters on several threads, engines ended and operations cancelled from others: no wake-up is lost.
#[test]
fn every_waiter_wakes() {
    let inbox = Arc::new(Inbox::default());
    let driver = Arc::new(Driver::spawn(inbox, Arc::new(SystemClock::new()), config()).unwrap());
    thread::scope(|scope| {
        for lane in 0..4 {
            let driver = &driver;
            scope.spawn(move || {
                for round in 0..200 {
                    let engine = Engine::pending();
                    // Small and large, so that both the caller and the driver post.
                    let mut read = begin(driver, &engine, 1 + (round + lane) % 2 * 100);
                    scope.spawn(move || engine.end(Ok(())));
                    block_on(read.wait_for_completion()).unwrap();
                    assert_eq!(read.status(), OperationStatus::Complete);
                }
            });
        }
    });
    assert_eq!(driver.stats().active(), 0);
}

#[test]
fn a_cancelled_operation_gives_its_memory_back_once_the_engine_is_quiet() {
    let inbox = Arc::new(Inbox::default());
    let driver = Arc::new(Driver::spawn(inbox, Arc::new(SystemClock::new()), config()).unwrap());
    let engine = Engine::pending();
    let mut read = begin(&driver, &engine, 1);
    read.cancel();
    let other = thread::spawn(move || engine.end(Ok(())));
    let reclaimed = block_on(read.reclaim());
    assert_eq!(reclaimed.outcome, Err(OperationError::Cancelled));
    assert!(reclaimed.memory.is_some());
    other.join().unwrap();
}

/// A driver that sleeps this long whenever it waits: a wake-up that is lost is seen.
const ASLEEP: Duration = Duration::from_secs(600);

fn sleeping() -> DriverConfig {
    config().backoff(Backoff::default().spin(Duration::ZERO).first_sleep(ASLEEP).max_sleep(ASLEEP))
}

#[test]
fn a_word_in_a_slot_wakes_a_driver_that_sleeps() {
    let mut world = World::new();
    let clock = Arc::new(SystemClock::new());
    world.driver = Arc::new(Driver::spawn(Arc::<Inbox>::default(), clock, sleeping()).unwrap());
    let begun = Instant::now();
    let slots = RemoteSlots::default();
    thread::scope(|scope| {
        let (sender, words) = channel::<(FoundSlot, u32)>();
        scope.spawn(move || {
            for (slot, pause) in words {
                // Before, while, and after the driver goes to sleep.
                (0..pause).for_each(|_| std::hint::spin_loop());
                let FoundSlot::Mapped(slot) = slot else { panic!("{slot:?}") };
                slot.decline().unwrap();
            }
        });
        for round in 0..2000 {
            let offering = Offering::writable().with_slot().claims(ClaimDemand::SameHost);
            let mut offer = world.offer(offering, &Memory::small());
            slots.open(offer.metadata().slot_address().unwrap());
            sender.send((slots.find(offer.metadata()), round % 100 * 100)).unwrap();
            let ended = block_on(offer.wait_for_completion());
            assert_eq!(ended, Err(OperationError::Declined));
            // This process's own wake-ups reach the driver where it sleeps, too.
            let mut copied = begin(&world.driver, &Engine::ready(Ok(())), 1 + 100);
            block_on(copied.wait_for_completion()).unwrap();
        }
        drop(sender);
    });
    assert!(begun.elapsed() < ASLEEP, "a wake-up was lost");
}

#[test]
fn a_peer_that_knows_no_bell_is_heard_all_the_same() {
    let mut world = World::new();
    let clock = Arc::new(SystemClock::new());
    world.driver = Arc::new(Driver::spawn(Arc::<Inbox>::default(), clock, config()).unwrap());
    for _ in 0..20 {
        let offering = Offering::readable().with_slot().claims(ClaimDemand::SameHost);
        let mut offer = world.readable(offering, &Memory::small());
        let slot = PeerSlot::of(offer.metadata());
        thread::scope(|scope| {
            scope.spawn(|| {
                // Long enough for the driver to sleep.
                thread::sleep(Duration::from_millis(5));
                assert!(slot.read(true, 1));
            });
            block_on(offer.wait_for_completion()).unwrap();
        });
    }
}
