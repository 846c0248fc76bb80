//! Ends of offers that are given up, and the return of their memory.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, mpsc};
use std::task::Poll;
use std::thread;
use std::time::Duration;

use nixl_descriptor::{
    BufferPool, ReclaimError, Region, RegionSpan, RegisterError, Registered, Registrar,
    RegistrarId, Registration, Retired,
};
use nixl_ops::{
    CancelOutcome, ClaimDemand, Claimant, Held, Next, Offer, OfferSpec, OperationError,
    OperationStatus, RevokeOutcome, WritableOperation,
};

use crate::passive::TakesBack;
use crate::peer::{CLAIMED, DONE, OPEN, PID, PeerSlot, REVOKED};
use crate::world::{
    DRAIN, Memory, Offering, TOKEN, Wakes, World, block_on, config, is_pending, now, poll, timeout,
};

const NANO: Duration = Duration::from_nanos(1);
const SECOND: Duration = Duration::from_secs(1);
/// How often quarantined peers are looked at.
const CHECK: Duration = Duration::from_millis(300);
/// As long as the clocks of two hosts may differ.
const SKEW: Duration = Duration::from_secs(60);

fn counts(held: Held) -> (usize, u64) {
    (held.offers(), held.bytes())
}

/// Why the region cannot be taken back, and the region.
fn refused(region: Region) -> (ReclaimError, Region) {
    let refused = region.try_into_vec().unwrap_err();
    (refused.reason().clone(), refused.into_region())
}

/// Counts the memory that it knows.
#[derive(Debug)]
struct Counting {
    id: RegistrarId,
    known: Arc<AtomicUsize>,
}

#[derive(Debug)]
struct Counted {
    known: Arc<AtomicUsize>,
    _span: RegionSpan,
}

// SAFETY: it touches no memory.
#[allow(unsafe_code, reason = "the trait is trusted with memory")]
unsafe impl Registrar for Counting {
    fn id(&self) -> RegistrarId {
        self.id
    }

    fn register(&self, span: &RegionSpan) -> Result<Box<dyn Registered>, RegisterError> {
        self.known.fetch_add(1, Ordering::SeqCst);
        Ok(Box::new(Counted { known: Arc::clone(&self.known), _span: span.clone() }))
    }

    fn retire(&self, retired: Retired) {
        retired.deregister().unwrap();
    }
}

// SAFETY: as above.
#[allow(unsafe_code, reason = "the trait is trusted with memory")]
unsafe impl Registered for Counted {
    fn deregister(self: Box<Self>) -> Result<(), RegisterError> {
        self.known.fetch_sub(1, Ordering::SeqCst);
        Ok(())
    }
}

#[test]
fn a_readable_offer_that_is_given_up_can_be_overwritten_at_once_and_freed_after_its_life_time() {
    for way in 0..4 {
        let mut world = World::new();
        let (memory, region) = Memory::over(vec![0; 8]);
        let known = Arc::<AtomicUsize>::default();
        let registrar: Arc<dyn Registrar> =
            Arc::new(Counting { id: RegistrarId::new(), known: Arc::clone(&known) });
        let registration = Registration::new(&registrar, &region).unwrap();
        let offering = Offering::readable().with_slot().readers(1).registered(registration);
        let mut readable = world.readable_for(offering, &memory, timeout(SECOND));
        let peer = PeerSlot::of(readable.metadata());
        assert!(memory.is_leased());
        match way {
            0 => assert_eq!(readable.cancel(), CancelOutcome::Cancelled),
            1 => assert_eq!(readable.revoke(), RevokeOutcome::Free),
            2 => {}
            _ => {
                world.clock.advance(SECOND);
                world.reactor.turn();
                let timed_out = OperationError::TimedOut { after: SECOND };
                assert_eq!(now(readable.wait_for_completion()), Err(timed_out));
            }
        }
        drop(readable);
        assert_eq!(peer.seen(), Some((0, REVOKED)), "a reader finds out that it comes too late");
        assert!(!peer.read(true, 1));
        assert!(!memory.is_leased());
        region.copy_from_slice(0, &[7; 8]).unwrap();
        drop(memory);
        let stats = world.driver.stats();
        assert_eq!((counts(stats.retained()), stats.passive()), ((1, 8), 0));
        let (reason, region) = refused(region);
        assert_eq!(reason, ReclaimError::Shared);
        let passed = if way == 3 { SECOND } else { Duration::ZERO };
        world.clock.advance(OfferSpec::LIFE_TIME + SKEW - passed - NANO);
        world.reactor.turn();
        assert_eq!(known.load(Ordering::SeqCst), 1, "a read may be under way");
        let (reason, region) = refused(region);
        assert_eq!(reason, ReclaimError::Shared);
        world.clock.advance(NANO);
        world.reactor.turn();
        assert_eq!(known.load(Ordering::SeqCst), 0);
        assert_eq!(region.try_into_vec().unwrap(), [7; 8]);
        assert_eq!(counts(world.driver.stats().retained()), (0, 0));
    }
}

