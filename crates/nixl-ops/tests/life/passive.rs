//! Operations that wait for a peer.

use std::pin::{Pin, pin};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;

use nixl_descriptor::Region;
use nixl_ops::{CancelOutcome, Held, OperationError, OperationOptions, OperationStatus, Reclaimed};

use crate::world::{DRAIN, Memory, Wakes, World, config, now, poll, timeout};

const SECOND: Duration = Duration::from_secs(1);

#[test]
fn the_key_completes_it_and_wakes_the_waiter_once() {
    let mut world = World::new();
    let memory = Memory::small();
    let mut writable = world.writable(&memory, OperationOptions::new()).unwrap();
    assert_eq!(writable.status(), OperationStatus::Initialized);
    let key = writable.metadata().notification_key().clone();
    let wakes = Arc::new(Wakes::default());
    let mut wait = pin!(writable.wait_for_completion());
    assert!(poll(&mut wait, &wakes).is_pending());
    world.clock.advance(SECOND);
    world.inbox.push(key.as_bytes());
    world.inbox.push(key.as_bytes());
    world.reactor.turn();
    assert_eq!(wakes.count(), 1);
    let Poll::Ready(Ok(completion)) = poll(&mut wait, &wakes) else { panic!("not complete") };
    assert_eq!((completion.bytes(), completion.elapsed()), (64, SECOND));
    assert!(completion.path().is_none());
    assert!(!memory.is_leased());
    assert_eq!(world.driver.stats().passive(), 0);
}

#[test]
fn metadata_that_is_asked_for_after_the_end_reaches_no_memory() {
    let mut world = World::new();
    let memory = Memory::small();
    let mut cancelled = world.writable(&memory, OperationOptions::new()).unwrap();
    let late = world.writable(&Memory::small(), timeout(SECOND)).unwrap();
    assert_eq!(cancelled.cancel(), CancelOutcome::Cancelled);
    assert!(!memory.is_leased());
    world.clock.advance(2 * SECOND);
    world.reactor.turn();
    assert_eq!(late.status(), OperationStatus::Errored);
    for ended in [&cancelled, &late] {
        let metadata = ended.metadata();
        assert!(metadata.descriptors().iter().all(|descriptor| descriptor.ptr() == 1));
        assert_eq!(ended.metadata(), metadata, "the same each time");
    }
    let mut known = world.writable(&memory, OperationOptions::new()).unwrap();
    let before = known.metadata().clone();
    known.cancel();
    assert_eq!(*known.metadata(), before, "peers have it");
}

#[test]
fn foreign_notifications_complete_nothing() {
    let mut world = World::new();
    let memory = Memory::small();
    let writable = world.writable(&memory, OperationOptions::new()).unwrap();
    let key = writable.metadata().notification_key().clone();
    let mut longer = key.as_bytes().to_vec();
    longer.push(0);
    let shorter = &key.as_bytes()[..key.as_bytes().len() - 1];
    for payload in [b"".as_slice(), b"\xff\x00\xfe", b"unknown", &longer, shorter, &[0; 100_000]] {
        world.inbox.push(payload);
    }
    world.reactor.turn();
    assert_eq!(world.inbox.len(), 0, "all were taken");
    assert_eq!(writable.status(), OperationStatus::Initialized);
    assert!(memory.is_leased());
    world.inbox.push(key.as_bytes());
    world.reactor.turn();
    assert_eq!(writable.status(), OperationStatus::Complete);
}

#[test]
fn each_key_completes_its_own() {
    let mut world = World::new();
    let memories: Vec<_> = (0..100).map(|_| Memory::small()).collect();
    let operations: Vec<_> = memories
        .iter()
        .map(|memory| world.writable(memory, OperationOptions::new()).unwrap())
        .collect();
    for operation in operations.iter().skip(1).step_by(2) {
        world.inbox.push(operation.metadata().notification_key().as_bytes());
    }
    world.reactor.turn();
    for (index, (operation, memory)) in operations.iter().zip(&memories).enumerate() {
        let complete = index % 2 == 1;
        assert_eq!(operation.status() == OperationStatus::Complete, complete);
        assert_eq!(memory.is_leased(), !complete);
    }
    assert_eq!(world.driver.stats().passive(), 50);
}

#[test]
fn notifications_that_came_before_an_error_count_and_the_error_ends_no_operation() {
    let mut world = World::new();
    let memory = Memory::small();
    let writable = world.writable(&memory, timeout(SECOND)).unwrap();
    let late = world.writable(&Memory::small(), timeout(SECOND)).unwrap();
    world.inbox.set_broken(true);
    world.inbox.push(writable.metadata().notification_key().as_bytes());
    world.reactor.turn();
    assert_eq!(writable.status(), OperationStatus::Complete);
    world.inbox.set_broken(false);
    world.inbox.push(late.metadata().notification_key().as_bytes());
    world.reactor.turn();
    assert_eq!(late.status(), OperationStatus::Complete);
}

