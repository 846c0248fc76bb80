//! Owner and initiators of one page, against a model, against each other, and against a peer that misuses the page.
#![allow(clippy::unwrap_used, reason = "tests")]

use std::collections::BTreeMap;
use std::num::{NonZeroU32, NonZeroU64};
use std::os::fd::AsRawFd as _;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Barrier};
use std::thread;
use std::time::{Duration, UNIX_EPOCH};

use nixl_descriptor::SharedName;
use nixl_device::Device;
use nixl_metadata::{
    AgentMetadata, NotificationKey, OfferTerms, OperationKind, RdmaMetadata, SerializedDescriptor,
    SlotAddress,
};
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::Index;
use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, ftruncate, memfd_create};

use super::page::word;
use super::word::SlotWord;
use super::{FoundSlot, OfferPage, OfferSlot, RemoteSlot, RemoteSlots, Revocation, SlotEvent};
use crate::mailbox::Reached;
use crate::{EndedOffer, TransportError};

/// The process numbers of the initiators.
const PIDS: [u32; 3] = [1001, 1002, 1003];

fn metadata(
    doorbell: SlotAddress,
    kind: OperationKind,
    key: NotificationKey,
    readers: Option<u32>,
) -> RdmaMetadata {
    let descriptor = SerializedDescriptor::new(Device::HOST, 4096, 64).unwrap();
    let agent = AgentMetadata::compress(b"owner").unwrap();
    let metadata = RdmaMetadata::new(kind, vec![descriptor], agent, key).unwrap();
    let metadata = metadata.with_slot_address(doorbell).unwrap();
    let Some(readers) = readers else { return metadata };
    let expires = UNIX_EPOCH + Duration::from_secs(1);
    let terms = OfferTerms::new(expires, NonZeroU64::MIN).unwrap();
    metadata.with_terms(terms.with_readers(NonZeroU32::new(readers).unwrap())).unwrap()
}

/// The slot as the process of this number finds it.
fn found(pid: u32, metadata: &RdmaMetadata) -> RemoteSlot {
    let slots = RemoteSlots::of_process(pid);
    slots.open(metadata.slot_address().unwrap());
    match slots.find(metadata) {
        FoundSlot::Mapped(slot) => slot,
        other => panic!("{other:?}"),
    }
}

fn refused(why: EndedOffer) -> Result<(), TransportError> {
    Err(TransportError::OfferEnded { why })
}

/// An offer and those who use it.
struct Offered {
    slot: OfferSlot,
    key: NotificationKey,
    remote: Vec<RemoteSlot>,
}