#[test]
fn memory_is_retained_as_long_as_each_offers_own_life_time_and_skew_say() {
    let config = config().clock_skew(SECOND);
    let mut world = World::with(config);
    let mut regions = Vec::new();
    for seconds in [5, 1, 3] {
        let (memory, region) = Memory::over(vec![0; 8]);
        let offering = Offering::readable().readers(1).life_time(seconds * SECOND);
        let readable = world.readable(offering, &memory);
        readable.metadata();
        regions.push((seconds, Some(region)));
    }
    assert_eq!(counts(world.driver.stats().retained()), (3, 24));
    for passed in 1..=6 {
        world.clock.advance(SECOND);
        world.reactor.turn();
        for (seconds, region) in &mut regions {
            let Some(still) = region.take() else { continue };
            match still.try_into_vec() {
                Ok(_) => assert_eq!(passed, *seconds + 1),
                Err(refused) => {
                    assert!(passed <= *seconds);
                    *region = Some(refused.into_region());
                }
            }
        }
    }
    assert!(regions.iter().all(|(_, region)| region.is_none()));
}

#[test]
fn memory_that_would_vanish_is_retained_until_reads_have_arrived() {
    let mut world = World::new();
    let (proofs, jobs) = world.proving();
    let (memory, region) = Memory::over(vec![0; 8]);
    world.readable(Offering::readable().readers(1), &memory).metadata();
    let (read, _other) = Memory::over(vec![0; 8]);
    let offer = world.readable(Offering::readable().readers(1), &read);
    let key = offer.metadata().notification_key().clone();
    drop((offer, memory, read));
    world.clock.advance(OfferSpec::LIFE_TIME + SKEW);
    for _ in 0..3 {
        world.reactor.turn();
        jobs.run_all();
        world.clock.advance(CHECK);
    }
    assert_eq!(counts(world.driver.stats().retained()), (2, 16));
    assert_eq!(*proofs.reads.lock().unwrap(), [Duration::ZERO], "one watch for both");
    // A reader's late word is as good.
    world.inbox.push(key.as_bytes());
    world.reactor.turn();
    assert_eq!(counts(world.driver.stats().retained()), (1, 8));
    // What ends later has a watch of its own.
    let (later, _other) = Memory::over(vec![0; 8]);
    world.readable(Offering::readable().readers(1), &later).metadata();
    drop(later);
    world.clock.advance(OfferSpec::LIFE_TIME + SKEW);
    proofs.quiet.store(true, Ordering::SeqCst);
    world.reactor.turn();
    jobs.run_all();
    assert_eq!(counts(world.driver.stats().retained()), (1, 8));
    assert_eq!(region.try_into_vec().unwrap().len(), 8);
    world.clock.advance(CHECK);
    world.reactor.turn();
    jobs.run_all();
    assert_eq!(counts(world.driver.stats().retained()), (0, 0));
    assert_eq!(proofs.reads.lock().unwrap().len(), 2);
}

#[test]
fn memory_of_the_pool_is_free_when_the_life_time_is_over() {
    let mut world = World::new();
    let (proofs, _jobs) = world.proving();
    let memory = Memory::from(BufferPool::global().buffer(8).unwrap());
    world.readable(Offering::readable().readers(1), &memory).metadata();
    assert_eq!(counts(world.driver.stats().retained()), (1, 8));
    world.clock.advance(OfferSpec::LIFE_TIME + SKEW);
    world.reactor.turn();
    assert_eq!(counts(world.driver.stats().retained()), (0, 0));
    assert!(proofs.reads.lock().unwrap().is_empty(), "its addresses stay mapped");
}

