//! Tables with many grants, foreign tickets, and handles that outlive a grant or a table.

use std::sync::Arc;
use std::time::Duration;

use nixl_descriptor::{AccessError, LeaseMode, PublishedWords};

use super::{contiguous, key, per_layer, slots, table};
use crate::ManualClock;
use crate::grants::words::{EXPORT, LAYERS, place};
use crate::grants::{
    GrantError, GrantTable, GrantTableOptions, GrantTerms, GrantWords, StaleRead, WordCheck,
};

/// A number for each `n` that looks like chance.
fn scattered(n: u64, below: u32) -> u32 {
    ((n.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32) % u64::from(below)) as u32
}

#[test]
fn ten_thousand_grants_are_alive_and_memory_stays_flat() {
    const ALIVE: usize = 10_000;
    let layout = contiguous(100_000);
    let (table, clock) = table(std::slice::from_ref(&layout), 1 << 14);
    let region = layout.parts()[0].region();
    let block_len = layout.geometry().block_len();
    let terms = GrantTerms::new(0).for_time(Duration::from_secs(60));
    let grant = |n: usize| {
        // 64 blocks in a row, none of the last 1,000.
        let first = scattered(n as u64, 98_900);
        table.grant(&terms, &(first..first + 64).collect::<Vec<_>>()).unwrap()
    };
    let mut alive: Vec<_> = (0..ALIVE).map(grant).collect();
    let highest = alive.iter().map(|granted| granted.slot).max().unwrap();
    for n in 0..3 * ALIVE {
        let at = n % ALIVE;
        let (slot, generation) = key(&alive[at]);
        assert!(table.end(slot, generation));
        alive[at] = grant(ALIVE + n);
        assert!(alive[at].slot <= highest);
        table.renew(alive[at].slot, alive[at].generation, &alive[at].token).unwrap();
        clock.advance(Duration::from_micros(10));
    }
    assert!(table.expiries() <= 2 * ALIVE + 65, "{}", table.expiries());
    let first = scattered((4 * ALIVE - 1) as u64, 98_900);
    let refused = AccessError::Granted { block: first };
    let at = |block: u32| block as usize * block_len;
    assert_eq!(region.copy_from_slice(at(first), &[1; 32]), Err(refused));
    assert_eq!(region.copy_from_slice(at(99_500), &[1; 32]), Ok(()));
    assert_eq!(region.copy_to_slice(at(first), &mut [0; 32]), Ok(()));
    assert_eq!(table.stats().alive, ALIVE);
    table.close();
    assert_eq!(table.stats(), Default::default());
    assert_eq!(region.copy_from_slice(at(first), &[1; 32]), Ok(()));
}

#[test]
fn tickets_of_elsewhere_are_refused() {
    let (table, _) = table(&[contiguous(8)], 4);
    let granted = table.grant(&GrantTerms::new(0), &[1]).unwrap();
    let (slot, generation) = key(&granted);
    table.publish(slot, generation, 1, 1).unwrap();
    let missing = GrantError::NoSlot { slot: 4, slots: 4 };
    assert_eq!(table.done(4, generation, &granted.token, [0; 16]), Err(missing.clone()));
    assert_eq!(table.renew(4, generation, &granted.token), Err(missing.clone()));
    assert_eq!(table.publish(4, generation, 1, 1), Err(missing.clone()));
    assert_eq!(table.ready_through(4, generation, 1), Err(missing.clone()));
    assert_eq!(table.lease((4, generation), &granted.token, 1, 0..1).unwrap_err(), missing);
    for (slot, generation) in [(4, generation), (u32::MAX, generation), (slot, generation + 1)] {
        assert!(!table.end(slot, generation));
    }
    let words = PublishedWords::open(&table.words().name()).unwrap();
    // The slot behind the last has words, and no grant.
    let check = WordCheck::new(4, generation, 1);
    assert_eq!(check.check_mapped(&words), Err(StaleRead::Stale));
    let check = WordCheck { slot: 5, ..check };
    assert_eq!(check.check_mapped(&words), Err(StaleRead::NoSlot { slot: 5 }));
    let check = WordCheck { slot: u32::MAX, ..check };
    assert_eq!(check.check_mapped(&words), Err(StaleRead::NoSlot { slot: u32::MAX }));
    assert_eq!(GrantWords::offset(3), 96);
}

