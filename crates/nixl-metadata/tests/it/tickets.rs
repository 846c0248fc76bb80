//! Tickets: what goes out comes in again, and nothing else does.

use crate::fuzz_smoke::Random;
use crate::support::{any_ticket, golden_ticket, minimal_ticket};
use crate::targets;
use nixl_metadata::{ExportId, Field, MetadataError as E, Rights, Ticket, TicketTerms};
use proptest::prelude::*;

fn terms() -> TicketTerms {
    TicketTerms {
        export: ExportId::new(5),
        layout: 1,
        layers: 0..80,
        rights: Rights::Read,
        slot: 9,
        generation: 77,
        token: [0xa5; 16],
        expires_unix_millis: 1_900_000_000_000,
    }
}

/// A golden ticket with other bytes at a place, and with the digest of those.
fn resealed(at: usize, bytes: &[u8]) -> Result<Ticket, E> {
    let mut ticket = minimal_ticket().encode();
    ticket[at..at + bytes.len()].copy_from_slice(bytes);
    Ticket::decode(&targets::seal_ticket(&ticket).unwrap())
}

proptest! {
    #[test]
    fn what_is_encoded_is_decoded(ticket in any_ticket()) {
        let encoded = ticket.encode();
        prop_assert_eq!(encoded.capacity(), encoded.len());
        prop_assert_eq!(&Ticket::decode(&encoded).unwrap(), &ticket);
        targets::check_ticket(&ticket, &encoded);
    }

    #[test]
    fn every_truncation_and_extension_is_refused(ticket in any_ticket(), more in any::<u8>()) {
        let mut encoded = ticket.encode();
        let field = Field::Ticket;
        for cut in 0..encoded.len() {
            prop_assert_eq!(Ticket::decode(&encoded[..cut]), Err(E::Truncated { field }));
        }
        encoded.push(more);
        prop_assert_eq!(Ticket::decode(&encoded), Err(E::TrailingBytes { field }));
    }

    #[test]
    fn changed_bytes_are_refused(
        ticket in any_ticket(),
        changes in proptest::collection::vec((any::<prop::sample::Index>(), 1..=u8::MAX), 1..4),
    ) {
        let good = ticket.encode();
        let mut bad = good.clone();
        for (at, difference) in changes {
            bad[at.index(good.len())] ^= difference;
        }
        prop_assert_eq!(Ticket::decode(&bad).is_ok(), bad == good);
    }

    #[test]
    fn any_part_of_the_terms_changes_the_digest(ticket in any_ticket(), other in any_ticket()) {
        // The token is the seed, and enters by itself as well.
        prop_assert_eq!(ticket.digest() == other.digest(), ticket == other);
    }
}

#[test]
fn every_change_of_a_byte_is_refused() {
    for good in [golden_ticket(), minimal_ticket()].map(|ticket| ticket.encode()) {
        for at in 0..good.len() {
            for difference in 1..=u8::MAX {
                let mut bad = good.clone();
                bad[at] ^= difference;
                assert!(Ticket::decode(&bad).is_err(), "byte {at} changed by {difference:#x}");
            }
        }
    }
}

#[test]
fn random_bytes_do_no_harm() {
    let mut random = Random(13);
    let mut accepted = 0;
    for _ in 0..100_000 {
        let mut input: Vec<u8> =
            (0..random.below(110)).map(|_| random.next().to_le_bytes()[0]).collect();
        // Most are to reach the blocks.
        if random.below(4) != 0 && input.len() > 64 {
            input[0] = 1;
            input[1] &= 3;
            let blocks = random.below(input.len() - 62) as u32;
            input[12..16].copy_from_slice(&blocks.to_le_bytes());
        }
        if random.below(2) == 0 {
            // Small differences, so that many are blocks.
            input.iter_mut().skip(64).for_each(|byte| *byte &= 0x7e);
        }
        targets::ticket(&input);
        let sealed = targets::seal_ticket(&input);
        accepted += usize::from(sealed.is_some_and(|sealed| Ticket::decode(&sealed).is_ok()));
    }
    assert!(accepted > 100, "{accepted}");
}

