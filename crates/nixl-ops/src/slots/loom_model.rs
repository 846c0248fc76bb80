//! The words of offers under every interleaving of the owner and its initiators. Run by `cargo xtask loom`.
#![allow(clippy::unwrap_used, reason = "tests")]

use std::sync::Arc;

use loom::sync::atomic::AtomicU32;
use loom::thread;
use nixl_metadata::{NotificationKey, OperationKind};

use super::*;
use crate::sync::ModelClock;
use crate::sync::atomic::Ordering;
use crate::{EndedOffer, TransportError};

const LONG: std::time::Duration = std::time::Duration::from_secs(600);

/// An offer and what initiators of this many processes have of it.
fn offer<const N: usize>(
    kind: OperationKind,
    readers: u32,
) -> (Arc<OfferPage>, OfferSlot, [RemoteSlot; N]) {
    let page = Arc::<OfferPage>::default();
    let slot = page.arm(&NotificationKey::random(), kind).unwrap();
    let remotes = std::array::from_fn(|at| {
        RemoteSlot::of_process(at as u32 + 1, &page, slot.address(), kind, readers)
    });
    (page, slot, remotes)
}

fn ended(result: Result<(), TransportError>) -> Option<EndedOffer> {
    match result {
        Ok(()) => None,
        Err(TransportError::OfferEnded { why }) => Some(why),
        Err(other) => panic!("{other}"),
    }
}

#[test]
fn loom_a_write_is_claimed_or_the_offer_revoked() {
    loom::model(|| {
        let (_page, slot, [remote]) = offer(OperationKind::Write, 1);
        let initiator = thread::spawn(move || ended(remote.begin()));
        let revoked = slot.revoke();
        match initiator.join().unwrap() {
            None => assert_eq!(revoked, Revocation::Claimed(1)),
            Some(why) => {
                assert_eq!((why, revoked), (EndedOffer::Revoked, Revocation::Unclaimed));
            }
        }
    });
}

#[test]
fn loom_one_of_two_claims_a_write_and_its_bytes_are_seen() {
    loom::model(|| {
        let (page, _slot, remotes) = offer::<2>(OperationKind::Write, 1);
        let bytes = Arc::new(AtomicU32::new(0));
        let initiators = remotes.map(|remote| {
            let bytes = Arc::clone(&bytes);
            thread::spawn(move || {
                if let Some(why) = ended(remote.begin()) {
                    assert!(matches!(why, EndedOffer::Claimed | EndedOffer::Used));
                    return false;
                }
                // Nothing but the slot orders the bytes.
                bytes.fetch_add(1, Ordering::Relaxed);
                remote.complete().unwrap();
                true
            })
        });
        let mut events = Vec::new();
        page.poll(&mut |_, event| events.push((event, bytes.load(Ordering::Relaxed))));
        let won = initiators.map(|initiator| initiator.join().unwrap());
        assert_eq!(won.iter().filter(|won| **won).count(), 1);
        page.poll(&mut |_, event| events.push((event, bytes.load(Ordering::Relaxed))));
        assert_eq!(events, [(SlotEvent { uses: 1, successes: 1 }, 1)]);
    });
}

/// The owner overwrites the bytes once it has revoked the offer.
#[test]
fn loom_a_read_of_revoked_bytes_is_stale() {
    loom::model(|| {
        let (_page, slot, [remote]) = offer(OperationKind::Read, 1);
        let bytes = Arc::new(AtomicU32::new(1));
        let initiator = {
            let bytes = Arc::clone(&bytes);
            thread::spawn(move || {
                if remote.begin().is_err() {
                    return None;
                }
                let read = bytes.load(Ordering::Relaxed);
                remote.complete().is_ok().then_some(read)
            })
        };
        let revoked = slot.revoke();
        bytes.store(2, Ordering::Relaxed);
        match initiator.join().unwrap() {
            Some(read) => assert_eq!((read, revoked), (1, Revocation::Ended)),
            None => assert_eq!(revoked, Revocation::Unclaimed),
        }
    });
}

#[test]
fn loom_every_read_of_a_shared_offer_counts() {
    loom::model(|| {
        let (page, slot, remotes) = offer::<2>(OperationKind::Read, 2);
        let initiators = remotes.map(|remote| {
            thread::spawn(move || {
                remote.begin().unwrap();
                remote.complete().unwrap();
            })
        });
        let mut last = None;
        page.poll(&mut |_, event| last = Some(event));
        initiators.into_iter().for_each(|initiator| initiator.join().unwrap());
        page.poll(&mut |_, event| last = Some(event));
        assert_eq!(last, Some(SlotEvent { uses: 2, successes: 2 }));
        assert_eq!((slot.event(), slot.revoke()), (last, Revocation::Ended));
    });
}

#[test]
fn loom_a_claim_that_is_undone_leaves_the_offer_open_or_revoked() {
    loom::model(|| {
        let (_page, slot, [remote]) = offer(OperationKind::Write, 1);
        let initiator = thread::spawn(move || {
            if remote.begin().is_ok() {
                remote.undo();
            }
        });
        let first = slot.revoke();
        initiator.join().unwrap();
        assert!(matches!(first, Revocation::Unclaimed | Revocation::Claimed(1)));
        assert_eq!(slot.revoke(), Revocation::Unclaimed);
    });
}

/// A ring that comes between the owner's look and its sleep ends the sleep.
#[test]
fn loom_no_ring_is_lost() {
    loom::model(|| {
        let (page, _slot, [remote]) = offer(OperationKind::Write, 1);
        let initiator = thread::spawn(move || {
            remote.begin().unwrap();
            remote.complete().unwrap();
        });
        let doorbell = page.doorbell().unwrap();
        loop {
            let seen = doorbell.rings();
            if page.poll(&mut |_, event| assert_eq!(event.successes, 1)) {
                break;
            }
            doorbell.sleep(&ModelClock, seen, LONG, || false);
        }
        initiator.join().unwrap();
    });
}
