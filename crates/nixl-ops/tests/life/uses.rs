//! Uses of an offer by an initiator: its conditions, its traces and the message of its end.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use bytes::Bytes;
use nixl_descriptor::{DescriptorList, LeaseMode, Leased, Leases, Region, Registrar};
use nixl_metadata::{ClaimDemand, NotificationKey, RdmaMetadata};
use nixl_ops::{
    Clock as _, Connected, DirectTransfer, EndedOffer, Execution, FoundSlot, KeyRecord, KeyUse,
    ManualClock, OfferUse, OperationError, OperationKind, OperationStatus, PathKind, PathReport,
    PeerId, PeerMemory, ReadableOperation, RemoteSlot, RemoteSlots, RevokeOutcome, SpentKeys,
    Transfer, TransferRequest, TransferSpec, Transport, TransportError, WritableOperation,
};
use proptest::collection::vec;
use proptest::prelude::*;

use crate::peer::{CLAIMED, DONE, OPEN, PeerSlot, REVOKED};
use crate::world::{Inbox, Memory, Offering, World, broken, now};

/// What one transfer does, and what it was asked to.
#[derive(Debug, Default)]
struct Wire {
    completes_in_memory: bool,
    /// The answer of each poll; pending if there is none.
    result: Mutex<Option<Result<(), TransportError>>>,
    /// Fails before it is posted.
    refuses: AtomicBool,
    polls: AtomicUsize,
    /// What travelled with the transfer, once one was prepared.
    travelling: Mutex<Option<Option<Bytes>>>,
    /// Messages of their own.
    messages: Mutex<Vec<Vec<u8>>>,
    inbox: Inbox,
}

impl Wire {
    fn new(completes_in_memory: bool) -> Arc<Self> {
        Arc::new(Self { completes_in_memory, ..Self::default() })
    }

    fn end(&self, result: Result<(), TransportError>) {
        *self.result.lock().unwrap() = Some(result);
    }
}

#[derive(Debug)]
struct Engine(Arc<Wire>);

// SAFETY: it touches no memory.
#[allow(unsafe_code, reason = "the trait is trusted with memory")]
unsafe impl Transport for Engine {
    fn name(&self) -> &'static str {
        "wire"
    }

    fn completes_in_memory(&self) -> bool {
        self.0.completes_in_memory
    }

    fn agent_name(&self) -> &str {
        "wire-1"
    }

    fn registrar(&self) -> Arc<dyn Registrar> {
        self.0.inbox.registrar()
    }

    fn local_metadata(&self) -> Result<Bytes, TransportError> {
        Err(TransportError::Closed)
    }

    fn connect(&self, _: &[u8]) -> Result<Connected, TransportError> {
        Err(TransportError::Closed)
    }

    fn disconnect(&self, _: &PeerId) -> Result<(), TransportError> {
        Err(TransportError::Closed)
    }

    fn prepare(&self, spec: TransferSpec<'_>) -> Result<Box<dyn Transfer>, TransportError> {
        *self.0.travelling.lock().unwrap() = Some(spec.notification().cloned());
        let leased = Some(spec.leased().clone());
        Ok(Box::new(Moving { wire: Arc::clone(&self.0), leased, posted: false, ended: false }))
    }

    fn notify(&self, _: &PeerId, payload: &[u8]) -> Poll<Result<(), TransportError>> {
        self.0.messages.lock().unwrap().push(payload.to_vec());
        Poll::Ready(Ok(()))
    }

    fn take_notifications(&self, _: &mut dyn FnMut(&str, &[u8])) -> Result<(), TransportError> {
        Ok(())
    }
}

struct Moving {
    wire: Arc<Wire>,
    leased: Option<Leased>,
    posted: bool,
    ended: bool,
}