#[test]
fn the_deadline_ends_the_wait() {
    let mut world = World::new();
    let memory = Memory::small();
    let mut writable = world.writable(&memory, timeout(SECOND)).unwrap();
    let wakes = Arc::new(Wakes::default());
    {
        let mut wait = pin!(writable.wait_for_completion());
        assert!(poll(&mut wait, &wakes).is_pending());
        world.clock.advance(SECOND - Duration::from_nanos(1));
        world.reactor.turn();
        assert_eq!(wakes.count(), 0);
        world.clock.advance(Duration::from_nanos(1));
        world.reactor.turn();
        assert_eq!(wakes.count(), 1);
    }
    let timed_out = OperationError::TimedOut { after: SECOND };
    assert_eq!(now(writable.wait_for_completion()), Err(timed_out));
    assert!(!memory.is_leased(), "the metadata was never asked for");
    assert_eq!(world.driver.stats().passive(), 0);
}

#[test]
fn the_earliest_of_many_deadlines_is_not_missed() {
    let mut world = World::new();
    let operations: Vec<_> = [5, 1, 3, 2, 4]
        .into_iter()
        .map(|n| (n, world.writable(&Memory::small(), timeout(n * SECOND)).unwrap()))
        .collect();
    for elapsed in 1..=5 {
        world.clock.advance(SECOND);
        world.reactor.turn();
        for (n, operation) in &operations {
            assert_eq!(operation.status().is_terminal(), *n <= elapsed, "{n} after {elapsed}");
        }
    }
}

#[test]
fn cancelling_before_the_metadata_was_asked_for_frees_the_memory_at_once() {
    let world = World::new();
    let memory = Memory::small();
    let mut writable = world.writable(&memory, OperationOptions::new()).unwrap();
    assert_eq!(writable.cancel(), CancelOutcome::Cancelled);
    assert_eq!(writable.cancel(), CancelOutcome::AlreadyEnded(OperationStatus::Cancelled));
    assert!(!memory.is_leased());
    assert_eq!(world.driver.stats().passive(), 0);
    assert!(now(writable.reclaim()).memory.is_some());
}

#[test]
fn cancelling_afterwards_waits_for_the_peer() {
    let mut world = World::new();
    let memory = Memory::small();
    let mut writable = world.writable(&memory, OperationOptions::new()).unwrap();
    let key = writable.metadata().notification_key().clone();
    assert_eq!(writable.cancel(), CancelOutcome::Cancelled);
    assert_eq!(now(writable.wait_for_completion()), Err(OperationError::Cancelled));
    assert!(memory.is_leased());
    let mut reclaim = Box::pin(writable.reclaim());
    let wakes = Arc::new(Wakes::default());
    assert!(poll(&mut reclaim, &wakes).is_pending());
    world.clock.advance(DRAIN / 2);
    world.inbox.push(key.as_bytes());
    world.reactor.turn();
    assert_eq!(wakes.count(), 1);
    let Poll::Ready(reclaimed) = poll(&mut reclaim, &wakes) else { panic!("still pending") };
    assert_eq!(reclaimed.outcome, Err(OperationError::Cancelled), "the late word changes nothing");
    assert!(reclaimed.memory.is_some() && !memory.is_leased());
}

#[test]
fn the_memory_of_a_timed_out_operation_comes_back_with_the_peers_word() {
    let mut world = World::new();
    let memory = Memory::small();
    let writable = world.writable(&memory, timeout(SECOND)).unwrap();
    let key = writable.metadata().notification_key().clone();
    world.clock.advance(SECOND);
    world.reactor.turn();
    assert_eq!(writable.status(), OperationStatus::Errored);
    assert!(memory.is_leased());
    drop(writable);
    world.inbox.push(key.as_bytes());
    world.reactor.turn();
    assert!(!memory.is_leased());
    assert_eq!(world.driver.stats().passive(), 0);
}

#[test]
fn the_memory_of_a_silent_peer_stays_in_quarantine_after_the_drain_time_and_comes_back_with_its_message()
 {
    let mut world = World::new();
    let memory = Memory::small();
    let mut writable = world.writable(&memory, OperationOptions::new()).unwrap();
    let key = writable.metadata().notification_key().clone();
    writable.cancel();
    world.clock.advance(DRAIN);
    world.reactor.turn();
    assert!(now(writable.reclaim()).memory.is_none(), "its owner waits no longer");
    assert!(memory.is_leased());
    assert_eq!(world.driver.stats().quarantined_without_terms().bytes(), 64);
    world.inbox.push(key.as_bytes());
    world.clock.advance(SECOND);
    world.reactor.turn();
    assert!(!memory.is_leased());
    assert_eq!(world.driver.stats().passive(), 0);
    assert_eq!(world.driver.stats().quarantined_without_terms(), Held::default());
}