#[test]
fn an_offer_that_no_peer_has_seen_is_free_at_once() {
    for readable in [true, false] {
        let world = World::new();
        let (memory, region) = Memory::over(vec![0; 8]);
        if readable {
            let mut offer = world.readable(Offering::readable().with_slot().readers(1), &memory);
            assert_eq!(offer.revoke(), RevokeOutcome::Free);
        } else {
            let mut offer = world.offer(Offering::writable().with_slot(), &memory);
            assert_eq!(offer.revoke(), RevokeOutcome::Free);
        }
        drop(memory);
        assert_eq!(region.try_into_vec().unwrap().len(), 8);
        assert_eq!(counts(world.driver.stats().retained()), (0, 0));
    }
}

fn everywhere() -> Offering {
    Offering::writable().claims(ClaimDemand::Everywhere)
}

#[test]
fn a_writable_offer_that_demands_claims_and_has_none_is_free_at_once_and_refuses_them() {
    let world = World::new();
    for slot in [true, false] {
        let (memory, region) = Memory::over(vec![0; 8]);
        let offering = if slot { everywhere().with_slot() } else { everywhere() };
        let mut writable = world.offer(offering, &memory);
        let peer = slot.then(|| PeerSlot::of(writable.metadata()));
        writable.metadata();
        assert_eq!(writable.revoke(), RevokeOutcome::Free);
        assert_eq!(
            writable.revoke(),
            RevokeOutcome::AlreadyEnded(OperationStatus::Cancelled),
            "once is enough"
        );
        assert!(now(writable.reclaim()).memory.is_some());
        drop(memory);
        assert_eq!(region.try_into_vec().unwrap().len(), 8);
        assert!(peer.is_none_or(|peer| !peer.claim() && peer.seen() == Some((0, REVOKED))));
    }
    let stats = world.driver.stats();
    assert_eq!((stats.passive(), counts(stats.quarantined())), (0, (0, 0)));
}

#[test]
fn an_offer_whose_claim_was_taken_back_is_free_at_once() {
    let world = World::new();
    let memory = Memory::small();
    let mut writable = world.offer(everywhere().with_slot(), &memory);
    let peer = PeerSlot::of(writable.metadata());
    assert!(peer.claim() && peer.undo());
    assert_eq!(writable.revoke(), RevokeOutcome::Free);
    assert!(!memory.is_leased());
}

/// An offer that a process has claimed and that its owner has given up.
fn claimed(world: &World, memory: &Memory) -> (WritableOperation, PeerSlot) {
    let mut writable = world.offer(everywhere().with_slot(), memory);
    let peer = PeerSlot::of(writable.metadata());
    assert!(peer.claim());
    assert_eq!(writable.revoke(), RevokeOutcome::Held);
    assert_eq!(peer.seen(), Some((PID, CLAIMED)), "the claim stands");
    (writable, peer)
}

#[test]
fn the_memory_of_a_claimed_offer_comes_back_with_the_slots_word_also_after_the_drain_time() {
    for (drained, succeeded) in [(false, true), (false, false), (true, true), (true, false)] {
        let mut world = World::new();
        let (memory, region) = Memory::over(vec![0; 8]);
        let (writable, peer) = claimed(&world, &memory);
        let stats = world.driver.stats();
        assert_eq!(counts(stats.quarantined()), (1, 8));
        assert_eq!(counts(stats.quarantined_without_terms()), (0, 0));
        let mut reclaim = Box::pin(writable.reclaim());
        let wakes = Arc::new(Wakes::default());
        assert!(poll(&mut reclaim, &wakes).is_pending());
        if drained {
            world.clock.advance(DRAIN);
            world.reactor.turn();
            let Poll::Ready(reclaimed) = poll(&mut reclaim, &wakes) else { panic!("it waits") };
            assert!(reclaimed.memory.is_none());
            assert_eq!(counts(world.driver.stats().quarantined()), (1, 8));
        }
        assert!(memory.is_leased());
        assert!(peer.written(succeeded));
        world.clock.advance(CHECK);
        world.reactor.turn();
        assert!(!memory.is_leased());
        if !drained {
            let Poll::Ready(reclaimed) = poll(&mut reclaim, &wakes) else { panic!("it waits") };
            assert_eq!(reclaimed.outcome, Err(OperationError::Cancelled));
            assert!(reclaimed.memory.is_some());
        }
        drop((memory, reclaim));
        assert_eq!(region.try_into_vec().unwrap().len(), 8);
        let stats = world.driver.stats();
        assert_eq!((stats.passive(), counts(stats.quarantined())), (0, (0, 0)));
    }
}