#[test]
fn readers_of_this_process_hold_a_lease() {
    let layout = per_layer(8);
    let (table, _) = table(std::slice::from_ref(&layout), 4);
    let granted = table.grant(&GrantTerms::new(0), &[1, 2]).unwrap();
    let (slot, generation) = key(&granted);
    let mut wrong = granted.token;
    wrong[15] ^= 1;
    let refused = table.lease((slot, generation), &wrong, 1, 0..2);
    assert_eq!(refused.unwrap_err(), GrantError::WrongToken { slot });
    let early = table.lease((slot, generation), &granted.token, 1, 0..2);
    assert_eq!(early.unwrap_err(), GrantError::Unpublished);
    table.publish(slot, generation, 1, 3).unwrap();
    let lease = table.lease((slot, generation), &granted.token, 1, 0..2).unwrap();
    assert_eq!(lease.mode(), LeaseMode::Read);
    let altered = table.lease((slot, generation), &granted.token, 2, 0..2);
    assert_eq!(altered.unwrap_err(), GrantError::NotGranted { slot });
    assert!(table.end(slot, generation));
    // The grant is over, and the copy of these layers is not.
    let write = |block: usize| {
        [0, 1, 2].map(|layer| {
            let span = layout.chunk(block, layer, 0).unwrap();
            layout.parts()[span.part].region().copy_from_slice(span.offset, &[1])
        })
    };
    let leased = Err(AccessError::Leased { mode: LeaseMode::Read });
    assert_eq!(write(2), [leased.clone(), leased, Ok(())]);
    assert_eq!(write(3), [Ok(()), Ok(()), Ok(())]);
    drop(lease);
    assert_eq!(write(2), [Ok(()), Ok(()), Ok(())]);
    let late = table.lease((slot, generation), &granted.token, 1, 0..2);
    assert_eq!(late.unwrap_err(), GrantError::Over);
}

#[test]
fn a_table_that_is_dropped_ends_its_grants() {
    let layout = contiguous(8);
    let clock = Arc::new(ManualClock::new());
    let table = GrantTable::new(std::slice::from_ref(&layout), slots(4), clock).unwrap();
    let words = PublishedWords::open(&table.words().name()).unwrap();
    let checks = [1, 2].map(|block| {
        let granted = table.grant(&GrantTerms::new(0), &[block]).unwrap();
        let (slot, generation) = key(&granted);
        table.publish(slot, generation, 9, 1).unwrap();
        WordCheck::new(slot, generation, 9)
    });
    let _not_published = table.grant(&GrantTerms::new(0), &[3]).unwrap();
    assert!(checks.iter().all(|check| check.check_mapped(&words).is_ok()));
    let region = layout.parts()[0].region();
    let copy =
        |block: u32| region.copy_from_slice(block as usize * layout.geometry().block_len(), &[1]);
    assert_eq!([1, 2, 3].map(copy), [1, 2, 3].map(|block| Err(AccessError::Granted { block })));
    drop(table);
    assert!(checks.iter().all(|check| check.check_mapped(&words) == Err(StaleRead::Stale)));
    assert_eq!([1, 2, 3].map(copy), [Ok(()), Ok(()), Ok(())]);
}

/// A reader that has the words of the first table open sees no grant of the second as one of its own.
#[test]
fn words_are_used_again_and_their_values_are_not() {
    let layout = contiguous(8);
    let (first, clock) = table(std::slice::from_ref(&layout), 4);
    first.open(7);
    let words = PublishedWords::open(&first.words().name()).unwrap();
    let granted = first.grant(&GrantTerms::new(0), &[1]).unwrap();
    let (slot, generation) = key(&granted);
    first.publish(slot, generation, 5, 1).unwrap();
    let check = WordCheck::new(slot, generation, 5);
    assert_eq!(check.check_mapped(&words), Ok(()));
    let spent = first.close().unwrap();
    assert!(first.close().is_none());
    assert_eq!((spent.slots(), words.load(EXPORT)), (4, Some(0)));
    let options = GrantTableOptions::default();
    let second = GrantTable::with_words(&[layout], spent, options, clock).unwrap();
    second.open(8);
    for block in 0..4 {
        let again = second.grant(&GrantTerms::new(0), &[block]).unwrap();
        second.publish(again.slot(), again.generation(), 5, 1).unwrap();
        assert_eq!(check.check_mapped(&words), Err(StaleRead::Stale));
    }
    drop(first);
    assert_eq!(words.load(EXPORT), Some(8), "it is not the first one's to close");
}

/// A request of the engine's that brings the generation of a grant brings no number of ready layers of the one before.
#[test]
fn no_layer_is_ready_between_two_grants() {
    let (table, _) = table(&[per_layer(8)], 4);
    let words = PublishedWords::open(&table.words().name()).unwrap();
    let granted = table.grant(&GrantTerms::new(0), &[1]).unwrap();
    let (slot, generation) = key(&granted);
    table.publish(slot, generation, 5, 3).unwrap();
    let check = WordCheck::new(slot, generation, 5);
    assert_eq!(check.layers_ready(&words), Ok(3));
    assert_eq!(check.of_layers_below(3).check_mapped(&words), Ok(()));
    let unready = StaleRead::NotReady { ready: 3, asked: 4 };
    assert_eq!(check.of_layers_below(4).check_mapped(&words), Err(unready));
    assert_eq!(check.of_layers_below(4).compare([generation, 5, 3]), Err(unready));
    assert!(table.end(slot, generation));
    assert_eq!(words.load(place(slot, LAYERS)), Some(0));
    let next = table.grant(&GrantTerms::new(0), &[1]).unwrap();
    assert_eq!(next.slot(), slot);
    assert_eq!(words.load(place(slot, LAYERS)), Some(0), "it is not valid yet");
}