// SAFETY: no engine touches the memory.
#[allow(unsafe_code, reason = "the trait is trusted with memory")]
unsafe impl Transfer for Moving {
    fn poll(&mut self, _: &mut Context<'_>) -> Poll<Result<(), TransportError>> {
        self.wire.polls.fetch_add(1, Ordering::SeqCst);
        if self.wire.refuses.load(Ordering::SeqCst) {
            return Poll::Ready(Err(broken()));
        }
        self.posted = true;
        let result = self.wire.result.lock().unwrap().clone();
        self.ended = result.is_some();
        result.map_or(Poll::Pending, Poll::Ready)
    }

    fn in_flight(&self) -> bool {
        self.posted && !self.ended
    }

    fn was_posted(&self) -> bool {
        self.posted
    }

    fn descriptors(&self) -> usize {
        1
    }
}

impl Drop for Moving {
    fn drop(&mut self) {
        if self.in_flight()
            && let Some(leased) = self.leased.take()
        {
            leased.leak();
        }
    }
}

fn slot(metadata: &RdmaMetadata) -> RemoteSlot {
    let slots = RemoteSlots::default();
    slots.open(metadata.slot_address().unwrap());
    match slots.find(metadata) {
        FoundSlot::Mapped(slot) => slot,
        other => panic!("{other:?}"),
    }
}

fn key_use(key: &NotificationKey) -> Result<KeyUse, TransportError> {
    let clock = ManualClock::new();
    let until = clock.unix_time() + Duration::from_secs(600);
    SpentKeys::of_this_process().begin(key, 1, KeyRecord::new(&clock, until))
}

fn is_spent(key: &NotificationKey) -> bool {
    match key_use(key) {
        Ok(_) => false,
        Err(error) => {
            assert_eq!(error, TransportError::OfferEnded { why: EndedOffer::Spent });
            true
        }
    }
}

/// A transfer to or from all of an offer.
fn direct(
    wire: &Arc<Wire>,
    kind: OperationKind,
    metadata: &RdmaMetadata,
    slot: Option<&RemoteSlot>,
) -> Box<dyn Execution> {
    let memory = Memory::small();
    let (list, leased) = (memory.list(), memory.leased());
    let transport: Arc<dyn Transport> = Arc::new(Engine(Arc::clone(wire)));
    let peer = PeerId::new("owner");
    let (local, no_registrations) = ((&list, &leased), Vec::new());
    let request =
        TransferRequest::inter_process(kind, local, metadata, &transport, &peer, no_registrations);
    let transfer = DirectTransfer::prepare(PathKind::Direct, &request.with_slot(slot)).unwrap();
    Box::new(transfer)
}

/// Polls an execution outside of a driver.
fn drive(execution: &mut dyn Execution) -> Poll<Result<(), TransportError>> {
    execution.poll(&mut Context::from_waker(Waker::noop()))
}

/// A use of an offer by its slot, whose key is remembered too.
fn using(wire: &Arc<Wire>, kind: OperationKind, metadata: &RdmaMetadata) -> Box<dyn Execution> {
    let slot = slot(metadata);
    let execution = direct(wire, kind, metadata, Some(&slot));
    let key = key_use(metadata.notification_key()).unwrap();
    OfferUse::of(execution, Some(slot), Some(key))
}

fn writable() -> Offering {
    Offering::writable().with_slot().claims(ClaimDemand::Everywhere)
}

fn readable() -> Offering {
    Offering::readable().with_slot().readers(1)
}

fn own_pid() -> u64 {
    u64::from(std::process::id())
}

#[test]
fn after_an_rdma_write_the_end_is_told_on_the_same_connection() {
    let mut world = World::new();
    let memory = Memory::small();
    let writable = world.offer(writable(), &memory);
    let (peer, key) = (PeerSlot::of(writable.metadata()), writable.metadata().notification_key());
    let wire = Wire::new(false);
    let mut write = using(&wire, OperationKind::Write, writable.metadata());
    let travelling = wire.travelling.lock().unwrap().clone().unwrap();
    assert_eq!(travelling.as_deref(), Some(key.as_bytes()), "with the transfer");
    wire.end(Ok(()));
    assert_eq!(drive(&mut *write), Poll::Ready(Ok(())));
    drop(write);
    assert_eq!(peer.seen(), Some((own_pid(), CLAIMED)), "the slot says nothing of the bytes");
    assert!(wire.messages.lock().unwrap().is_empty(), "no message that could overtake them");
    world.reactor.turn();
    assert_eq!(writable.status(), OperationStatus::Initialized);
    world.inbox.push(key.as_bytes());
    world.reactor.turn();
    assert_eq!(writable.status(), OperationStatus::Complete);
    assert!(!memory.is_leased());
}