#[test]
fn an_owner_that_asks_only_after_a_late_end_gets_its_memory() {
    let mut world = World::new();
    let memory = Memory::small();
    let (writable, peer) = claimed(&world, &memory);
    world.clock.advance(DRAIN);
    world.reactor.turn();
    assert!(peer.written(true));
    world.clock.advance(CHECK);
    world.reactor.turn();
    assert!(now(writable.reclaim()).memory.is_some());
}

#[test]
fn an_end_that_is_in_the_slot_comes_before_the_owners() {
    for (succeeded, status) in
        [(true, OperationStatus::Complete), (false, OperationStatus::Errored)]
    {
        let world = World::new();
        let memory = Memory::small();
        let mut writable = world.offer(everywhere().with_slot(), &memory);
        let peer = PeerSlot::of(writable.metadata());
        assert!(peer.claim() && peer.written(succeeded));
        assert_eq!(peer.seen(), Some((u64::from(succeeded), DONE)));
        assert_eq!(writable.revoke(), RevokeOutcome::AlreadyEnded(status));
        assert!(!memory.is_leased());
        let outcome = now(writable.wait_for_completion());
        match succeeded {
            true => assert_eq!(outcome.unwrap().bytes(), 64),
            false => assert_eq!(outcome, Err(OperationError::Declined)),
        }
    }
}

#[test]
fn a_use_that_ends_without_success_is_declined() {
    let mut world = World::new();
    let memory = Memory::small();
    let mut writable = world.offer(everywhere().with_slot(), &memory);
    let peer = PeerSlot::of(writable.metadata());
    assert!(peer.claim() && peer.written(false));
    world.reactor.turn();
    assert_eq!(writable.status(), OperationStatus::Errored);
    assert_eq!(now(writable.wait_for_completion()), Err(OperationError::Declined));
    assert!(!memory.is_leased());
}

#[test]
fn the_memory_of_a_claimed_offer_comes_back_when_its_peer_is_proven_quiet() {
    let mut world = World::new();
    let (proofs, jobs) = world.proving();
    let (memory, region) = Memory::over(vec![0; 8]);
    let (writable, _peer) = claimed(&world, &memory);
    world.announced.offers.lock().unwrap().clear();
    drop(memory);
    let waiter = TakesBack::begin(writable.reclaim(), region);
    for asked in 1..=3 {
        world.reactor.turn();
        world.reactor.turn();
        jobs.run_all();
        assert_eq!(proofs.asked.load(Ordering::SeqCst), asked);
        world.clock.advance(CHECK - NANO);
        world.reactor.turn();
        jobs.run_all();
        assert_eq!(proofs.asked.load(Ordering::SeqCst), asked, "not sooner");
        world.clock.advance(NANO);
    }
    assert_eq!(*proofs.watched.lock().unwrap(), [Claimant::Process(PID as u32)], "one watch");
    assert_eq!(waiter.taken(), None);
    proofs.quiet.store(true, Ordering::SeqCst);
    world.reactor.turn();
    jobs.run_all();
    assert_eq!(waiter.taken(), Some(true), "at once, also while others look at the offer");
    let stats = world.driver.stats();
    assert_eq!((stats.passive(), counts(stats.quarantined())), (0, (0, 0)));
}

#[test]
fn any_holder_of_an_offer_without_terms_may_begin_until_its_life_time_is_over() {
    let mut world = World::new();
    let (proofs, jobs) = world.proving();
    proofs.quiet.store(true, Ordering::SeqCst);
    let memory = Memory::small();
    drop(exported(&world, &memory));
    let mut passed = Duration::ZERO;
    while passed < OfferSpec::LIFE_TIME + SKEW - SECOND {
        world.reactor.turn();
        jobs.run_all();
        assert!(memory.is_leased());
        world.clock.advance(SECOND);
        passed += SECOND;
    }
    assert_eq!(proofs.asked.load(Ordering::SeqCst), 0);
    world.clock.advance(SECOND);
    world.reactor.turn();
    jobs.run_all();
    assert_eq!(*proofs.watched.lock().unwrap(), [Claimant::Unknown]);
    assert!(!memory.is_leased());
}