#[test]
fn a_ticket_of_64_blocks_is_short() {
    // The first 64 of a random permutation of 100,000.
    let mut random = Random(64);
    let mut ids: Vec<u32> = (0..100_000).collect();
    for at in 0..64 {
        let from = at + random.below(ids.len() - at);
        ids.swap(at, from);
    }
    let ticket = Ticket::new(terms(), &ids[..64]).unwrap();
    assert!(ticket.encode().len() <= 300, "{}", ticket.encoded_len());
    assert_eq!(Ticket::decode(&ticket.encode()).unwrap().blocks(), &ids[..64]);
    let run: Vec<u32> = (90_000..90_064).collect();
    assert_eq!(Ticket::new(terms(), run).unwrap().encoded_len(), 64 + 3 + 63);
}

#[test]
fn tickets_that_are_none() {
    let layers = |layers| Ticket::new(TicketTerms { layers, ..terms() }, vec![1]);
    assert_eq!(layers(7..7), Err(E::EmptyLayers { start: 7, end: 7 }));
    let backwards = layers(std::ops::Range { start: 8, end: 7 });
    assert_eq!(backwards, Err(E::EmptyLayers { start: 8, end: 7 }));
    assert_eq!(Ticket::new(terms(), vec![]), Err(E::NoBlocks));
    for twice in [vec![3, 3], vec![5, 3, 9, 3], vec![0, u32::MAX, 0]] {
        let block = if twice[0] == 0 { 0 } else { 3 };
        assert_eq!(Ticket::new(terms(), twice), Err(E::DuplicateBlock { block }));
    }
    let most = Ticket::MAX_BLOCKS;
    let many: Vec<u32> = (0..most as u32).rev().collect();
    let largest = Ticket::new(terms(), &many[..]).unwrap();
    assert_eq!(Ticket::decode(&largest.encode()), Ok(largest));
    let more: Vec<u32> = (0..=most as u32).collect();
    let error = E::TooManyBlocks { count: most + 1, limit: most };
    assert_eq!(Ticket::new(terms(), more), Err(error));
}

#[test]
fn every_fault_has_its_error() {
    assert_eq!(resealed(64, &[0]), Ok(minimal_ticket()));
    let with = |at: usize, bytes: &[u8]| {
        let mut ticket = minimal_ticket().encode();
        ticket[at..at + bytes.len()].copy_from_slice(bytes);
        Ticket::decode(&ticket).unwrap_err()
    };
    assert_eq!(with(0, &[2]), E::UnsupportedTicketVersion { version: 2 });
    assert_eq!(Ticket::decode(&[2]), Err(E::UnsupportedTicketVersion { version: 2 }));
    assert_eq!(with(1, &[3]), E::UnsupportedTicketFlags { flags: 3 });
    assert_eq!(with(4, &[1]), E::EmptyLayers { start: 1, end: 1 });
    assert_eq!(with(12, &[0]), E::NoBlocks);
    let limit = Ticket::MAX_BLOCKS;
    assert_eq!(with(12, &[1, 0, 16]), E::TooManyBlocks { count: limit + 1, limit });
    assert_eq!(with(12, &[0, 0, 16]), E::Truncated { field: Field::Ticket });
    for at in [1, 2, 8, 16, 24, 32, 40, 48, 56] {
        assert_eq!(with(at, &[minimal_ticket().encode()[at] ^ 1]), E::TicketAltered, "{at}");
    }
    assert_eq!(with(64, &[2]), E::TicketAltered);

    // Blocks that are no ids, or written in more bytes than they need.
    let blocks = |varints: &[u8]| {
        let ticket = [&minimal_ticket().encode()[..64], varints].concat();
        Ticket::decode(&targets::seal_ticket(&ticket).unwrap()).map(|t| t.blocks().to_vec())
    };
    assert_eq!(blocks(&[2, 1, 4]), Ok(vec![1, 0, 2]));
    assert_eq!(blocks(&[1]), Err(E::BadBlock { index: 0 }));
    assert_eq!(blocks(&[0xfe, 0xff, 0xff, 0xff, 0x1f]), Ok(vec![u32::MAX]));
    assert_eq!(blocks(&[0x80, 0x80, 0x80, 0x80, 0x20]), Err(E::BadBlock { index: 0 }));
    assert_eq!(blocks(&[0xfe, 0xff, 0xff, 0xff, 0x1f, 2]), Err(E::BadBlock { index: 1 }));
    assert_eq!(blocks(&[0x80, 0]), Err(E::BadBlock { index: 0 }));
    assert_eq!(blocks(&[0x82, 0x80, 0]), Err(E::BadBlock { index: 0 }));
    assert_eq!(blocks(&[0x80, 0x80, 0x80, 0x80, 0x80, 1]), Err(E::BadBlock { index: 0 }));
    assert_eq!(blocks(&[10, 2, 1]), Err(E::DuplicateBlock { block: 5 }));
    assert_eq!(resealed(6, &[0]), Err(E::EmptyLayers { start: 0, end: 0 }));
}