#[test]
fn where_bytes_are_in_place_at_the_end_of_the_request_the_slot_tells_it() {
    for (completes_in_memory, kind) in
        [(false, OperationKind::Read), (true, OperationKind::Read), (true, OperationKind::Write)]
    {
        let mut world = World::new();
        let memory = Memory::small();
        let offer = Offer::of(&world, kind, &memory);
        let peer = PeerSlot::of(offer.metadata());
        let wire = Wire::new(completes_in_memory);
        wire.end(Ok(()));
        let mut execution = using(&wire, kind, offer.metadata());
        assert_eq!(*wire.travelling.lock().unwrap(), Some(None), "nothing with the transfer");
        assert_eq!(drive(&mut *execution), Poll::Ready(Ok(())));
        assert!(matches!(peer.seen(), Some((_, DONE))));
        assert!(wire.messages.lock().unwrap().is_empty());
        world.reactor.turn();
        assert_eq!(offer.status(), OperationStatus::Complete);
        assert!(!memory.is_leased());
    }
}

#[test]
fn without_a_slot_the_notification_travels_with_the_transfer() {
    let world = World::new();
    for completes_in_memory in [false, true] {
        for kind in [OperationKind::Read, OperationKind::Write] {
            let memory = Memory::small();
            let offer = Offer::of(&world, kind, &memory);
            let wire = Wire::new(completes_in_memory);
            wire.end(Ok(()));
            let mut execution = direct(&wire, kind, offer.metadata(), None);
            let travelling = wire.travelling.lock().unwrap().clone().unwrap();
            let key = offer.metadata().notification_key();
            assert_eq!(travelling.as_deref(), Some(key.as_bytes()));
            assert_eq!(drive(&mut *execution), Poll::Ready(Ok(())));
            assert!(wire.messages.lock().unwrap().is_empty());
        }
    }
}

#[test]
fn where_a_peer_has_overwritten_the_slot_a_message_tells_the_end_of_a_write() {
    let mut world = World::new();
    let memory = Memory::small();
    let writable = world.offer(writable(), &memory);
    let peer = PeerSlot::of(writable.metadata());
    let wire = Wire::new(true);
    let mut write = using(&wire, OperationKind::Write, writable.metadata());
    assert!(drive(&mut *write).is_pending());
    peer.overwrite(0, REVOKED);
    wire.end(Ok(()));
    assert_eq!(drive(&mut *write), Poll::Ready(Ok(())));
    let messages = wire.messages.lock().unwrap().clone();
    assert_eq!(messages, [writable.metadata().notification_key().as_bytes()]);
    world.inbox.push(&messages[0]);
    world.reactor.turn();
    assert_eq!(writable.status(), OperationStatus::Complete);
}

/// An offer of either kind, with a slot and terms.
enum Offer {
    Read(ReadableOperation),
    Write(WritableOperation),
}

impl Offer {
    fn of(world: &World, kind: OperationKind, memory: &Memory) -> Self {
        match kind {
            OperationKind::Read => Self::Read(world.readable(readable(), memory)),
            OperationKind::Write => Self::Write(world.offer(writable(), memory)),
        }
    }

    fn metadata(&self) -> &RdmaMetadata {
        match self {
            Self::Read(offer) => offer.metadata(),
            Self::Write(offer) => offer.metadata(),
        }
    }

    fn status(&self) -> OperationStatus {
        match self {
            Self::Read(offer) => offer.status(),
            Self::Write(offer) => offer.status(),
        }
    }

    fn revoke(&mut self) -> RevokeOutcome {
        match self {
            Self::Read(offer) => offer.revoke(),
            Self::Write(offer) => offer.revoke(),
        }
    }
}

