//! Tests of the wake-ups of a driver's thread, also against a peer that misuses the page.
#![allow(clippy::unwrap_used, reason = "tests")]

use std::future::poll_fn;
use std::io::{BufRead as _, BufReader, Write as _};
use std::pin::pin;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, AtomicU64};
use std::sync::{Barrier, Mutex};
use std::task::Poll;
use std::thread;
use std::time::Instant;

use nixl_descriptor::{SharedMemory, SharedName};
use nixl_metadata::{NotificationKey, OperationKind, SlotAddress};
use proptest::prelude::*;

use super::*;
use crate::SystemClock;
use crate::slots::OfferSlot;

/// A sleep that is this long is one whose wake-up was lost.
const LONG: Duration = Duration::from_secs(600);

fn parking() -> (Arc<OfferPage>, OfferSlot, Parking) {
    let page = Arc::<OfferPage>::default();
    // The file is made with the first offer.
    let slot = page.arm(&NotificationKey::random(), OperationKind::Write).unwrap();
    let parking = Parking::new(Arc::clone(&page));
    parking.set_thread(thread::current());
    (page, slot, parking)
}

/// How a thread went to sleep.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Slept {
    OnBell,
    Without,
}

/// A clock on which no sleep takes time, and which a peer's ring ends.
#[derive(Debug, Default)]
struct Peer {
    slept: Mutex<Vec<Slept>>,
    rings: bool,
}

impl Clock for Peer {
    fn now(&self) -> Duration {
        Duration::ZERO
    }

    fn park(&self, _: Option<Duration>) {
        self.slept.lock().unwrap().push(Slept::Without);
    }

    fn park_on(&self, word: &AtomicU32, seen: u32, _: Duration) {
        assert_eq!(word.load(Ordering::SeqCst), seen);
        self.slept.lock().unwrap().push(Slept::OnBell);
        if self.rings {
            word.fetch_add(1, Ordering::SeqCst);
        }
    }

    fn unix_time(&self) -> Duration {
        Duration::ZERO
    }
}

/// A turn that finds a change or none, and the sleep after it.
fn turn(parking: &Parking, clock: &Peer, listener: &mut DoorbellListener, found: bool) {
    listener.listen(parking);
    listener.looked(found);
    parking.sleep(clock, LONG, listener, true);
}

#[test]
fn rings_without_a_word_end_every_other_sleep_at_most() {
    let (_page, _slot, parking) = parking();
    let (clock, mut listener) = (Peer { rings: true, ..Peer::default() }, DoorbellListener::new());
    (0..1000).for_each(|_| turn(&parking, &clock, &mut listener, false));
    let slept = clock.slept.lock().unwrap();
    let (first, rest) = slept.split_at(DoorbellListener::PATIENCE as usize);
    assert!(first.iter().all(|slept| *slept == Slept::OnBell));
    for pair in rest.chunks_exact(2) {
        assert_eq!(pair, [Slept::Without, Slept::OnBell]);
    }
}

#[test]
fn a_word_makes_up_for_the_rings_without() {
    let (_page, _slot, parking) = parking();
    let (clock, mut listener) = (Peer { rings: true, ..Peer::default() }, DoorbellListener::new());
    for at in 0..1000 {
        turn(&parking, &clock, &mut listener, at % DoorbellListener::PATIENCE == 0);
    }
    assert!(clock.slept.lock().unwrap().iter().all(|slept| *slept == Slept::OnBell));
}

#[test]
fn sleeps_that_no_ring_ends_stay_on_the_bell() {
    let (_page, _slot, parking) = parking();
    let (clock, mut listener) = (Peer::default(), DoorbellListener::new());
    for at in 0..1000 {
        // Nor do those count that this process ends.
        if at % 2 == 0 {
            parking.wake();
        }
        turn(&parking, &clock, &mut listener, false);
    }
    let slept = clock.slept.lock().unwrap();
    assert_eq!(slept.len(), 500, "a thread that was woken does not sleep");
    assert!(slept.iter().all(|slept| *slept == Slept::OnBell));
}

#[test]
fn without_a_page_or_an_offer_it_sleeps_without_the_bell() {
    let empty = Parking::new(Arc::default());
    let (clock, mut listener) = (Peer::default(), DoorbellListener::new());
    turn(&empty, &clock, &mut listener, false);
    let (_page, _slot, parking) = parking();
    listener.listen(&parking);
    parking.sleep(&clock, LONG, &mut listener, false);
    assert_eq!(*clock.slept.lock().unwrap(), [Slept::Without; 2]);
}