/// A writable offer as Dynamo's, whose metadata was asked for.
fn exported(world: &World, memory: &Memory) -> WritableOperation {
    let writable = world.offer(Offering::writable(), memory);
    writable.metadata();
    writable
}

#[test]
fn a_late_word_gives_the_memory_back_while_proofs_are_sought() {
    let mut world = World::new();
    let (_proofs, jobs) = world.proving();
    let (memory, region) = Memory::over(vec![0; 8]);
    let (mut writable, _peer) = claimed(&world, &memory);
    let key = writable.metadata().notification_key().clone();
    writable.cancel();
    world.announced.offers.lock().unwrap().clear();
    drop(memory);
    let waiter = TakesBack::begin(writable.reclaim(), region);
    // The job is there and has not begun.
    world.reactor.turn();
    world.inbox.push(key.as_bytes());
    world.reactor.turn();
    assert_eq!(waiter.taken(), Some(true));
    jobs.run_all();
}

#[test]
fn an_offer_that_was_encoded_without_terms_is_one_without_terms() {
    let world = World::new();
    let memory = Memory::small();
    let mut writable = world.offer(everywhere().with_slot(), &memory);
    assert!(writable.metadata().to_dynamo_json().contains("notification_key"));
    assert_eq!(writable.revoke(), RevokeOutcome::Held);
    assert!(memory.is_leased());
    let stats = world.driver.stats();
    assert_eq!(counts(stats.quarantined_without_terms()), (1, 64));
    assert_eq!(counts(stats.quarantined()), (0, 0));
}

#[test]
fn what_is_still_quarantined_when_its_driver_ends_is_leaked_and_counted() {
    let mut world = World::new();
    let memory = Memory::small();
    let (writable, _peer) = claimed(&world, &memory);
    drop(writable);
    world.clock.advance(DRAIN);
    world.reactor.turn();
    let before = nixl_descriptor::leaked();
    let World { driver, mut reactor, .. } = world;
    drop(driver);
    assert_eq!(reactor.turn(), Next::Exit);
    drop(reactor);
    let after = nixl_descriptor::leaked();
    // Other tests of this process leak too.
    assert!(after.leases() > before.leases() && after.bytes() >= before.bytes() + 64);
    assert!(memory.is_leased(), "for ever");
}

#[test]
fn retained_memory_is_freed_once_all_readers_have_said_that_they_are_done() {
    let mut world = World::new();
    let (memory, region) = Memory::over(vec![0; 8]);
    let readable = world.readable(Offering::readable().with_slot().readers(3), &memory);
    let (peer, key) = (PeerSlot::of(readable.metadata()), readable.metadata().notification_key());
    let key = key.clone();
    assert!(peer.read(true, 3), "before it is given up");
    drop((readable, memory));
    let mut region = region;
    for _ in 0..2 {
        region = refused(region).1;
        world.inbox.push(key.as_bytes());
        world.clock.advance(CHECK);
        world.reactor.turn();
    }
    assert_eq!(region.try_into_vec().unwrap().len(), 8);
    assert_eq!(counts(world.driver.stats().retained()), (0, 0));
    assert_eq!(world.driver.stats().second_completions(), 0, "each reader used it once");
}

#[test]
fn a_driver_that_is_dropped_waits_for_readers_as_long_as_for_writers_and_then_leaks_what_they_may_read()
 {
    for told in [true, false] {
        let mut world = World::new();
        let (memory, region) = Memory::over(vec![0; 8]);
        let readable = world.readable(Offering::readable().readers(1), &memory);
        let key = readable.metadata().notification_key().clone();
        drop((readable, memory, world.driver));
        assert!(matches!(world.reactor.turn(), Next::Sleep(_)));
        world.clock.advance(DRAIN - NANO);
        assert!(matches!(world.reactor.turn(), Next::Sleep(_)));
        if told {
            world.inbox.push(key.as_bytes());
        } else {
            world.clock.advance(NANO);
        }
        assert_eq!(world.reactor.turn(), Next::Exit);
        let before = nixl_descriptor::leaked();
        drop(world.reactor);
        match told {
            true => assert_eq!(region.try_into_vec().unwrap().len(), 8),
            false => {
                // Other tests of this process leak too.
                assert!(nixl_descriptor::leaked().leases() > before.leases());
                assert_eq!(refused(region).0, ReclaimError::Shared, "for ever");
            }
        }
    }
}