const KINDS: [OperationKind; 2] = [OperationKind::Read, OperationKind::Write];

#[test]
fn an_attempt_that_failed_before_it_posted_leaves_the_offer_usable() {
    let mut world = World::new();
    for kind in KINDS {
        let memory = Memory::small();
        let offer = Offer::of(&world, kind, &memory);
        let (peer, key) = (PeerSlot::of(offer.metadata()), offer.metadata().notification_key());
        let wire = Wire::new(true);
        wire.refuses.store(true, Ordering::SeqCst);
        let mut failed = using(&wire, kind, offer.metadata());
        assert_eq!(drive(&mut *failed), Poll::Ready(Err(broken())));
        assert!(failed.peer_memory().is_untouched());
        drop(failed);
        assert_eq!(peer.seen(), Some((0, OPEN)));
        assert!(!is_spent(key));
        let wire = Wire::new(true);
        wire.end(Ok(()));
        assert_eq!(drive(&mut *using(&wire, kind, offer.metadata())), Poll::Ready(Ok(())));
        world.reactor.turn();
        assert_eq!(offer.status(), OperationStatus::Complete);
        assert!(is_spent(key));
    }
}

#[test]
fn an_attempt_that_was_dropped_before_it_began_leaves_the_offer_usable() {
    let world = World::new();
    for kind in KINDS {
        let offer = Offer::of(&world, kind, &Memory::small());
        let wire = Wire::new(true);
        let mut unbegun = using(&wire, kind, offer.metadata());
        assert!(unbegun.peer_memory().is_untouched() && unbegun.abandon());
        drop(unbegun);
        drop(using(&wire, kind, offer.metadata()));
        assert_eq!(PeerSlot::of(offer.metadata()).seen(), Some((0, OPEN)));
        assert!(!is_spent(offer.metadata().notification_key()));
        assert_eq!(wire.polls.load(Ordering::SeqCst), 0);
    }
}

#[test]
fn an_attempt_that_failed_after_it_posted_spends_the_key_and_proves_nothing() {
    let mut world = World::new();
    for kind in KINDS {
        let memory = Memory::small();
        let mut offer = Offer::of(&world, kind, &memory);
        let wire = Wire::new(true);
        let mut failed = using(&wire, kind, offer.metadata());
        assert!(drive(&mut *failed).is_pending());
        wire.end(Err(broken()));
        assert_eq!(drive(&mut *failed), Poll::Ready(Err(broken())));
        assert!(!failed.peer_memory().is_quiet());
        drop(failed);
        assert!(is_spent(offer.metadata().notification_key()));
        world.reactor.turn();
        assert_eq!(offer.status(), OperationStatus::Initialized, "an error is no word");
        let (seen, revoked) = match kind {
            OperationKind::Read => ((0, OPEN), RevokeOutcome::Free),
            OperationKind::Write => ((own_pid(), CLAIMED), RevokeOutcome::Held),
        };
        assert_eq!(PeerSlot::of(offer.metadata()).seen(), Some(seen));
        assert_eq!(offer.revoke(), revoked);
    }
}

#[test]
fn an_attempt_that_is_dropped_in_flight_spends_the_key_and_keeps_its_claim() {
    let world = World::new();
    let mut offer = Offer::of(&world, OperationKind::Write, &Memory::small());
    let wire = Wire::new(true);
    let mut write = using(&wire, OperationKind::Write, offer.metadata());
    assert!(drive(&mut *write).is_pending());
    assert!(!write.abandon(), "it is in flight");
    drop(write);
    assert!(is_spent(offer.metadata().notification_key()));
    assert_eq!(offer.revoke(), RevokeOutcome::Held);
}