/// Sleeps until `is_over`. Returns whether no sleep had to end by itself.
fn sleep_until(parking: &Parking, clock: &SystemClock, is_over: impl Fn() -> bool) -> bool {
    let (mut listener, begun) = (DoorbellListener::new(), Instant::now());
    loop {
        listener.listen(parking);
        if is_over() {
            return begun.elapsed() < LONG;
        }
        // A look that finds nothing is not held against those who ring here.
        listener.looked(true);
        parking.sleep(clock, LONG, &mut listener, true);
    }
}

#[test]
fn no_wake_up_of_this_process_or_ring_of_another_is_lost() {
    const ROUNDS: u64 = 20_000;
    let (page, _slot, parking) = parking();
    let (clock, barrier) = (SystemClock::new(), Barrier::new(3));
    let told = [AtomicU64::new(0), AtomicU64::new(0)];
    thread::scope(|scope| {
        for (by, told) in told.iter().enumerate() {
            let (page, parking, barrier) = (&page, &parking, &barrier);
            scope.spawn(move || {
                for round in 1..=ROUNDS {
                    told.store(round, Ordering::SeqCst);
                    match by {
                        0 => parking.wake(),
                        _ => _ = page.doorbell().unwrap().ring(),
                    }
                    barrier.wait();
                }
            });
        }
        for round in 1..=ROUNDS {
            let all = || told.iter().all(|told| told.load(Ordering::SeqCst) == round);
            assert!(sleep_until(&parking, &clock, all), "a wake-up was lost");
            barrier.wait();
        }
    });
}

#[test]
fn a_peer_that_unrings_delays_by_one_sleep_at_most() {
    const ROUNDS: u64 = 300;
    const SLEEP: Duration = Duration::from_millis(1);
    let (page, _slot, parking) = parking();
    let (clock, barrier) = (SystemClock::new(), Barrier::new(2));
    let (told, over) = (AtomicU64::new(0), AtomicBool::new(false));
    thread::scope(|scope| {
        scope.spawn(|| {
            let memory = page.memory().unwrap();
            while !over.load(Ordering::SeqCst) {
                for at in [SlotAddress::DOORBELL, SlotAddress::DOORBELL + 1] {
                    memory.half_word(at).unwrap().store(0, Ordering::SeqCst);
                }
                thread::yield_now();
            }
        });
        scope.spawn(|| {
            for round in 1..=ROUNDS {
                told.store(round, Ordering::SeqCst);
                parking.wake();
                barrier.wait();
            }
        });
        let mut listener = DoorbellListener::new();
        for round in 1..=ROUNDS {
            // Were a sleep without end, this would be.
            while told.load(Ordering::SeqCst) != round {
                turn_of(&parking, &clock, &mut listener, SLEEP);
            }
            barrier.wait();
        }
        over.store(true, Ordering::SeqCst);
    });
}

fn turn_of(
    parking: &Parking,
    clock: &SystemClock,
    listener: &mut DoorbellListener,
    time: Duration,
) {
    listener.listen(parking);
    listener.looked(false);
    parking.sleep(clock, time, listener, true);
}

proptest! {
    /// A peer that writes over the bell keeps the owner neither asleep nor awake.
    #[test]
    fn any_bell_is_one(rings: u32, asleep: u32, woken: bool) {
        let (page, _slot, parking) = parking();
        let memory = page.memory().unwrap();
        memory.half_word(SlotAddress::DOORBELL).unwrap().store(rings, Ordering::SeqCst);
        memory.half_word(SlotAddress::DOORBELL + 1).unwrap().store(asleep, Ordering::SeqCst);
        let (clock, mut listener) = (Peer::default(), DoorbellListener::new());
        if woken {
            parking.wake();
        }
        turn(&parking, &clock, &mut listener, false);
        page.doorbell().unwrap().ring();
        prop_assert_eq!(page.doorbell().unwrap().rings(), rings.wrapping_add(1));
        prop_assert_eq!(clock.slept.lock().unwrap().len(), usize::from(!woken));
    }
}

/// What the other process is told.
const TASK: &str = "NIXL_TEST_BELL_CHILD";

/// No test, but what the other process runs: it rings once for each line.
#[test]
#[ignore = "run by another test, in a process of its own"]
fn child() {
    let Ok(task) = std::env::var(TASK) else { return };
    let words: Vec<_> = task.split(' ').collect();
    let number = |index: usize| words[index].parse::<u64>().unwrap();
    let name = SharedName {
        pid: number(0) as u32,
        fd: number(1) as u32,
        name: u128::from_str_radix(words[2], 16).unwrap().to_be_bytes(),
        len: number(3),
    };
    let memory = SharedMemory::open(&name).unwrap();
    for line in std::io::stdin().lines() {
        let slot: u32 = line.unwrap().parse().unwrap();
        assert!(crate::slots::ring(&memory, slot).is_some());
    }
}

struct Ringer(Child);