#[test]
fn completions_of_an_offer_that_has_ended_are_counted() {
    let mut world = World::new();
    let writable = exported(&world, &Memory::small());
    let key = writable.metadata().notification_key().clone();
    // Whom the driver listens for.
    let _other = exported(&world, &Memory::small());
    for again in 0..3 {
        world.inbox.push(key.as_bytes());
        world.reactor.turn();
        assert_eq!(world.driver.stats().second_completions(), again);
    }
    world.inbox.push(b"a key of no offer");
    world.reactor.turn();
    assert_eq!(world.driver.stats().second_completions(), 2);
}

#[test]
fn an_offer_for_several_readers_ends_with_the_last_whatever_way_each_tells() {
    for by_slot in 0..=3 {
        let mut world = World::new();
        let memory = Memory::small();
        let readable = world.readable(Offering::readable().with_slot().readers(3), &memory);
        let peer = PeerSlot::of(readable.metadata());
        let key = readable.metadata().notification_key().clone();
        for read in 1..=3 {
            assert_eq!(readable.status(), OperationStatus::Initialized);
            match read <= by_slot {
                true => assert!(peer.read(true, 3)),
                false => world.inbox.push(key.as_bytes()),
            }
            world.reactor.turn();
        }
        assert_eq!(readable.status(), OperationStatus::Complete);
        assert!(!memory.is_leased());
        assert!(!peer.read(true, 3), "a fourth comes too late");
        assert_eq!(
            counts(world.driver.stats().retained()),
            (0, 0),
            "all have said that they are done"
        );
    }
}

#[test]
fn several_readers_succeed_if_one_does() {
    for (reads, status) in [
        ([false, false], OperationStatus::Errored),
        ([false, true], OperationStatus::Complete),
        ([true, false], OperationStatus::Complete),
    ] {
        let mut world = World::new();
        let memory = Memory::small();
        let readable = world.readable(Offering::readable().with_slot().readers(2), &memory);
        let peer = PeerSlot::of(readable.metadata());
        assert!(peer.read(reads[0], 2) && peer.read(reads[1], 2));
        world.reactor.turn();
        assert_eq!(readable.status(), status);
        assert!(!memory.is_leased());
    }
}

#[test]
fn the_owners_word_that_its_peer_is_done_gives_the_memory_back_at_once() {
    for given_up in [false, true] {
        let world = World::new();
        let memory = Memory::small();
        let mut writable = exported(&world, &memory);
        if given_up {
            assert_eq!(writable.revoke(), RevokeOutcome::Held);
        }
        // SAFETY: there is no peer.
        #[allow(unsafe_code, reason = "promises that no peer accesses the memory")]
        unsafe {
            writable.peer_is_done();
        }
        assert!(!memory.is_leased());
        assert!(now(writable.reclaim()).memory.is_some());
        let stats = world.driver.stats();
        assert_eq!((stats.passive(), counts(stats.quarantined_without_terms())), (0, (0, 0)));
    }
}

#[test]
fn the_owners_word_does_not_end_a_copy_of_its_own_process() {
    let world = World::new();
    let memory = Memory::small();
    let mut writable = exported(&world, &memory);
    let claim = world.announced.offers.lock().unwrap()[0].claim().unwrap();
    // SAFETY: there is no peer.
    #[allow(unsafe_code, reason = "promises that no peer accesses the memory")]
    unsafe {
        writable.peer_is_done();
    }
    assert!(memory.is_leased() && is_pending(writable.reclaim()));
    claim.complete();
    assert!(!memory.is_leased());
}

#[test]
fn a_copy_of_this_process_is_one_use_of_an_offer_with_several_readers() {
    let mut world = World::new();
    let memory = Memory::small();
    let readable = world.readable(Offering::readable().with_slot().readers(2), &memory);
    let claim = || world.announced.offers.lock().unwrap()[0].claim();
    let first = claim().unwrap();
    assert!(claim().is_none(), "one copy at a time");
    first.complete();
    world.reactor.turn();
    assert_eq!(readable.status(), OperationStatus::Initialized);
    assert!(memory.is_leased());
    claim().unwrap().complete();
    world.reactor.turn();
    assert_eq!(readable.status(), OperationStatus::Complete);
    assert!(!memory.is_leased());
}

