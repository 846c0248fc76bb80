//! Sections: the part of version 4 in which later releases say more.
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
//! The content of an id never changes: not a field, not a byte more at its end. A release that has to say more adds a
//! section with a new id, beside the old one while readers need that. Ids are never used again.

use crate::{Field, MetadataError};

pub(super) const PEER: u16 = 1;
pub(super) const VERSIONS: u16 = 2;
pub(super) const SHARES: u16 = 3;
pub(super) const DOORBELL: u16 = 4;
pub(super) const TERMS: u16 = 5;
pub(super) const CHECKSUM: u16 = 6;

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

/// The contents of the known sections of a message.
#[derive(Default)]
pub(super) struct Sections<'a> {
    pub(super) peer: Option<&'a [u8]>,
    pub(super) versions: Option<&'a [u8]>,
    pub(super) shares: Option<&'a [u8]>,
    pub(super) doorbell: Option<&'a [u8]>,
    pub(super) terms: Option<&'a [u8]>,
    pub(super) checksum: Option<&'a [u8]>,
}

impl<'a> Sections<'a> {
    /// Finds the sections in `rest`, which they fill.
    pub(super) fn read(mut rest: &'a [u8]) -> Result<Self, MetadataError> {
        let mut sections = Self::default();
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
            *seen.get_mut(count).ok_or(MetadataError::TooManySections { limit: MAX_SECTIONS })? =
                id;
            count += 1;
            let place = match id {
                PEER => &mut sections.peer,
                VERSIONS => &mut sections.versions,
                SHARES => &mut sections.shares,
                DOORBELL => &mut sections.doorbell,
                TERMS => &mut sections.terms,
                CHECKSUM => &mut sections.checksum,
                _ if flags & REQUIRED != 0 => return Err(MetadataError::UnknownSection { id }),
                _ => continue,
            };
            if flags & !REQUIRED != 0 {
                return Err(MetadataError::UnsupportedSectionFlags { id, flags });
            }
            *place = Some(content);
        }
        Ok(sections)
    }
}