#[test]
fn a_full_table_refuses() {
    let config = config().max_in_flight(1);
    let world = World::with(config);
    let first = world.writable(&Memory::small(), OperationOptions::new()).unwrap();
    let memory = Memory::small();
    let error = world.writable(&memory, OperationOptions::new()).unwrap_err();
    assert_eq!(error, OperationError::QueueFull { limit: 1 });
    assert!(!memory.is_leased());
    drop(first);
    world.writable(&memory, OperationOptions::new()).unwrap();
}

#[test]
fn a_claim_serves_the_offer_once() {
    let world = World::new();
    let memory = Memory::small();
    let mut writable = world.writable(&memory, OperationOptions::new()).unwrap();
    let offer = world.announced.offers.lock().unwrap()[0].clone();
    let claim = offer.claim().unwrap();
    assert!(offer.claim().is_none(), "one copy at a time");
    drop(claim);
    let claim = offer.claim().unwrap();
    claim.complete();
    assert!(now(writable.wait_for_completion()).is_ok());
    assert!(!memory.is_leased());
    assert!(offer.claim().is_none(), "it has ended");
    drop(writable);
    assert!(world.announced.offers.lock().unwrap().is_empty(), "withdrawn");
}

#[test]
fn cancelling_under_a_claim_keeps_the_lease_until_the_copy_is_done() {
    let mut world = World::new();
    let memory = Memory::small();
    let mut writable = world.writable(&memory, OperationOptions::new()).unwrap();
    let offer = world.announced.offers.lock().unwrap()[0].clone();
    let claim = offer.claim().unwrap();
    writable.cancel();
    assert!(memory.is_leased());
    world.clock.advance(2 * DRAIN);
    world.reactor.turn();
    assert!(memory.is_leased(), "not even the drain time ends a copy of our own");
    claim.complete();
    assert!(!memory.is_leased());
    assert!(now(writable.reclaim()).memory.is_some());
}

#[test]
fn a_claim_may_outlive_the_driver() {
    let (world, memory) = (World::new(), Memory::small());
    world.clock.advance(SECOND);
    let writable = world.writable(&memory, OperationOptions::new()).unwrap();
    let offer = world.announced.offers.lock().unwrap()[0].clone();
    let claim = offer.claim().unwrap();
    drop(writable);
    drop(world);
    claim.complete();
    assert!(!memory.is_leased());
}

/// Polls a reclaim right inside its wake-up, and takes the memory back from there.
pub(crate) struct TakesBack {
    reclaim: Mutex<Option<Pin<Box<dyn Future<Output = Reclaimed> + Send>>>>,
    region: Mutex<Option<Region>>,
    taken: Mutex<Option<bool>>,
}

impl TakesBack {
    pub(crate) fn begin(
        reclaim: impl Future<Output = Reclaimed> + Send + 'static,
        region: Region,
    ) -> Arc<Self> {
        let waiter = Arc::new(Self {
            reclaim: Mutex::new(Some(Box::pin(reclaim))),
            region: Mutex::new(Some(region)),
            taken: Mutex::default(),
        });
        waiter.poll();
        waiter
    }

    /// Whether the memory was to be had, once it woke.
    pub(crate) fn taken(&self) -> Option<bool> {
        *self.taken.lock().unwrap()
    }

    fn poll(self: &Arc<Self>) {
        let waker = Waker::from(Arc::clone(self));
        let mut reclaim = self.reclaim.lock().unwrap();
        let Some(future) = reclaim.as_mut() else { return };
        if let Poll::Ready(reclaimed) = future.as_mut().poll(&mut Context::from_waker(&waker)) {
            drop(reclaimed);
            *reclaim = None;
            let region = self.region.lock().unwrap().take().unwrap();
            *self.taken.lock().unwrap() = Some(region.try_into_vec().is_ok());
        }
    }
}

impl Wake for TakesBack {
    fn wake(self: Arc<Self>) {
        self.poll();
    }
}

#[test]
fn a_waker_can_take_the_memory_back_at_once() {
    let mut world = World::new();
    let (memory, region) = Memory::over(vec![0; 8]);
    let writable = world.writable(&memory, OperationOptions::new()).unwrap();
    drop(memory);
    world.announced.offers.lock().unwrap().clear();
    let key = writable.metadata().notification_key().clone();
    let waiter = TakesBack::begin(writable.reclaim(), region);
    world.inbox.push(key.as_bytes());
    world.reactor.turn();
    assert_eq!(waiter.taken(), Some(true));
}