#[test]
fn an_offer_that_is_given_up_under_a_copy_ends_as_it_would_have_once_the_copy_is_over() {
    // What it is, and whether its memory is free once a copy that did not complete is over.
    for (kind, free) in [(0, true), (1, true), (2, false)] {
        let world = World::new();
        let memory = Memory::small();
        let (peer, outcome) = match kind {
            0 => {
                let mut readable =
                    world.readable(Offering::readable().with_slot().readers(1), &memory);
                let peer = PeerSlot::of(readable.metadata());
                let claim = world.announced.offers.lock().unwrap()[0].claim().unwrap();
                let outcome = readable.revoke();
                assert!(memory.is_leased(), "the copy reads it");
                drop(claim);
                (peer, outcome)
            }
            _ => {
                let mut writable = world.offer(everywhere().with_slot(), &memory);
                let peer = PeerSlot::of(writable.metadata());
                if kind == 2 {
                    assert!(peer.claim());
                }
                let claim = world.announced.offers.lock().unwrap()[0].claim().unwrap();
                let outcome = writable.revoke();
                assert!(memory.is_leased(), "the copy writes it");
                drop(claim);
                (peer, outcome)
            }
        };
        assert_eq!(outcome, RevokeOutcome::Held);
        let expected = if kind == 2 { (PID, CLAIMED) } else { (0, REVOKED) };
        assert_eq!(peer.seen(), Some(expected), "no other begins");
        assert_eq!(memory.is_leased(), !free);
        let stats = world.driver.stats();
        assert_eq!(stats.retained().offers(), usize::from(kind == 0));
        assert_eq!(stats.quarantined().offers(), usize::from(!free));
    }
}

#[test]
fn a_copy_that_never_ends_keeps_the_memory_and_not_the_driver() {
    for leaked_first in [true, false] {
        let mut world = World::new();
        let memory = Memory::small();
        let mut writable = exported(&world, &memory);
        let claim = world.announced.offers.lock().unwrap()[0].claim().unwrap();
        if leaked_first {
            claim.leak();
            assert_eq!(writable.revoke(), RevokeOutcome::Held);
        } else {
            assert_eq!(writable.revoke(), RevokeOutcome::Held);
            claim.leak();
        }
        assert!(now(writable.reclaim()).memory.is_none());
        assert!(memory.is_leased(), "for ever");
        assert_eq!(world.driver.stats().passive(), 0);
        world.clock.advance(SECOND);
        world.reactor.turn();
        world.clock.advance(SECOND);
        assert!(matches!(world.reactor.turn(), Next::Park(_)));
        drop(world.driver);
        assert_eq!(world.reactor.turn(), Next::Exit);
    }
}

/// A message about a claim, as its description says.
fn message(kind: u8, key: &[u8], rest: &[u8]) -> Vec<u8> {
    let mut bytes = b"\x89NXC\x01".to_vec();
    bytes.extend([kind, u8::try_from(key.len()).unwrap()]);
    bytes.extend(key);
    bytes.extend(TOKEN.to_le_bytes());
    bytes.extend(rest);
    bytes
}

const CLAIM: u8 = 1;
const NOT_WRITING: u8 = 6;
const DECLINE: u8 = 7;
const WRITE_ENDED: u8 = 9;

#[test]
fn what_an_agent_had_sent_before_its_write_failed_is_waited_for() {
    let mut world = World::new();
    let (proofs, jobs) = world.proving();
    let memory = Memory::small();
    let mut writable = world.offer(everywhere(), &memory);
    let key = writable.metadata().notification_key().as_bytes().to_vec();
    world.inbox.push(&message(CLAIM, &key, b"metadata"));
    world.reactor.turn();
    assert_eq!(writable.revoke(), RevokeOutcome::Held);
    world.reactor.turn();
    jobs.run_all();
    // Said twice: a query and its answer may cross others.
    for _ in 0..2 {
        world.inbox.push(&message(WRITE_ENDED, &key, b""));
        world.clock.advance(CHECK);
        world.reactor.turn();
        jobs.run_all();
        assert!(memory.is_leased(), "the word proves nothing by itself");
    }
    let agent = Claimant::Agent("peer-1".into());
    assert_eq!(*proofs.watched.lock().unwrap(), [agent, Claimant::Ended], "one watch each");
    proofs.quiet.store(true, Ordering::SeqCst);
    world.clock.advance(CHECK);
    world.reactor.turn();
    jobs.run_all();
    assert!(!memory.is_leased());
    assert_eq!(counts(world.driver.stats().quarantined()), (0, 0));
}

