//! Copies of granted blocks by their owner.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use nixl_descriptor::{LeaseMode, Leases};
use nixl_metadata::{ExportId, Rights, Ticket, TicketTerms};

use super::{contiguous, key, table};
use crate::grants::{
    FreeBlocks, GrantError, GrantTable, GrantTerms, Granted, StaleRead, WordCheck,
};

const LAYERS: u16 = 2;

fn ticket(granted: &Granted, blocks: &[u32]) -> Ticket {
    let terms = TicketTerms {
        export: ExportId::new(1),
        layout: 0,
        layers: 0..LAYERS,
        rights: Rights::Read,
        slot: granted.slot,
        generation: granted.generation,
        token: granted.token,
        expires_unix_millis: 0,
    };
    Ticket::new(terms, blocks).unwrap()
}

fn grant(table: &Arc<GrantTable>, blocks: &[u32]) -> (Granted, Ticket) {
    let terms = GrantTerms::new(0).of_layers_below(LAYERS.into());
    let granted = table.grant(&terms.for_time(Duration::from_secs(9)), blocks).unwrap();
    let ticket = ticket(&granted, blocks);
    let (slot, generation) = key(&granted);
    table.publish(slot, generation, ticket.digest(), LAYERS.into()).unwrap();
    (granted, ticket)
}

fn poll(free: &mut FreeBlocks) -> Poll<()> {
    Pin::new(free).poll(&mut Context::from_waker(Waker::noop()))
}

#[test]
fn blocks_are_leased_and_not_free_until_the_copy_has_ended() {
    let layout = contiguous(8);
    let (table, _) = table(std::slice::from_ref(&layout), 4);
    let (granted, ticket) = grant(&table, &[1, 5]);
    let (slot, generation) = key(&granted);
    let check = WordCheck::new(slot, generation, ticket.digest());
    let copy = table.begin_copy(&ticket, 0..LAYERS.into()).unwrap();
    table.check_copied(&check).unwrap();
    assert!(table.end(slot, generation));
    assert_eq!(table.check_copied(&check), Err(StaleRead::Stale));
    let part = layout.chunk_descriptors(&[5], 0..1).unwrap();
    let is_leased = || Leases::acquire(&part, LeaseMode::Write).is_err();
    let mut free = table.free_blocks(0, &[1, 5]).unwrap();
    assert!(is_leased() && poll(&mut free).is_pending());
    drop(copy);
    assert!(!is_leased() && poll(&mut free).is_ready());
    assert!(matches!(table.begin_copy(&ticket, 0..1), Err(GrantError::Over)));
}

#[test]
fn a_copy_that_may_go_on_for_good_keeps_its_blocks() {
    let layout = contiguous(8);
    let (table, _) = table(std::slice::from_ref(&layout), 4);
    let (granted, ticket) = grant(&table, &[3]);
    table.begin_copy(&ticket, 0..1).unwrap().leak();
    let (slot, generation) = key(&granted);
    assert!(table.end(slot, generation));
    assert!(poll(&mut table.free_blocks(0, &[3]).unwrap()).is_pending());
    let part = layout.chunk_descriptors(&[3], 0..1).unwrap();
    assert!(Leases::acquire(&part, LeaseMode::Write).is_err());
    assert!(poll(&mut table.free_blocks(0, &[2]).unwrap()).is_ready());
}

#[test]
fn what_was_not_granted_is_not_copied() {
    let (table, clock) = table(&[contiguous(8)], 4);
    let (granted, given) = grant(&table, &[1, 5]);
    let refused = |ticket: &Ticket, layers| table.begin_copy(ticket, layers).unwrap_err();
    let slot = granted.slot;
    let forged = Granted { token: [0; 16], ..granted };
    assert_eq!(refused(&ticket(&forged, &[1, 5]), 0..2), GrantError::WrongToken { slot });
    for blocks in [&[1, 6][..], &[1], &[5, 1]] {
        assert_eq!(refused(&ticket(&granted, blocks), 0..2), GrantError::NotGranted { slot });
    }
    assert_eq!(refused(&given, 0..3), GrantError::NotGranted { slot });
    clock.advance(Duration::from_secs(9));
    assert_eq!(refused(&given, 0..2), GrantError::Over);
}
