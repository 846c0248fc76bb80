//! Sections: the extensible part of a message. Offers have it from version 4 on.
//!
//! | offset | bytes | content |
//! |---|---|---|
//! | 0 | 2 | id |
//! | 2 | 2 | flags: bit 0 is set if a reader that does not know the section must refuse the message |
//! | 4 | 4 | length of the content |
//! | 8 | | content |
//!
//! Sections stand in any order, each id at most once, at most [`MAX_SECTIONS`] in a message. A section of an unknown id is
//! skipped without a look at its content, its length apart, or refused if it is required. The other bits of the flags are
//! refused in a known section, whose content they could change, and ignored in one that is skipped.
//!
//! The content of an id never changes: not a field, not a byte more at its end. New content gets a section with a new
//! id, beside the old one while readers need that. Ids are never used again.
//!
//! Offers and exports draw on one list of ids, so an id means the same in both. Each has only its own:
//!
//! | id | section | in an offer | in an export |
//! |---|---|---|---|
//! | 1 | peer | optional | required |
//! | 2 | message versions | optional | optional |
//! | 3 | shares | optional, of descriptors | optional, of parts |
//! | 4 | address of the slot | optional | |
//! | 5 | terms | required if present | |
//! | 6 | checksum | optional | |
//! | 7 | layouts | | required |
//! | 8 | words | | required |
//! | 9 | claims | | optional |
//! | 10 | trace context | optional | |
//! | 11 | tensor | optional | |
//! | 12 | tensors of layouts | | optional |
//! | 13 | word of the offer | optional | |

use serde::Deserialize;

use crate::{Field, MetadataError, codec};

pub(super) const PEER: u16 = 1;
pub(super) const VERSIONS: u16 = 2;
pub(super) const SHARES: u16 = 3;
pub(super) const DOORBELL: u16 = 4;
pub(super) const TERMS: u16 = 5;
pub(super) const CHECKSUM: u16 = 6;
pub(super) const LAYOUTS: u16 = 7;
pub(super) const WORDS: u16 = 8;
pub(super) const CLAIMS: u16 = 9;
pub(super) const TRACE_CONTEXT: u16 = 10;
pub(super) const TENSOR: u16 = 11;
pub(super) const LAYOUT_TENSORS: u16 = 12;
pub(super) const OFFER_WORD: u16 = 13;

pub(super) const OPTIONAL: u16 = 0;
pub(super) const REQUIRED: u16 = 1 << 0;

/// What stands before the content.
pub(super) const HEADER_BYTES: u64 = 8;

/// The most sections in a message: enough for decades, and few enough to compare each id with those before.
const MAX_SECTIONS: usize = 64;

/// What a section is called, if it is known.
pub(crate) const fn name(id: u16) -> Option<&'static str> {
    match id {
        PEER => Some("peer"),
        VERSIONS => Some("message versions"),
        SHARES => Some("shares"),
        DOORBELL => Some("doorbell"),
        TERMS => Some("terms"),
        CHECKSUM => Some("checksum"),
        LAYOUTS => Some("layouts"),
        WORDS => Some("words"),
        CLAIMS => Some("claims"),
        TRACE_CONTEXT => Some("trace context"),
        TENSOR => Some("tensor"),
        LAYOUT_TENSORS => Some("tensors of layouts"),
        OFFER_WORD => Some("word of the offer"),
        _ => None,
    }
}

/// Appends a section with the content that `write` appends.
pub(super) fn write(
    out: &mut Vec<u8>,
    id: u16,
    flags: u16,
    write: impl FnOnce(&mut Vec<u8>) -> Result<(), MetadataError>,
) -> Result<(), MetadataError> {
    out.extend(id.to_le_bytes());
    out.extend(flags.to_le_bytes());
    with_length(out, Field::Section(id), write)
}

/// Appends the length in 4 bytes of what `write` appends, and that.
pub(super) fn with_length(
    out: &mut Vec<u8>,
    field: Field,
    write: impl FnOnce(&mut Vec<u8>) -> Result<(), MetadataError>,
) -> Result<(), MetadataError> {
    let at = out.len();
    out.extend([0; 4]);
    let start = out.len();
    write(out)?;
    let len = out.len() - start;
    let claimed = u32::try_from(len).map_err(|_| MetadataError::TooLarge {
        field,
        len,
        limit: u32::MAX as usize,
    })?;
    out[at..start].copy_from_slice(&claimed.to_le_bytes());
    Ok(())
}

/// The contents of the sections in `rest`, which they fill, in the order of the ids that the message has.
pub(super) fn read<const N: usize>(
    mut rest: &[u8],
    known: [u16; N],
) -> Result<[Option<&[u8]>; N], MetadataError> {
    let mut contents = [None; N];
    let mut seen = [0; MAX_SECTIONS];
    let mut count = 0;
    while !rest.is_empty() {
        let Some((&[i0, i1, f0, f1, l0, l1, l2, l3], behind)) = rest.split_first_chunk() else {
            return Err(MetadataError::Truncated { field: Field::Payload });
        };
        let id = u16::from_le_bytes([i0, i1]);
        let flags = u16::from_le_bytes([f0, f1]);
        let len = u32::from_le_bytes([l0, l1, l2, l3]) as usize;
        let Some((content, behind)) = behind.split_at_checked(len) else {
            return Err(MetadataError::SectionOverrun { id, len, left: behind.len() });
        };
        rest = behind;
        if seen[..count].contains(&id) {
            return Err(MetadataError::DuplicateField { field: Field::Section(id) });
        }
        *seen.get_mut(count).ok_or(MetadataError::TooManySections { limit: MAX_SECTIONS })? = id;
        count += 1;
        let Some(place) = known.iter().position(|&known| known == id) else {
            if flags & REQUIRED != 0 {
                return Err(MetadataError::UnknownSection { id });
            }
            continue;
        };
        if flags & !REQUIRED != 0 {
            return Err(MetadataError::UnsupportedSectionFlags { id, flags });
        }
        contents[place] = Some(content);
    }
    Ok(contents)
}

/// Decodes the content of a section, if it is there.
pub(super) fn decode<'a, T: Deserialize<'a>>(
    id: u16,
    content: Option<&'a [u8]>,
) -> Result<Option<T>, MetadataError> {
    content.map(|bytes| codec::decode(bytes, Field::Section(id))).transpose()
}

/// Decodes the content of a section without which the message means nothing.
pub(super) fn require<'a, T: Deserialize<'a>>(
    id: u16,
    content: Option<&'a [u8]>,
) -> Result<T, MetadataError> {
    decode(id, content)?.ok_or(MetadataError::MissingField { field: Field::Section(id) })
}

/// Splits the core, whose length stands before it, from the sections behind it.
pub(super) fn split_core(payload: &[u8]) -> Result<(&[u8], &[u8]), MetadataError> {
    let truncated = MetadataError::Truncated { field: Field::Core };
    let Some((len, rest)) = payload.split_first_chunk() else {
        return Err(truncated);
    };
    rest.split_at_checked(u32::from_le_bytes(*len) as usize).ok_or(truncated)
}