#[test]
fn an_agents_word_does_not_end_a_copy_of_this_process() {
    for kind in [NOT_WRITING, DECLINE] {
        let mut world = World::new();
        let (_proofs, _jobs) = world.proving();
        let memory = Memory::small();
        let writable = world.offer(everywhere(), &memory);
        let key = writable.metadata().notification_key().as_bytes().to_vec();
        world.inbox.push(&message(CLAIM, &key, b"metadata"));
        world.reactor.turn();
        let claim = world.announced.offers.lock().unwrap()[0].claim().unwrap();
        world.inbox.push(&message(kind, &key, b""));
        world.reactor.turn();
        assert_eq!(writable.status(), OperationStatus::Initialized, "it is being copied");
        drop(claim);
        assert_eq!(writable.status(), OperationStatus::Errored);
        assert!(!memory.is_leased());
    }
}

#[test]
fn a_claim_by_a_message_counts_though_a_peer_has_overwritten_the_slot() {
    for state in [OPEN, REVOKED] {
        let mut world = World::new();
        let (proofs, jobs) = world.proving();
        let memory = Memory::small();
        let mut writable = world.offer(everywhere().with_slot(), &memory);
        let key = writable.metadata().notification_key().as_bytes().to_vec();
        let peer = PeerSlot::of(writable.metadata());
        world.inbox.push(&message(CLAIM, &key, b"metadata"));
        world.reactor.turn();
        assert_eq!(peer.seen(), Some((0, CLAIMED)));
        peer.overwrite(0, state);
        assert_eq!(writable.revoke(), RevokeOutcome::Held);
        world.reactor.turn();
        jobs.run_all();
        assert_eq!(*proofs.watched.lock().unwrap(), [Claimant::Agent("peer-1".into())]);
        assert!(memory.is_leased());
        world.inbox.push(&message(NOT_WRITING, &key, b""));
        world.reactor.turn();
        assert!(!memory.is_leased());
    }
}

#[test]
fn a_driver_that_parks_frees_what_is_retained_in_time() {
    let mut world = World::new();
    let memory = Memory::small();
    let readable = world.readable(Offering::readable().readers(1), &memory);
    readable.metadata();
    let claim = world.announced.offers.lock().unwrap()[0].claim().unwrap();
    drop(readable);
    world.clock.advance(SECOND);
    world.reactor.turn();
    drop(claim);
    world.clock.advance(SECOND);
    assert!(matches!(world.reactor.turn(), Next::Park(_)));
    assert_eq!(counts(world.driver.stats().retained()), (1, 64));
    world.clock.advance(OfferSpec::LIFE_TIME + SKEW);
    world.reactor.turn();
    assert_eq!(counts(world.driver.stats().retained()), (0, 0));
}

/// While one thread completes a copy and another takes the memory back, a third looks at all offers all the time.
#[test]
fn a_claim_wakes_only_when_the_memory_is_free() {
    const ROUNDS: usize = 20_000;
    let mut world = World::new();
    // Another reactor takes the place of the one that the third thread turns.
    let mut reactor = std::mem::replace(&mut world.reactor, World::new().reactor);
    let clock = Arc::clone(&world.clock);
    // As long as there is a quarantine, all offers are looked at three times a second.
    drop(exported(&world, &Memory::small()));
    let (offers, copying) = mpsc::channel::<Offer>();
    let over = AtomicBool::new(false);
    let mut shared = 0;
    thread::scope(|scope| {
        scope.spawn(|| {
            for offer in copying {
                let claim = offer.claim().unwrap();
                drop(offer);
                claim.complete();
            }
        });
        scope.spawn(|| {
            while !over.load(Ordering::SeqCst) {
                clock.advance(CHECK);
                reactor.turn();
            }
        });
        for _ in 0..ROUNDS {
            let (memory, region) = Memory::over(vec![0; 8]);
            let writable = exported(&world, &memory);
            drop(memory);
            let offer = world.announced.offers.lock().unwrap()[0].clone();
            offers.send(offer).unwrap();
            assert!(block_on(writable.reclaim()).outcome.is_ok());
            shared += usize::from(region.try_into_vec().is_err());
        }
        drop(offers);
        over.store(true, Ordering::SeqCst);
    });
    assert_eq!(shared, 0, "of {ROUNDS}");
}