#[test]
fn a_second_use_is_refused_before_a_byte_moves() {
    let world = World::new();
    for (kind, why) in
        [(OperationKind::Read, EndedOffer::Used), (OperationKind::Write, EndedOffer::Claimed)]
    {
        let offer = Offer::of(&world, kind, &Memory::small());
        let wire = Wire::new(true);
        let mut first = using(&wire, kind, offer.metadata());
        assert!(drive(&mut *first).is_pending());
        if kind == OperationKind::Read {
            wire.end(Ok(()));
            assert_eq!(drive(&mut *first), Poll::Ready(Ok(())));
        }
        // In another process, where the key is not known.
        let wire = Wire::new(true);
        let slot = slot(offer.metadata());
        let execution = direct(&wire, kind, offer.metadata(), Some(&slot));
        let mut second = OfferUse::of(execution, Some(slot), None);
        assert_eq!(drive(&mut *second), Poll::Ready(Err(TransportError::OfferEnded { why })));
        assert!(second.peer_memory().is_untouched());
        assert_eq!(wire.polls.load(Ordering::SeqCst), 0);
        drop(second);
        if kind == OperationKind::Write {
            let seen = PeerSlot::of(offer.metadata()).seen();
            assert_eq!(seen, Some((own_pid(), CLAIMED)), "the first still holds it");
        }
    }
}

#[test]
fn an_offer_that_was_revoked_is_refused_and_leaves_the_key_alone() {
    let world = World::new();
    for kind in KINDS {
        let mut offer = Offer::of(&world, kind, &Memory::small());
        let wire = Wire::new(true);
        let mut late = using(&wire, kind, offer.metadata());
        assert_eq!(offer.revoke(), RevokeOutcome::Free);
        let why = EndedOffer::Revoked;
        assert_eq!(drive(&mut *late), Poll::Ready(Err(TransportError::OfferEnded { why })));
        drop(late);
        assert_eq!(wire.polls.load(Ordering::SeqCst), 0);
        assert!(!is_spent(offer.metadata().notification_key()));
    }
}

#[test]
fn a_read_that_its_owner_overtakes_is_stale() {
    let world = World::new();
    let mut offer = Offer::of(&world, OperationKind::Read, &Memory::small());
    let wire = Wire::new(false);
    let mut read = using(&wire, OperationKind::Read, offer.metadata());
    assert!(drive(&mut *read).is_pending());
    assert_eq!(offer.revoke(), RevokeOutcome::Free);
    wire.end(Ok(()));
    assert_eq!(drive(&mut *read), Poll::Ready(Err(TransportError::Stale)));
    drop(read);
    assert!(is_spent(offer.metadata().notification_key()));
    assert!(wire.messages.lock().unwrap().is_empty());
}

/// Ends without success, and with all of its accesses over.
struct FailsQuietly;

impl Execution for FailsQuietly {
    fn poll(&mut self, _: &mut Context<'_>) -> Poll<Result<(), TransportError>> {
        Poll::Ready(Err(broken()))
    }

    fn abandon(&mut self) -> bool {
        true
    }

    fn report(&self) -> PathReport {
        PathReport::new(PathKind::SharedMemory, "none", 64, 1)
    }

    #[allow(unsafe_code, reason = "promises that accesses are over")]
    fn peer_memory(&self) -> PeerMemory {
        // SAFETY: it never accessed the memory.
        unsafe { PeerMemory::quiet() }
    }
}

#[test]
fn an_attempt_whose_accesses_are_over_declines_the_offer() {
    for kind in KINDS {
        let mut world = World::new();
        let memory = Memory::small();
        let offer = Offer::of(&world, kind, &memory);
        let key = offer.metadata().notification_key();
        let slot = slot(offer.metadata());
        let mut failed =
            OfferUse::of(Box::new(FailsQuietly), Some(slot), Some(key_use(key).unwrap()));
        assert_eq!(drive(&mut *failed), Poll::Ready(Err(broken())));
        world.reactor.turn();
        assert_eq!(offer.status(), OperationStatus::Errored);
        assert!(!memory.is_leased() && is_spent(key));
        match offer {
            Offer::Read(mut offer) => {
                assert_eq!(now(offer.wait_for_completion()), Err(OperationError::Declined));
            }
            Offer::Write(mut offer) => {
                assert_eq!(now(offer.wait_for_completion()), Err(OperationError::Declined));
            }
        }
    }
}

