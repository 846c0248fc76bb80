//! Tables with many grants, pages with garbage, and what outlives a table.

use std::num::NonZeroU32;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use nixl_descriptor::layout::BlockGrantError;
use nixl_descriptor::{AccessError, LeaseMode, PublishedWords, SharedMemory, SharedMemoryError};

use super::{contiguous, key, per_layer, slots, table};
use crate::ManualClock;
use crate::grants::{
    ClaimError, Claims, GrantEnd, GrantError, GrantTable, GrantTableOptions, GrantTerms,
    GrantWords, StaleRead, WordCheck,
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
    let terms = GrantTerms::read(0).for_time(Duration::from_secs(60));
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
        assert_eq!(table.end(slot, generation), GrantEnd::Ended);
        alive[at] = grant(ALIVE + n);
        assert!(alive[at].slot <= highest);
        table.renew(alive[at].slot, alive[at].generation, &alive[at].token).unwrap();
        clock.advance(Duration::from_micros(10));
    }
    assert!(table.expiries() <= 2 * ALIVE + 65, "{}", table.expiries());
    let first = scattered((4 * ALIVE - 1) as u64, 98_900);
    let refused = AccessError::Granted { block: first, held: LeaseMode::Read };
    let at = |block: u32| block as usize * block_len;
    assert_eq!(region.copy_from_slice(at(first), &[1; 32]), Err(refused));
    assert_eq!(region.copy_from_slice(at(99_500), &[1; 32]), Ok(()));
    assert_eq!(region.copy_to_slice(at(first), &mut [0; 32]), Ok(()));
    assert_eq!(table.stats().alive, ALIVE);
    assert_eq!(table.close(), 0);
    assert_eq!(table.stats(), Default::default());
    assert_eq!(region.copy_from_slice(at(first), &[1; 32]), Ok(()));
}

#[test]
fn words_that_are_no_claims_cost_proof_only() {
    let (table, _) = table(&[contiguous(8)], 70);
    let claims = table.claims().unwrap();
    let granted = table.grant(&GrantTerms::write(0), &[1]).unwrap();
    let (slot, generation) = key(&granted);
    table.publish(slot, generation, 1, 1).unwrap();
    let page = SharedMemory::open(&claims.name()).unwrap();
    for word in (0..).map_while(|word| page.word(word)) {
        word.store(u64::MAX, Ordering::SeqCst);
    }
    assert_eq!(table.take_done(), []);
    assert_eq!(claims.claim(slot, generation), Err(ClaimError::Ended));
    assert_eq!(table.end(slot, generation), GrantEnd::Quarantined);
    assert_eq!(table.stats().quarantined_blocks, 1);
    assert_eq!(table.end_quiet(slot, generation), GrantEnd::Ended);
    // The slot is as good as before.
    let again = table.grant(&GrantTerms::write(0), &[1]).unwrap();
    assert_eq!(again.slot, slot);
    table.publish(slot, again.generation, 1, 1).unwrap();
    claims.claim(slot, again.generation).unwrap();
    claims.done(slot, again.generation).unwrap();
    assert_eq!(table.take_done(), [key(&again)]);
}

#[test]
fn tickets_of_elsewhere_are_refused() {
    let (table, _) = table(&[contiguous(8)], 4);
    let granted = table.grant(&GrantTerms::read(0), &[1]).unwrap();
    let (slot, generation) = key(&granted);
    table.publish(slot, generation, 1, 1).unwrap();
    let missing = GrantError::NoSlot { slot: 4, slots: 4 };
    assert_eq!(table.done(4, generation, &granted.token, [0; 16]), Err(missing.clone()));
    assert_eq!(table.renew(4, generation, &granted.token), Err(missing.clone()));
    assert_eq!(table.claim(4, generation, &granted.token), Err(missing));
    assert_eq!(table.end(4, generation), GrantEnd::Over);
    assert_eq!(table.end(u32::MAX, generation), GrantEnd::Over);
    assert_eq!(table.end(slot, generation + 1), GrantEnd::Over);
    let name = table.claims().unwrap().name();
    let claims = Claims::open(&name, 4).unwrap();
    assert_eq!(claims.claim(4, generation), Err(ClaimError::NoSlot { slot: 4 }));
    assert_eq!(claims.claim(slot, generation), Err(ClaimError::Ended));
    // Rounded up to pages it would be there.
    assert_eq!(Claims::open(&name, 5).unwrap_err(), SharedMemoryError::MayShrink);
    let words = PublishedWords::open(&table.words().name()).unwrap();
    let check = WordCheck { slot: 4, generation, digest: 1 };
    assert_eq!(check.check_mapped(&words), Err(StaleRead::NoSlot { slot: 4 }));
    let check = WordCheck { slot: u32::MAX, ..check };
    assert_eq!(check.check_mapped(&words), Err(StaleRead::NoSlot { slot: u32::MAX }));
    assert_eq!(GrantWords::offset(3), 96);
}

