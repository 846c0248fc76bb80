//! The native profile: an envelope around a payload, whose layout follows from its version.
//!
//! The parts of the payload (such as the offer, the peer, the shares) are structs as bincode writes them, apart
//! from those that the program uses. bincode does not describe itself: no field, type or order of a part ever changes.
//! What has to change becomes a new part, in a section with a number of its own (`section.rs`). bincode writes fields in
//! the order in which they stand, without padding and in little endian; before a text or a list its length in 8 bytes;
//! before an optional value a byte, 0 or 1; and before a variant its number in 4 bytes.

mod checksum;
mod device;
mod envelope;
mod export;
mod file;
mod layout;
mod layout_tensors;
mod offer;
mod offer_word;
mod peer;
mod section;
mod sequence;
mod share;
mod slot_address;
mod tensor;
mod terms;
mod v3;
mod v4;
mod version;
mod versions;
mod words;

use self::envelope::Message;
use crate::limits::at_most;
use crate::{Field, Limits, MetadataError, RdmaMetadata};

pub(crate) use envelope::is_native;
pub(crate) use export::{decode_with as decode_export, encode as encode_export};
pub(crate) use section::name as section_name;
pub(crate) use sequence::sequence as bounded;
pub use version::NativeVersion;

pub(crate) fn encode(
    metadata: &RdmaMetadata,
    version: NativeVersion,
) -> Result<Vec<u8>, MetadataError> {
    let (encoded_len, write): (u64, fn(_, &mut _) -> _) = match version {
        NativeVersion::V3 => (v3::encoded_len(metadata), v3::write),
        NativeVersion::V4 => (v4::encoded_len(metadata), v4::write),
    };
    envelope::seal(Message::Offer, version.to_wire(), encoded_len, |out| write(metadata, out))
}

/// The size of the longest encoding, computed without encoding.
pub(crate) fn encoded_len(metadata: &RdmaMetadata) -> u64 {
    let longest = v3::encoded_len(metadata).max(v4::encoded_len(metadata));
    envelope::HEADER_BYTES as u64 + longest
}

pub(crate) fn decode(bytes: &[u8], limits: &Limits) -> Result<RdmaMetadata, MetadataError> {
    at_most(Field::Document, bytes.len(), limits.encoded_bytes)?;
    match envelope::open(Message::Offer, bytes, NativeVersion::from_wire)? {
        (NativeVersion::V3, payload) => v3::read(payload, limits),
        (NativeVersion::V4, payload) => v4::read(payload, limits),
    }
}
