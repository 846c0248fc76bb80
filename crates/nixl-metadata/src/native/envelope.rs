//! The envelope, checked before a byte of the payload is looked at.
//!
//! | offset | bytes | content |
//! |---|---|---|
//! | 0 | 4 | magic: `0x89`, then `NXM` for an offer or `NXE` for an export; the first byte can start neither JSON nor UTF-8 |
//! | 4 | 2 | version: 3 or 4 of an offer, 1 of an export |
//! | 6 | 2 | flags: 0 |
//! | 8 | 4 | length of the payload |
//! | 12 | 4 | CRC-32 (as in zlib) of the 12 bytes before and of the payload |
//! | 16 | | payload |
//!
//! Integers are little-endian. These 16 bytes stay where they are in every version.

use crate::{Field, MetadataError};

const FLAGS: u16 = 0;
pub(super) const HEADER_BYTES: usize = 16;

/// What is in the envelope.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Message {
    /// [`RdmaMetadata`](crate::RdmaMetadata).
    Offer,
    /// [`ExportMetadata`](crate::ExportMetadata).
    Export,
}

impl Message {
    const fn magic(self) -> [u8; 4] {
        match self {
            Self::Offer => *b"\x89NXM",
            Self::Export => *b"\x89NXE",
        }
    }

    fn of(bytes: &[u8]) -> Option<Self> {
        [Self::Offer, Self::Export].into_iter().find(|message| bytes.starts_with(&message.magic()))
    }

    const fn name(self) -> &'static str {
        match self {
            Self::Offer => "the metadata of an offer",
            Self::Export => "the metadata of an export",
        }
    }
}

/// Whether a message is in the native profile rather than in JSON.
pub(crate) fn is_native(bytes: &[u8]) -> bool {
    Message::of(bytes).is_some()
}

/// Wraps the payload of this version that `write` appends. `payload_len` is how long it will be.
pub(super) fn seal(
    message: Message,
    version: u16,
    payload_len: u64,
    write: impl FnOnce(&mut Vec<u8>) -> Result<(), MetadataError>,
) -> Result<Vec<u8>, MetadataError> {
    let payload_len = usize::try_from(payload_len).unwrap_or_default();
    let mut out = Vec::with_capacity(HEADER_BYTES.saturating_add(payload_len));
    out.resize(HEADER_BYTES, 0);
    write(&mut out)?;
    let len = out.len() - HEADER_BYTES;
    let len = u32::try_from(len).map_err(|_| MetadataError::TooLarge {
        field: Field::Payload,
        len,
        limit: u32::MAX as usize,
    })?;
    out[..4].copy_from_slice(&message.magic());
    out[4..6].copy_from_slice(&version.to_le_bytes());
    out[6..8].copy_from_slice(&FLAGS.to_le_bytes());
    out[8..12].copy_from_slice(&len.to_le_bytes());
    let checksum = checksum(&out[..12], &out[HEADER_BYTES..]);
    out[12..HEADER_BYTES].copy_from_slice(&checksum.to_le_bytes());
    Ok(out)
}

/// Unwraps the payload and returns its version, as `version_of` reads the number.
pub(super) fn open<V>(
    message: Message,
    bytes: &[u8],
    version_of: impl FnOnce(u16) -> Result<V, MetadataError>,
) -> Result<(V, &[u8]), MetadataError> {
    match Message::of(bytes) {
        Some(found) if found == message => {}
        Some(found) => {
            let (found, expected) = (found.name(), message.name());
            return Err(MetadataError::OtherMessage { found, expected });
        }
        None => return Err(MetadataError::BadMagic),
    }
    let Some((header, rest)) = bytes.split_first_chunk::<HEADER_BYTES>() else {
        return Err(MetadataError::Truncated { field: Field::Header });
    };
    let [_, _, _, _, v0, v1, f0, f1, l0, l1, l2, l3, c0, c1, c2, c3] = *header;
    let version = version_of(u16::from_le_bytes([v0, v1]))?;
    let flags = u16::from_le_bytes([f0, f1]);
    if flags != FLAGS {
        return Err(MetadataError::UnsupportedFlags { flags });
    }
    let len = u32::from_le_bytes([l0, l1, l2, l3]) as usize;
    let Some((payload, trailing)) = rest.split_at_checked(len) else {
        return Err(MetadataError::Truncated { field: Field::Payload });
    };
    if !trailing.is_empty() {
        return Err(MetadataError::TrailingBytes { field: Field::Document });
    }
    if checksum(&header[..12], payload) != u32::from_le_bytes([c0, c1, c2, c3]) {
        return Err(MetadataError::Checksum);
    }
    Ok((version, payload))
}

fn checksum(header: &[u8], payload: &[u8]) -> u32 {
    let mut crc = crc32fast::Hasher::new();
    crc.update(header);
    crc.update(payload);
    crc.finalize()
}