#[test]
fn blocks_that_are_filled_later_are_to_be_read() {
    let filled = Ticket::new(terms(), [1]).unwrap();
    let unfilled = Ticket::new_unfilled(terms(), [1]).unwrap();
    assert_ne!(filled.digest(), unfilled.digest());
    let to_write = TicketTerms { rights: Rights::Write, ..terms() };
    let error = E::UnsupportedTicketFlags { flags: 3 };
    assert_eq!(Ticket::new_unfilled(to_write, [1]), Err(error));
}

#[test]
fn a_bound_token_is_of_all_that_is_granted() {
    let terms = || TicketTerms { rights: Rights::Write, ..terms() };
    let granted = terms().bound(&[3, 4]);
    assert_eq!(granted.token[..10], terms().token[..10]);
    let bound = |terms: TicketTerms, blocks: &[u32]| {
        Ticket::new(terms, blocks).unwrap().bound_token() == granted.token
    };
    assert!(bound(granted.clone(), &[3, 4]));
    // What the owner chooses later.
    let (slot, generation, expires_unix_millis) = (10, 78, 0);
    let later = TicketTerms { slot, generation, expires_unix_millis, ..granted.clone() };
    assert!(bound(later, &[3, 4]));
    for blocks in [&[3, 5][..], &[3], &[4, 3], &[3, 4, 5]] {
        assert!(!bound(granted.clone(), blocks), "{blocks:?}");
    }
    let altered = [
        TicketTerms { export: ExportId::new(6), ..granted.clone() },
        TicketTerms { layout: 2, ..granted.clone() },
        TicketTerms { layers: 1..80, ..granted.clone() },
        TicketTerms { layers: 0..81, ..granted.clone() },
        TicketTerms { rights: Rights::Read, ..granted.clone() },
        TicketTerms { token: [0xa4; 16], ..granted.clone() },
    ];
    for terms in altered {
        assert!(!bound(terms.clone(), &[3, 4]), "{terms:?}");
    }
}

#[test]
fn the_digest_is_as_documented() {
    let ticket = golden_ticket();
    let mut signed = ticket.encode()[..56].to_vec();
    ticket.blocks().iter().for_each(|block| signed.extend(block.to_le_bytes()));
    let seed = u64::from_le_bytes(*b"01234567");
    assert_eq!(ticket.digest(), xxhash_rust::xxh3::xxh3_64_with_seed(&signed, seed));
}

#[test]
fn the_token_is_not_printed() {
    let shown = format!("{:?} {:?}", golden_ticket(), terms());
    let token = format!("{:?}", golden_ticket().token());
    for secret in [&token[1..20], "token", "165, 165", &golden_ticket().digest().to_string()] {
        assert!(!shown.contains(secret), "{shown}");
    }
    assert!(shown.contains("0123456789abcdef") && shown.contains("2..80"), "{shown}");
}
