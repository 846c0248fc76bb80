//! The sleeps of a driver's thread under every interleaving with its wake-ups. Run by `cargo xtask loom`.
#![allow(clippy::unwrap_used, reason = "tests")]

use std::pin::pin;
use std::task::Poll;

use loom::sync::Arc as LoomArc;
use loom::thread;
use nixl_metadata::{NotificationKey, OperationKind};

use super::*;
use crate::slots::OfferSlot;
use crate::sync::ModelClock;
use crate::{CompletionCell, OperationStatus};

const LONG: Duration = Duration::from_secs(600);

/// Work and where its thread sleeps, which is this one.
struct World {
    parking: Parking,
    fresh: AtomicBool,
    _slot: OfferSlot,
}

impl World {
    fn new() -> LoomArc<Self> {
        let page = Arc::<OfferPage>::default();
        // The page is made with the first offer.
        let slot = page.arm(&NotificationKey::random(), OperationKind::Write).unwrap();
        let parking = Parking::new(page);
        parking.set_thread(thread::current());
        LoomArc::new(Self { parking, fresh: AtomicBool::new(false), _slot: slot })
    }

    fn take_work(&self) -> bool {
        self.fresh.swap(false, Ordering::SeqCst)
    }

    /// Another thread of this process gives work, and wakes this one.
    fn give(world: &LoomArc<Self>, wake: fn(&Parking)) -> thread::JoinHandle<()> {
        let world = LoomArc::clone(world);
        thread::spawn(move || {
            world.fresh.store(true, Ordering::SeqCst);
            wake(&world.parking);
        })
    }

    /// Sleeps on the bell until there is work.
    fn sleep_until_work(&self) {
        let mut listener = DoorbellListener::new();
        loop {
            listener.listen(&self.parking);
            if self.take_work() {
                break;
            }
            self.parking.sleep(&ModelClock, LONG, &mut listener, true);
        }
    }
}

#[test]
fn loom_work_ends_a_sleep_on_the_bell() {
    loom::model(|| {
        let world = World::new();
        let giver = World::give(&world, Parking::wake);
        world.sleep_until_work();
        giver.join().unwrap();
    });
}

#[test]
fn loom_work_ends_a_long_sleep() {
    loom::model(|| {
        let world = World::new();
        let giver = World::give(&world, Parking::wake_if_parked);
        while !world.take_work() {
            let is_work = || world.fresh.load(Ordering::SeqCst);
            world.parking.park(&ModelClock, is_work, || None);
        }
        giver.join().unwrap();
    });
}

/// Rings of a peer that bring no change cost turns, and hide no work of this process.
#[test]
fn loom_a_peer_that_rings_without_a_word_hides_no_work() {
    loom::model(|| {
        let world = World::new();
        let giver = World::give(&world, Parking::wake);
        let peer = {
            let world = LoomArc::clone(&world);
            thread::spawn(move || {
                let memory = world.parking.page.memory().unwrap();
                let rings = memory.half_word(nixl_metadata::SlotAddress::DOORBELL).unwrap();
                rings.fetch_add(1, Ordering::SeqCst);
            })
        };
        world.sleep_until_work();
        giver.join().unwrap();
        peer.join().unwrap();
    });
}

/// A peer that is stopped between what it writes to the bell and its wake-up keeps no wake-up of this process from the thread.
#[test]
fn loom_a_peer_that_stops_amid_its_ring_hides_no_work() {
    loom::model(|| {
        let world = World::new();
        let giver = World::give(&world, Parking::wake);
        let peer = {
            let world = LoomArc::clone(&world);
            thread::spawn(move || {
                let memory = world.parking.page.memory().unwrap();
                let bell =
                    |at| memory.half_word(nixl_metadata::SlotAddress::DOORBELL + at).unwrap();
                bell(0).fetch_add(1, Ordering::SeqCst);
                bell(1).swap(0, Ordering::SeqCst);
            })
        };
        world.sleep_until_work();
        giver.join().unwrap();
        peer.join().unwrap();
    });
}

/// A thread that waits on the bell while the driver's thread goes to sleep there, or leaves, and a peer rings once.
#[test]
fn loom_a_ring_ends_the_wait_of_another_thread() {
    loom::model(|| {
        let world = World::new();
        let waiter = {
            let world = LoomArc::clone(&world);
            thread::spawn(move || {
                let bell = world.parking.take_doorbell().unwrap();
                let told = std::future::poll_fn(|_| match world.take_work() {
                    true => Poll::Ready(()),
                    false => Poll::Pending,
                });
                bell.run(&ModelClock, pin!(told), &mut || false).unwrap();
                drop(bell);
                // The driver's thread has nothing else to wait for in this model.
                world.parking.wake();
            })
        };
        let peer = {
            let world = LoomArc::clone(&world);
            thread::spawn(move || {
                world.fresh.store(true, Ordering::SeqCst);
                world.parking.page.doorbell().unwrap().ring();
            })
        };
        // One sleep of the driver's thread.
        let mut listener = DoorbellListener::new();
        listener.listen(&world.parking);
        world.parking.sleep(&ModelClock, LONG, &mut listener, true);
        waiter.join().unwrap();
        peer.join().unwrap();
    });
}

/// What the driver's thread finds ends the wait of a thread that has the bell.
#[test]
fn loom_an_end_of_this_process_ends_the_wait_of_another_thread() {
    loom::model(|| {
        let world = World::new();
        let cell = CompletionCell::<u32>::new();
        cell.advance(OperationStatus::Initialized);
        let cell = LoomArc::new(cell);
        let driver = {
            let cell = LoomArc::clone(&cell);
            thread::spawn(move || cell.finish_quiet(OperationStatus::Errored, 7))
        };
        let bell = world.parking.take_doorbell().unwrap();
        assert!(world.parking.take_doorbell().is_none(), "one at a time");
        let end = std::future::poll_fn(|cx| cell.poll_outcome(cx.waker()));
        assert_eq!(bell.run(&ModelClock, pin!(end), &mut || false), Some(7));
        driver.join().unwrap();
    });
}
