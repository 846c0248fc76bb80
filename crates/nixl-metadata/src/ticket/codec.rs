//! Encoding of a ticket.
//!
//! | offset | bytes | content |
//! |---|---|---|
//! | 0 | 1 | version: 1 |
//! | 1 | 1 | flags: bit 0 is set if the blocks may be written, else they may be read; bit 1 if they are to be read and not all filled yet; the others are 0 |
//! | 2 | 2 | layout |
//! | 4 | 2 | first layer |
//! | 6 | 2 | end of the layers |
//! | 8 | 4 | slot |
//! | 12 | 4 | number of blocks |
//! | 16 | 8 | export |
//! | 24 | 8 | generation |
//! | 32 | 16 | token |
//! | 48 | 8 | when the grant expires, in milliseconds since 1970 by the owner's clock |
//! | 56 | 8 | digest of the 56 bytes before and of the blocks in 4 bytes each |
//! | 64 | | for each block the difference from the one before, the first from 0, as a [varint] |
//!
//! Integers are little-endian. Every ticket has exactly one encoding.

use std::sync::Arc;

use super::varint::{self, Read};
use super::{Rights, Stage, Ticket, TicketTerms, check_count, check_distinct, digest};
use crate::{ExportId, Field, MetadataError};

const VERSION: u8 = 1;
pub(super) const HEADER_BYTES: usize = SIGNED_BYTES + 8;
const SIGNED_BYTES: usize = 56;

/// The part of the header before the digest.
pub(super) fn signed_header(
    terms: &TicketTerms,
    stage: Stage,
    blocks: &[u32],
) -> [u8; SIGNED_BYTES] {
    let mut header = [0; SIGNED_BYTES];
    let mut rest = &mut header[..];
    let mut put = |bytes: &[u8]| {
        let (place, behind) = std::mem::take(&mut rest).split_at_mut(bytes.len());
        place.copy_from_slice(bytes);
        rest = behind;
    };
    put(&[VERSION, terms.rights.to_flags() | stage.to_flags()]);
    put(&terms.layout.to_le_bytes());
    put(&terms.layers.start.to_le_bytes());
    put(&terms.layers.end.to_le_bytes());
    put(&terms.slot.to_le_bytes());
    put(&(blocks.len() as u32).to_le_bytes()); // at most `MAX_BLOCKS`
    put(&terms.export.value().to_le_bytes());
    put(&terms.generation.to_le_bytes());
    put(&terms.token);
    put(&terms.expires_unix_millis.to_le_bytes());
    header
}

/// What is written for each block.
fn differences(blocks: &[u32]) -> impl Iterator<Item = u64> {
    let before = std::iter::once(&0).chain(blocks);
    blocks
        .iter()
        .zip(before)
        .map(|(&block, &before)| varint::zig_zag(i64::from(block) - i64::from(before)))
}

pub(super) fn encoded_len(ticket: &Ticket) -> usize {
    HEADER_BYTES + differences(&ticket.blocks).map(varint::len).sum::<usize>()
}

pub(super) fn encode(ticket: &Ticket) -> Vec<u8> {
    let mut out = Vec::with_capacity(encoded_len(ticket));
    out.extend(signed_header(&ticket.terms, ticket.stage, &ticket.blocks));
    out.extend(ticket.digest.to_le_bytes());
    differences(&ticket.blocks).for_each(|difference| varint::write(difference, &mut out));
    out
}

pub(super) fn decode(bytes: &[u8]) -> Result<Ticket, MetadataError> {
    let mut rest = bytes;
    let [version] = take(&mut rest)?;
    if version != VERSION {
        return Err(MetadataError::UnsupportedTicketVersion { version });
    }
    let [flags] = take(&mut rest)?;
    let (rights, stage) = rights_and_stage(flags)?;
    let layout = u16::from_le_bytes(take(&mut rest)?);
    let layers = u16::from_le_bytes(take(&mut rest)?)..u16::from_le_bytes(take(&mut rest)?);
    let slot = u32::from_le_bytes(take(&mut rest)?);
    let count = u32::from_le_bytes(take(&mut rest)?) as usize;
    let export = ExportId::new(u64::from_le_bytes(take(&mut rest)?));
    let generation = u64::from_le_bytes(take(&mut rest)?);
    let token = take(&mut rest)?;
    let expires_unix_millis = u64::from_le_bytes(take(&mut rest)?);
    let claimed = u64::from_le_bytes(take(&mut rest)?);
    let terms = TicketTerms {
        export,
        layout,
        layers,
        rights,
        slot,
        generation,
        token,
        expires_unix_millis,
    };
    terms.check()?;
    let blocks = decode_blocks(rest, count)?;
    let digest = digest::of(&signed_header(&terms, stage, &blocks), &blocks, &terms.token);
    if digest != claimed {
        return Err(MetadataError::TicketAltered);
    }
    check_distinct(&blocks)?;
    Ok(Ticket { terms, stage, blocks, digest })
}

fn rights_and_stage(flags: u8) -> Result<(Rights, Stage), MetadataError> {
    let stage = Stage::from_flags(flags);
    match Rights::from_flags(flags & !stage.to_flags())? {
        Rights::Write if stage == Stage::Unfilled => {
            Err(MetadataError::UnsupportedTicketFlags { flags })
        }
        rights => Ok((rights, stage)),
    }
}

fn decode_blocks(mut rest: &[u8], count: usize) -> Result<Arc<[u32]>, MetadataError> {
    const TRUNCATED: MetadataError = MetadataError::Truncated { field: Field::Ticket };
    check_count(count)?;
    // Each has at least a byte, so the memory is in proportion to what is there.
    if rest.len() < count {
        return Err(TRUNCATED);
    }
    let mut blocks = Vec::with_capacity(count);
    let mut before = 0;
    for index in 0..count {
        let difference = match varint::read(rest) {
            Read::Difference(difference, behind) => {
                rest = behind;
                difference
            }
            Read::Truncated => return Err(TRUNCATED),
            Read::Malformed => return Err(MetadataError::BadBlock { index }),
        };
        // Does not wrap: a difference has at most 35 bits.
        before = u32::try_from(i64::from(before) + difference)
            .map_err(|_| MetadataError::BadBlock { index })?;
        blocks.push(before);
    }
    if !rest.is_empty() {
        return Err(MetadataError::TrailingBytes { field: Field::Ticket });
    }
    Ok(blocks.into())
}

fn take<const N: usize>(rest: &mut &[u8]) -> Result<[u8; N], MetadataError> {
    let (taken, behind) =
        rest.split_first_chunk().ok_or(MetadataError::Truncated { field: Field::Ticket })?;
    *rest = behind;
    Ok(*taken)
}