#[test]
fn exports_for_reading_only_grant_no_writes() {
    let clock = Arc::new(ManualClock::new());
    let options = GrantTableOptions::default().with_slots(NonZeroU32::MIN);
    let table = GrantTable::new(&[contiguous(8)], options, clock).unwrap();
    assert!(table.claims().is_none());
    assert_eq!(table.grant(&GrantTerms::write(0), &[1]), Err(GrantError::NotWritable));
    assert!(table.grant(&GrantTerms::read(0), &[1]).is_ok());
    assert_eq!(table.grant(&GrantTerms::read(0), &[1]), Err(GrantError::Full { slots: 1 }));
}

#[test]
fn readers_of_this_process_hold_a_lease() {
    let layout = per_layer(8);
    let (table, _) = table(std::slice::from_ref(&layout), 4);
    let granted = table.grant(&GrantTerms::read(0), &[1, 2]).unwrap();
    let (slot, generation) = key(&granted);
    let lease = table.lease(slot, generation, &granted.token, 0..2).unwrap();
    assert_eq!(table.end(slot, generation), GrantEnd::Ended);
    // The grant is over, and the copy is not.
    assert!(matches!(
        table.grant(&GrantTerms::write(0), &[2]),
        Err(GrantError::Blocks(BlockGrantError::Leased { .. }))
    ));
    drop(lease);
    let written = table.grant(&GrantTerms::write(0), &[2]).unwrap();
    let (slot, generation) = key(&written);
    let lease = table.lease(slot, generation, &written.token, 0..3).unwrap();
    assert_eq!(lease.mode(), LeaseMode::Write);
    let wrong = table.lease(slot, generation, &granted.token, 0..3);
    assert_eq!(wrong.unwrap_err(), GrantError::WrongToken { slot });
}

#[test]
fn a_table_that_is_dropped_ends_its_grants_and_keeps_what_may_be_written() {
    let layout = contiguous(8);
    let clock = Arc::new(ManualClock::new());
    let table = GrantTable::new(std::slice::from_ref(&layout), slots(4), clock).unwrap();
    let words = PublishedWords::open(&table.words().name()).unwrap();
    let claims = Claims::open(&table.claims().unwrap().name(), 4).unwrap();
    let mut checks = Vec::new();
    for (terms, block) in
        [(GrantTerms::read(0), 1), (GrantTerms::write(0), 2), (GrantTerms::write(0), 3)]
    {
        let granted = table.grant(&terms, &[block]).unwrap();
        let (slot, generation) = key(&granted);
        table.publish(slot, generation, 9, 1).unwrap();
        checks.push(WordCheck { slot, generation, digest: 9 });
    }
    claims.claim(checks[2].slot, checks[2].generation).unwrap();
    assert!(checks.iter().all(|check| check.check_mapped(&words).is_ok()));
    let before = nixl_descriptor::leaked();
    drop(table);
    assert!(checks.iter().all(|check| check.check_mapped(&words) == Err(StaleRead::Stale)));
    assert_eq!(claims.claim(checks[1].slot, checks[1].generation), Err(ClaimError::Ended));
    let after = nixl_descriptor::leaked();
    assert!(after.leases > before.leases);
    let region = layout.parts()[0].region();
    let copy = |block: usize| region.copy_from_slice(block * layout.geometry().block_len(), &[1]);
    assert_eq!((copy(1), copy(2)), (Ok(()), Ok(())));
    assert_eq!(copy(3), Err(AccessError::Granted { block: 3, held: LeaseMode::Write }));
}
