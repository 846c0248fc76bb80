//! Readers that copy while the owner reuses the blocks.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Barrier, Mutex};
use std::thread;

use nixl_descriptor::layout::Layout;
use nixl_descriptor::{PublishedWords, Region, SharedMemory};

use super::{geometry, slots};
use crate::ManualClock;
use crate::grants::{DoneOutcome, GrantTable, GrantTerms, StaleRead, WordCheck};

/// The owner ends each grant without asking, overwrites the block at once, and grants it again by the same slot. What readers
/// take for good, by mappings of their own, is always the bytes of their grant.
///
/// Each of these made it fail: the check before the copy only; the word raised with the next grant instead of at the end; a
/// generation for each slot that is used again.
#[test]
fn mixed_bytes_are_never_accepted() {
    const ENOUGH: u64 = 2_000;
    let geometry = geometry(2, 1, 1 << 14);
    let (len, words) = (geometry.block_len(), geometry.block_len() / 8);
    let memory = SharedMemory::new(geometry.bytes()).unwrap();
    let name = memory.name();
    let region = Region::try_from(memory).unwrap();
    let layout = Layout::fully_contiguous(geometry, region.clone()).unwrap();
    let clock = Arc::new(ManualClock::new());
    let table = GrantTable::new(&[layout], slots(1), clock).unwrap();
    let published = table.words().name();
    // The same blocks and rights each time.
    let digest = 7;
    // A ticket, and what its block is full of.
    let ticket = Mutex::new(None);
    let (done, good, stale) = (AtomicBool::new(false), AtomicU64::new(0), AtomicU64::new(0));
    thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                let memory = SharedMemory::open(&name).unwrap();
                let published = PublishedWords::open(&published).unwrap();
                let mut bytes = vec![0; words];
                while !done.load(Relaxed) {
                    let taken = *ticket.lock().unwrap();
                    let Some((slot, generation, value)) = taken else { continue };
                    let check = WordCheck::new(slot, generation, digest);
                    for (at, to) in bytes.iter_mut().enumerate() {
                        *to = memory.word(words + at).unwrap().load(Relaxed);
                    }
                    let found = check.check_mapped(&published);
                    let right = bytes.iter().all(|word| *word == value);
                    let expected = match found {
                        Ok(()) => right,
                        Err(found) => found == StaleRead::Stale,
                    };
                    if !expected {
                        done.store(true, Relaxed);
                        panic!("{found:?}, and the bytes are {right}");
                    }
                    let counter = if found.is_ok() { &good } else { &stale };
                    counter.fetch_add(1, Relaxed);
                }
            });
        }
        let mut round = 0u64;
        while !done.load(Relaxed) && (good.load(Relaxed) < ENOUGH || stale.load(Relaxed) < ENOUGH) {
            round += 1;
            // No value is there twice in the life of a test.
            let block: Vec<u8> = round.to_ne_bytes().into_iter().cycle().take(len).collect();
            region.copy_from_slice(len, &block).unwrap();
            let granted = table.grant(&GrantTerms::new(0), &[1]).unwrap();
            table.publish(granted.slot, granted.generation, digest, 1).unwrap();
            *ticket.lock().unwrap() = Some((granted.slot, granted.generation, round));
            // Readers have the ticket for some time, and for longer than that.
            let before = good.load(Relaxed);
            for _ in 0..round % 50 {
                if good.load(Relaxed) == before {
                    thread::yield_now();
                }
            }
            assert!(table.end(granted.slot, granted.generation));
        }
        done.store(true, Relaxed);
    });
}

/// An owner that ends a grant while its reader says that it is done: the grant ends once.
#[test]
fn a_grant_ends_once() {
    const ROUNDS: usize = 3_000;
    let geometry = geometry(4, 1, 8);
    let layout =
        Layout::fully_contiguous(geometry, Region::zeroed(geometry.bytes()).unwrap()).unwrap();
    let clock = Arc::new(ManualClock::new());
    let table = GrantTable::new(&[layout], slots(2), clock).unwrap();
    let (by_owner, by_reader) = (AtomicU64::new(0), AtomicU64::new(0));
    let both = Barrier::new(2);
    for _ in 0..ROUNDS {
        let granted = table.grant(&GrantTerms::new(0), &[0, 3]).unwrap();
        let (slot, generation, token) = (granted.slot, granted.generation, granted.token);
        table.publish(slot, generation, 1, 1).unwrap();
        let done = || table.done(slot, generation, &token, [0; 16]).unwrap();
        thread::scope(|scope| {
            scope.spawn(|| {
                both.wait();
                match done() {
                    DoneOutcome::Ended => _ = by_reader.fetch_add(1, Relaxed),
                    outcome => assert_eq!(outcome, DoneOutcome::Over),
                }
            });
            both.wait();
            if table.end(slot, generation) {
                by_owner.fetch_add(1, Relaxed);
            }
        });
        assert_eq!(done(), DoneOutcome::Over);
        assert_eq!(table.stats(), Default::default());
    }
    assert_eq!(by_owner.load(Relaxed) + by_reader.load(Relaxed), ROUNDS as u64);
}