fn offered(page: &Arc<OfferPage>, kind: OperationKind, readers: u32) -> Offered {
    let key = NotificationKey::random();
    let slot = page.arm(&key, kind).unwrap();
    let metadata = metadata(slot.address(), kind, key.clone(), Some(readers));
    let remote = PIDS.map(|pid| found(pid, &metadata)).into();
    Offered { slot, key, remote }
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Expected {
    Open,
    Claimed(usize),
    Done,
    Revoked,
    /// The owner has dropped the slot.
    Gone,
}

/// An offer as it should be.
struct Modelled {
    kind: OperationKind,
    readers: u32,
    state: Expected,
    uses: u32,
    successes: u32,
    /// Its end is in the slot, and was not taken from there.
    rung: bool,
    slot: Option<OfferSlot>,
    key: NotificationKey,
    doorbell: SlotAddress,
    remote: Vec<RemoteSlot>,
}

impl Modelled {
    fn is_write(&self) -> bool {
        self.kind == OperationKind::Write
    }

    fn end(&mut self, succeeded: bool) {
        self.uses += 1;
        self.successes += u32::from(succeeded);
        self.rung = true;
        if self.is_write() || self.uses == self.readers {
            self.state = Expected::Done;
        }
    }

    /// Whether a call that begins a use is granted, as far as the model can tell: which error it is after the slot was freed depends
    /// on whether it is used again.
    fn check_begin(&mut self, who: usize, begun: &Result<(), TransportError>) {
        let expected = match self.state {
            Expected::Open => Ok(()),
            Expected::Claimed(_) => refused(EndedOffer::Claimed),
            Expected::Done => refused(EndedOffer::Used),
            Expected::Revoked => refused(EndedOffer::Revoked),
            Expected::Gone => return assert!(begun.is_err(), "{begun:?} after the end"),
        };
        assert_eq!(*begun, expected);
        if begun.is_ok() && self.is_write() {
            self.state = Expected::Claimed(who);
        }
    }

    fn may_end(&self, who: usize) -> bool {
        match self.kind {
            OperationKind::Read => self.state == Expected::Open,
            OperationKind::Write => self.state == Expected::Claimed(who),
        }
    }
}

#[derive(Clone, Debug)]
enum Step {
    Arm { write: bool, readers: u32 },
    Begin(Index, usize),
    Undo(Index, usize),
    Complete(Index, usize),
    Fail(Index, usize),
    Decline(Index, usize),
    Revoke(Index),
    Drop(Index),
    Poll,
}

fn step() -> impl Strategy<Value = Step> {
    let who = || 0..PIDS.len();
    prop_oneof![
        3 => (any::<bool>(), 1..4u32).prop_map(|(write, readers)| Step::Arm { write, readers }),
        4 => (any::<Index>(), who()).prop_map(|(offer, who)| Step::Begin(offer, who)),
        1 => (any::<Index>(), who()).prop_map(|(offer, who)| Step::Undo(offer, who)),
        4 => (any::<Index>(), who()).prop_map(|(offer, who)| Step::Complete(offer, who)),
        2 => (any::<Index>(), who()).prop_map(|(offer, who)| Step::Fail(offer, who)),
        1 => (any::<Index>(), who()).prop_map(|(offer, who)| Step::Decline(offer, who)),
        2 => any::<Index>().prop_map(Step::Revoke),
        3 => any::<Index>().prop_map(Step::Drop),
        3 => Just(Step::Poll),
    ]
}

struct Model {
    page: Arc<OfferPage>,
    offers: Vec<Modelled>,
    /// Take all slots but a few, so that those few are used again and again.
    _others: Vec<OfferSlot>,
}

impl Model {
    const FREE: usize = 3;

    fn new() -> Self {
        let page = Arc::<OfferPage>::default();
        let key = NotificationKey::random();
        let others = (Self::FREE..SlotAddress::SLOTS as usize)
            .map(|_| page.arm(&key, OperationKind::Write).unwrap())
            .collect();
        Self { page, offers: Vec::new(), _others: others }
    }

    fn apply(&mut self, step: &Step) {
        if let Step::Arm { write, readers } = *step {
            return self.arm(write, readers);
        }
        if let Step::Poll = step {
            return self.poll();
        }
        if self.offers.is_empty() {
            return;
        }
        let offers = &mut self.offers;
        match *step {
            Step::Begin(offer, who) => {
                let offer = offer.get_mut(offers);
                let begun = offer.remote[who].begin();
                offer.check_begin(who, &begun);
            }
            Step::Undo(offer, who) => {
                let offer = offer.get_mut(offers);
                offer.remote[who].undo();
                if offer.state == Expected::Claimed(who) {
                    offer.state = Expected::Open;
                }
            }
            Step::Complete(offer, who) => {
                let offer = offer.get_mut(offers);
                let ended = offer.remote[who].complete();
                match (offer.may_end(who), offer.kind) {
                    (true, _) => {
                        assert_eq!(ended, Ok(()));
                        offer.end(true);
                    }
                    (false, OperationKind::Read) => assert_eq!(ended, Err(TransportError::Stale)),
                    (false, OperationKind::Write) => {
                        assert!(matches!(ended, Err(TransportError::OfferEnded { .. })));
                    }
                }
            }
            Step::Fail(offer, who) => {
                let offer = offer.get_mut(offers);
                offer.remote[who].fail();
                if offer.may_end(who) {
                    offer.end(false);
                }
            }
            Step::Decline(offer, who) => {
                let offer = offer.get_mut(offers);
                let declined = offer.remote[who].decline();
                offer.check_begin(who, &declined);
                if declined.is_ok() {
                    offer.end(false);
                }
            }
            Step::Revoke(offer) => {
                let offer = offer.get_mut(offers);
                let Some(slot) = &offer.slot else { return };
                let expected = match offer.state {
                    Expected::Open | Expected::Revoked => Revocation::Unclaimed,
                    Expected::Claimed(who) => Revocation::Claimed(PIDS[who]),
                    Expected::Done => Revocation::Ended,
                    Expected::Gone => unreachable!("its slot is there"),
                };
                assert_eq!(slot.revoke(), expected);
                if offer.state == Expected::Open {
                    offer.state = Expected::Revoked;
                }
            }
            Step::Drop(offer) => {
                let offer = offer.get_mut(offers);
                offer.slot = None;
                offer.state = Expected::Gone;
                offer.rung = false;
            }
            Step::Arm { .. } | Step::Poll => {}
        }
    }

    fn arm(&mut self, write: bool, readers: u32) {
        let (kind, readers) = match write {
            true => (OperationKind::Write, 1),
            false => (OperationKind::Read, readers),
        };
        let taken = self.offers.iter().filter(|offer| offer.slot.is_some()).count();
        let key = NotificationKey::random();
        let slot = self.page.arm(&key, kind);
        assert_eq!(slot.is_some(), taken < Self::FREE);
        let Some(slot) = slot else { return };
        let doorbell = slot.address();
        let metadata = metadata(doorbell, kind, key.clone(), Some(readers));
        self.offers.push(Modelled {
            kind,
            readers,
            state: Expected::Open,
            uses: 0,
            successes: 0,
            rung: false,
            slot: Some(slot),
            key,
            doorbell,
            remote: PIDS.map(|pid| found(pid, &metadata)).into(),
        });
    }

    fn poll(&mut self) {
        let mut events = BTreeMap::new();
        self.page.poll(&mut |key, event| {
            assert!(events.insert(key.as_bytes().to_vec(), event).is_none(), "told twice");
        });
        for offer in &mut self.offers {
            let event = events.remove(offer.key.as_bytes());
            let expected = SlotEvent { uses: offer.uses, successes: offer.successes };
            assert_eq!(event, offer.rung.then_some(expected));
            offer.rung = false;
        }
        assert!(events.is_empty(), "told of no offer");
    }

    /// Every offer that is there is as the model says, however those ended that had its slot before.
    fn check(&self) {
        for offer in &self.offers {
            let Some(slot) = &offer.slot else { continue };
            let event = SlotEvent { uses: offer.uses, successes: offer.successes };
            assert_eq!(slot.event(), (offer.uses > 0).then_some(event));
            let place = word(self.page.memory().unwrap(), offer.doorbell.slot()).unwrap();
            let seen = SlotWord::from_bits(place.load(Ordering::Relaxed));
            assert!(seen.is_of(offer.doorbell.token()));
            let expected = match offer.state {
                Expected::Open => super::word::SlotState::Open,
                Expected::Claimed(who) => super::word::SlotState::Claimed(PIDS[who]),
                Expected::Done => super::word::SlotState::Done,
                Expected::Revoked | Expected::Gone => super::word::SlotState::Revoked,
            };
            assert_eq!(seen.state(), expected);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn a_page_does_what_its_owner_and_its_initiators_say_and_nothing_else(
        steps in vec(step(), 1..200),
    ) {
        let mut model = Model::new();
        for step in &steps {
            model.apply(step);
            model.check();
        }
        model.poll();
    }
}

/// A peer that writes to the page what it likes, short of the tokens of others, which it could read there.
#[derive(Clone, Debug)]
enum Scribble {
    /// Anything, anywhere.
    Number {
        word: Index,
        number: u64,
    },
    /// All bits of the words that lead the owner to slots.
    AllBits,
    NoBits,
    /// What is in one slot, to another.
    Move {
        from: Index,
        to: Index,
    },
    /// What was in the slot when another offer had it.
    Replay {
        slot: Index,
    },
}

fn scribble() -> impl Strategy<Value = Scribble> {
    prop_oneof![
        4 => (any::<Index>(), prop_oneof![0..300u64, any::<u64>(), Just(u64::MAX)])
            .prop_map(|(word, number)| Scribble::Number { word, number }),
        1 => Just(Scribble::AllBits),
        1 => Just(Scribble::NoBits),
        3 => (any::<Index>(), any::<Index>()).prop_map(|(from, to)| Scribble::Move { from, to }),
        3 => any::<Index>().prop_map(|slot| Scribble::Replay { slot }),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn a_peer_that_scribbles_over_the_page_can_lose_a_word_and_says_none(
        scribbles in vec(scribble(), 1..60),
        completes in vec(any::<bool>(), 8),
    ) {
        const OFFERS: usize = 8;
        let page = Arc::<OfferPage>::default();
        // Words that the slots had under other offers, which ended well.
        let mut old = Vec::new();
        let mut others = Vec::new();
        for at in 0..SlotAddress::SLOTS as usize {
            if at < OFFERS {
                let offer = offered(&page, OperationKind::Write, 1);
                offer.remote[0].begin().unwrap();
                offer.remote[0].complete().unwrap();
                let place = word(page.memory().unwrap(), offer.slot.address().slot()).unwrap();
                old.push(place.load(Ordering::Relaxed));
            } else {
                others.push(page.arm(&NotificationKey::random(), OperationKind::Write).unwrap());
            }
        }
        let offers: Vec<_> = (0..OFFERS).map(|_| offered(&page, OperationKind::Write, 1)).collect();
        let memory = page.memory().unwrap();
        let place = |slot: usize| word(memory, u32::try_from(slot).unwrap()).unwrap();
        for (offer, complete) in offers.iter().zip(&completes) {
            if *complete {
                offer.remote[1].begin().unwrap();
                offer.remote[1].complete().unwrap();
            }
        }
        let content = || -> Vec<u64> {
            let slots = offers.iter().map(|offer| offer.slot.address().slot() as usize);
            slots.map(|slot| place(slot).load(Ordering::Relaxed)).collect()
        };
        let honest = content();
        for scribble in scribbles {
            match scribble {
                Scribble::Number { word, number } => {
                    let index = word.index(SlotAddress::WORDS);
                    memory.word(index).unwrap().store(number, Ordering::Relaxed);
                }
                Scribble::AllBits | Scribble::NoBits => {
                    let bits = if matches!(scribble, Scribble::AllBits) { u64::MAX } else { 0 };
                    (0..65).for_each(|at| memory.word(at).unwrap().store(bits, Ordering::Relaxed));
                }
                Scribble::Move { from, to } if from.index(OFFERS) != to.index(OFFERS) => {
                    let number = place(from.index(OFFERS)).load(Ordering::Relaxed);
                    place(to.index(OFFERS)).store(number, Ordering::Relaxed);
                }
                Scribble::Move { .. } => {}
                Scribble::Replay { slot } => {
                    let at = slot.index(OFFERS);
                    place(at).store(old[at], Ordering::Relaxed);
                }
            }
        }
        let seen = content();
        let mut told = Vec::new();
        page.poll(&mut |key, event| told.push((key.clone(), event)));
        for (at, offer) in offers.iter().enumerate() {
            let event = SlotEvent { uses: 1, successes: 1 };
            let events: Vec<_> = told.iter().filter(|(key, _)| *key == offer.key).collect();
            prop_assert!(events.len() <= 1);
            if seen[at] == honest[at] {
                // Not told if the bits that lead to it are lost: but found where the owner looks.
                prop_assert_eq!(offer.slot.event(), completes[at].then_some(event));
                prop_assert!(events.iter().all(|(_, told)| completes[at] && *told == event));
                let revoked = if completes[at] { Revocation::Ended } else { Revocation::Unclaimed };
                prop_assert_eq!(offer.slot.revoke(), revoked);
            } else {
                prop_assert!(events.is_empty(), "told what its initiator has not said");
                prop_assert_eq!(offer.slot.event(), None);
                prop_assert_eq!(offer.slot.revoke(), Revocation::Claimed(0), "it may have been claimed");
                prop_assert!(offer.remote[2].begin().is_err());
            }
        }
        prop_assert!(told.iter().all(|(key, _)| offers.iter().any(|offer| offer.key == *key)));
    }
}

/// All threads do the same round at the same time.
fn rounds(count: usize, threads: &[&(dyn Fn(usize) + Sync)]) {
    let barrier = Barrier::new(threads.len());
    thread::scope(|scope| {
        for thread in threads {
            scope.spawn(|| {
                for round in 0..count {
                    barrier.wait();
                    thread(round);
                }
            });
        }
    });
}

#[test]
fn an_offer_is_claimed_or_revoked_and_never_both() {
    const ROUNDS: usize = 4000;
    let page = Arc::<OfferPage>::default();
    let offers: Vec<_> = (0..ROUNDS).map(|_| offered(&page, OperationKind::Write, 1)).collect();
    let claims: Vec<Vec<_>> =
        (0..2).map(|_| (0..ROUNDS).map(|_| std::sync::OnceLock::new()).collect()).collect();
    let revocations: Vec<_> = (0..ROUNDS).map(|_| std::sync::OnceLock::new()).collect();
    rounds(
        ROUNDS,
        &[
            &|round| claims[0][round].set(offers[round].remote[0].begin().is_ok()).unwrap(),
            &|round| claims[1][round].set(offers[round].remote[1].begin().is_ok()).unwrap(),
            &|round| revocations[round].set(offers[round].slot.revoke()).unwrap(),
        ],
    );
    for round in 0..ROUNDS {
        let winners: Vec<_> =
            (0..2).filter(|who| claims[*who][round].get() == Some(&true)).collect();
        let expected = match winners[..] {
            [] => Revocation::Unclaimed,
            [who] => Revocation::Claimed(PIDS[who]),
            _ => panic!("claimed twice"),
        };
        assert_eq!(revocations[round].get(), Some(&expected));
        // The one who has claimed it ends it, and no other.
        for who in 0..3 {
            assert_eq!(offers[round].remote[who].complete().is_ok(), winners == [who]);
        }
    }
}

#[test]
fn a_read_counts_or_is_stale_and_never_both() {
    const ROUNDS: usize = 4000;
    let page = Arc::<OfferPage>::default();
    let offers: Vec<_> = (0..ROUNDS).map(|_| offered(&page, OperationKind::Read, 3)).collect();
    let reads: Vec<Vec<_>> =
        (0..2).map(|_| (0..ROUNDS).map(|_| std::sync::OnceLock::new()).collect()).collect();
    let read = |who: usize, round: usize| {
        let ended = offers[round].remote[who].complete();
        assert!(matches!(ended, Ok(()) | Err(TransportError::Stale)));
        reads[who][round].set(ended.is_ok()).unwrap();
    };
    rounds(
        ROUNDS,
        &[&|round| read(0, round), &|round| read(1, round), &|round| {
            assert_eq!(offers[round].slot.revoke(), Revocation::Unclaimed)
        }],
    );
    for (round, offer) in offers.iter().enumerate() {
        let counted = (0..2).filter(|who| reads[*who][round].get() == Some(&true)).count();
        let counted = u32::try_from(counted).unwrap();
        let event = SlotEvent { uses: counted, successes: counted };
        assert_eq!(offer.slot.event(), (counted > 0).then_some(event));
        assert_eq!(offer.remote[2].complete(), Err(TransportError::Stale));
    }
}

#[test]
fn every_end_is_told_while_initiators_and_owner_meet_in_the_page() {
    const ROUNDS: usize = 4000;
    let page = Arc::<OfferPage>::default();
    let offers: Vec<_> = (0..ROUNDS).map(|_| offered(&page, OperationKind::Write, 1)).collect();
    let told = std::sync::Mutex::new(BTreeMap::new());
    let poll = || {
        page.poll(&mut |key, event| {
            assert_eq!(event, SlotEvent { uses: 1, successes: 1 });
            let before = told.lock().unwrap().insert(key.as_bytes().to_vec(), event);
            assert!(before.is_none(), "told twice");
        });
    };
    rounds(
        ROUNDS,
        &[
            &|round| {
                offers[round].remote[round % 2].begin().unwrap();
                offers[round].remote[round % 2].complete().unwrap();
            },
            &|_| poll(),
        ],
    );
    poll();
    assert_eq!(told.lock().unwrap().len(), ROUNDS);
}

/// A thread that is woken for each of many reads takes the processor from their readers.
#[test]
fn the_last_read_of_an_offer_rings_and_the_owner_finds_the_others_when_it_looks() {
    let page = Arc::<OfferPage>::default();
    let offer = offered(&page, OperationKind::Read, 3);
    let doorbell = page.doorbell().unwrap();
    for uses in 1..=3 {
        let before = doorbell.rings();
        offer.remote[0].begin().unwrap();
        offer.remote[0].complete().unwrap();
        assert_eq!(doorbell.rings() - before, u32::from(uses == 3));
        let mut told = Vec::new();
        assert!(page.poll(&mut |_, event| told.push(event)));
        assert_eq!(told, [SlotEvent { uses, successes: uses }]);
    }
}

#[test]
fn the_earlier_protocol_puts_the_token_where_there_was_nothing() {
    for kind in [OperationKind::Read, OperationKind::Write] {
        let page = Arc::<OfferPage>::default();
        let armed = page.arm(&NotificationKey::random(), kind).unwrap();
        // As an owner of the earlier release has it: the place is 0, and the token has all of its bits.
        let (slot, token) = (SlotAddress::SLOTS - 1, u64::MAX - 1);
        let doorbell = SlotAddress::new(armed.address().file(), slot, token);
        let metadata = metadata(doorbell, kind, NotificationKey::random(), None);
        let remote = found(PIDS[0], &metadata);
        assert!(!remote.refuses_reuse());
        let memory = page.memory().unwrap();
        let place = word(memory, slot).unwrap();
        remote.begin().unwrap();
        remote.undo();
        remote.fail();
        assert_eq!(place.load(Ordering::Relaxed), 0, "it has no word for all this");
        remote.complete().unwrap();
        assert_eq!(place.load(Ordering::Relaxed), token);
        let bits = |index: u32| memory.word(index as usize).unwrap().load(Ordering::Relaxed);
        assert_eq!((bits(1 + slot / 64), bits(0)), (1 << (slot % 64), 1 << (slot / 64)));
        assert_eq!(remote.complete(), refused(EndedOffer::Used), "the engine has to tell it");
    }
}

#[test]
fn the_slot_of_a_connection_that_has_ended_is_unreachable() {
    let page = Arc::<OfferPage>::default();
    let Offered { slot, key, remote } = offered(&page, OperationKind::Write, 1);
    let slots = RemoteSlots::default();
    let metadata = metadata(slot.address(), OperationKind::Write, key, Some(1));
    assert!(matches!(slots.find(&metadata), FoundSlot::Unknown));
    slots.open(&slot.address());
    assert!(matches!(slots.find(&metadata), FoundSlot::Mapped(_)));
    drop((slot, remote, page));
    assert!(matches!(slots.find(&metadata), FoundSlot::Unreachable));
    slots.sweep();
    assert!(matches!(slots.find(&metadata), FoundSlot::Unknown));
    slots.open(metadata.slot_address().unwrap());
    assert!(matches!(slots.find(&metadata), FoundSlot::Unreachable));
}

#[test]
fn a_process_whose_number_does_not_fit_claims_nothing() {
    let page = Arc::<OfferPage>::default();
    let Offered { slot, key, .. } = offered(&page, OperationKind::Write, 1);
    let metadata = metadata(slot.address(), OperationKind::Write, key, Some(1));
    let remote = found(1 << 22, &metadata);
    assert_eq!(remote.begin(), refused(EndedOffer::Unclaimable));
    remote.undo();
    assert!(remote.complete().is_err());
    assert_eq!(slot.revoke(), Revocation::Unclaimed);
}

#[test]
fn an_agent_claims_what_no_process_has_and_no_process_what_an_agent_has() {
    let page = Arc::<OfferPage>::default();
    let one = offered(&page, OperationKind::Write, 1);
    one.slot.claim_for_agent().unwrap();
    assert_eq!(one.slot.claim_for_agent(), Err(EndedOffer::Claimed));
    assert_eq!(one.remote[0].begin(), refused(EndedOffer::Claimed));
    assert_eq!(one.slot.revoke(), Revocation::Claimed(0));
    let other = offered(&page, OperationKind::Write, 1);
    other.remote[0].begin().unwrap();
    assert_eq!(other.slot.claim_for_agent(), Err(EndedOffer::Claimed));
    other.remote[0].complete().unwrap();
    assert_eq!(other.slot.claim_for_agent(), Err(EndedOffer::Used));
    let last = offered(&page, OperationKind::Write, 1);
    assert_eq!(last.slot.revoke(), Revocation::Unclaimed);
    assert_eq!(last.slot.claim_for_agent(), Err(EndedOffer::Revoked));
}

/// The file is sparse, and of no connection of this process, as that of a peer is.
#[test]
#[cfg_attr(miri, ignore = "makes a file in memory")]
fn of_a_page_no_more_is_mapped_than_the_protocol_uses() {
    const LEN: u64 = 1 << 40;
    let name = [7; 16];
    let called = format!("nixl-{:032x}", u128::from_be_bytes(name));
    let file = memfd_create(called, MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING).unwrap();
    ftruncate(&file, LEN).unwrap();
    fcntl_add_seals(&file, SealFlags::SHRINK).unwrap();
    let (pid, fd) = (std::process::id(), file.as_raw_fd().unsigned_abs());
    let page = SharedName { pid, fd, name, len: LEN };
    let slots = RemoteSlots::of_process(PIDS[0]);
    slots.open_page(&page);
    let Some(Reached::Mapped(mapped)) = slots.reached(&page) else { panic!("it is not mapped") };
    let end = SlotAddress::LENGTH_WITH_MAILBOX / 8;
    assert!(mapped.memory.word(end - 1).is_some() && mapped.memory.word(end).is_none());
}