/// Descriptors of the ranges of one region.
fn list(region: &Region, ranges: &[(usize, usize)]) -> DescriptorList {
    let descriptors = ranges.iter().map(|(start, len)| region.descriptor(*start..start + len));
    descriptors.collect::<Result<Vec<_>, _>>().unwrap().try_into().unwrap()
}

fn spec<'a>(
    kind: OperationKind,
    peer: &'a PeerId,
    local: &'a DescriptorList,
    leased: &'a Leased,
) -> Result<TransferSpec<'a>, TransportError> {
    TransferSpec::new(kind, peer, (local.as_slice(), leased), &[], None, Vec::new())
}

proptest! {
    #[test]
    fn a_transfer_needs_the_proof_that_each_of_its_bytes_is_leased(
        leased in vec((0..60usize, 1..20usize), 1..6),
        local in vec((0..60usize, 1..12usize), 1..6),
    ) {
        let region = Region::try_from(vec![0; 80]).unwrap();
        let other = Region::try_from(vec![0; 80]).unwrap();
        let (proven, local) = (list(&region, &leased), list(&region, &local));
        let proof: Leased = Leases::acquire(proven.as_slice(), LeaseMode::Read).unwrap().into();
        let is_leased = |at: u64| leased.iter().any(|(start, len)| {
            (region.address() + *start as u64..region.address() + (start + len) as u64).contains(&at)
        });
        let uncovered = local.iter().position(|descriptor| {
            let address = descriptor.address();
            !(address..address + descriptor.len() as u64).all(is_leased)
        });
        let peer = PeerId::new("owner");
        let made = spec(OperationKind::Write, &peer, &local, &proof).map(drop);
        let expected = uncovered.map_or(Ok(()), |index| Err(TransportError::NotLeased { index }));
        prop_assert_eq!(made, expected);
        // The same places of other memory.
        let elsewhere = list(&other, &[(0, 1)]);
        let made = spec(OperationKind::Write, &peer, &elsewhere, &proof).map(drop);
        prop_assert_eq!(made, Err(TransportError::NotLeased { index: 0 }));
    }
}

#[test]
fn a_read_needs_a_lease_to_write() {
    let memory = Memory::small();
    let (list, peer) = (memory.list(), PeerId::new("owner"));
    for (mode, kind, suits) in [
        (LeaseMode::Read, OperationKind::Read, false),
        (LeaseMode::Read, OperationKind::Write, true),
        (LeaseMode::Write, OperationKind::Read, true),
        (LeaseMode::Write, OperationKind::Write, true),
    ] {
        let leased: Leased = Leases::acquire(list.as_slice(), mode).unwrap().into();
        let made = spec(kind, &peer, &list, &leased).map(drop);
        let refused = Err(TransportError::NotLeased { index: 0 });
        assert_eq!(made, if suits { Ok(()) } else { refused });
    }
}

#[test]
fn a_transfer_that_is_dropped_in_flight_keeps_its_memory_leased() {
    let world = World::new();
    let offer = Offer::of(&world, OperationKind::Read, &Memory::small());
    for posted in [false, true] {
        let memory = Memory::small();
        let wire = Wire::new(false);
        let (list, leased) = (memory.list(), memory.leased());
        let transport: Arc<dyn Transport> = Arc::new(Engine(Arc::clone(&wire)));
        let peer = PeerId::new("owner");
        let request = TransferRequest::inter_process(
            OperationKind::Read,
            (&list, &leased),
            offer.metadata(),
            &transport,
            &peer,
            Vec::new(),
        );
        let mut transfer = DirectTransfer::prepare(PathKind::Direct, &request).unwrap();
        drop(leased);
        assert!(memory.is_leased(), "by the transfer");
        if posted {
            assert!(transfer.poll(&mut Context::from_waker(Waker::noop())).is_pending());
        }
        drop(transfer);
        assert_eq!(memory.is_leased(), posted);
    }
}