impl Ringer {
    fn start(memory: &SharedMemory) -> Self {
        let SharedName { pid, fd, name, len } = memory.name();
        let random = u128::from_be_bytes(name);
        let mut command = Command::new("/proc/self/exe");
        command
            .args(["--exact", "parking::tests::child", "--ignored", "--nocapture"])
            .env(TASK, format!("{pid} {fd} {random:x} {len}"));
        Self(command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap())
    }

    fn tell(&mut self, slot: u32) {
        writeln!(self.0.stdin.as_mut().unwrap(), "{slot}").unwrap();
    }
}

impl Drop for Ringer {
    fn drop(&mut self) {
        self.0.stdin = None;
        let output = BufReader::new(self.0.stdout.take().unwrap());
        let _ = output.lines().map_while(Result::ok).count();
        let _ = self.0.wait();
    }
}

#[test]
fn another_process_wakes_the_owner() {
    let (page, slot, parking) = parking();
    let memory = page.memory().unwrap();
    let mut ringer = Ringer::start(memory);
    let clock = SystemClock::new();
    let bits = memory.word(0).unwrap();
    for _ in 0..200 {
        ringer.tell(slot.address().slot());
        assert!(sleep_until(&parking, &clock, || bits.swap(0, Ordering::SeqCst) != 0));
    }
}

/// Takes the doorbell, and waits until `is_over`. `None` if the rings without a change are too many.
fn wait_on_bell(parking: &Parking, clock: &dyn Clock, is_over: &dyn Fn() -> bool) -> Option<()> {
    let bell = parking.take_doorbell().unwrap();
    let over = poll_fn(|_| match is_over() {
        true => Poll::Ready(()),
        false => Poll::Pending,
    });
    bell.run(clock, pin!(over), &mut || false)
}

#[test]
fn another_process_wakes_a_thread_that_waits_while_the_owner_sleeps() {
    let page = Arc::<OfferPage>::default();
    let slot = page.arm(&NotificationKey::random(), OperationKind::Write).unwrap();
    let parking = Parking::new(Arc::clone(&page));
    let memory = page.memory().unwrap();
    let mut ringer = Ringer::start(memory);
    let clock = SystemClock::new();
    let bits = memory.word(0).unwrap();
    let over = AtomicBool::new(false);
    thread::scope(|scope| {
        let owner = scope.spawn(|| sleep_until(&parking, &clock, || over.load(Ordering::SeqCst)));
        parking.set_thread(owner.thread().clone());
        for _ in 0..200 {
            ringer.tell(slot.address().slot());
            let waited = wait_on_bell(&parking, &clock, &|| bits.swap(0, Ordering::SeqCst) != 0);
            assert_eq!(waited, Some(()));
        }
        over.store(true, Ordering::SeqCst);
        parking.wake();
        assert!(owner.join().unwrap());
    });
}

#[test]
fn a_thread_that_waits_leaves_the_bell_to_the_owner_after_rings_without_a_word() {
    let (_page, _slot, parking) = parking();
    let clock = Peer { rings: true, ..Peer::default() };
    assert_eq!(wait_on_bell(&parking, &clock, &|| false), None);
    assert_eq!(clock.slept.lock().unwrap().len(), DoorbellListener::PATIENCE as usize);
    // The bell is free again.
    assert_eq!(wait_on_bell(&parking, &clock, &|| true), Some(()));
}

#[test]
fn one_thread_at_a_time_waits_on_the_bell_and_the_owner_sleeps_without_it_meanwhile() {
    let (_page, _slot, parking) = parking();
    let (clock, mut listener) = (Peer::default(), DoorbellListener::new());
    let bell = parking.take_doorbell().unwrap();
    assert!(parking.take_doorbell().is_none());
    turn(&parking, &clock, &mut listener, false);
    drop(bell);
    turn(&parking, &clock, &mut listener, false);
    assert_eq!(*clock.slept.lock().unwrap(), [Slept::Without, Slept::OnBell]);
    assert!(parking.take_doorbell().is_some());
    assert!(Parking::new(Arc::default()).take_doorbell().is_none(), "there is no page");
}

#[test]
fn a_page_of_an_earlier_release_has_no_bell_and_takes_words() {
    let memory = SharedMemory::new(8 * SlotAddress::WORDS).unwrap();
    assert!(crate::slots::PageDoorbell::of(&memory).is_none());
    assert!(crate::slots::ring(&memory, SlotAddress::SLOTS - 1).is_some());
    // An earlier release maps the whole of a longer file, and finds all that it knows of.
    let ours = SharedMemory::new(SlotAddress::LENGTH).unwrap();
    assert!(ours.name().len >= 8 * SlotAddress::WORDS as u64);
    assert!(crate::slots::PageDoorbell::of(&ours).is_some());
    const { assert!(SlotAddress::DOORBELL * 4 >= SlotAddress::WORDS * 8, "no place is in the bell") };
}
