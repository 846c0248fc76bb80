//! The codec: bincode, confined to this module.
//!
//! Integers have a fixed width and are little-endian, so every value has exactly one encoding. bincode consults its
//! limit while encoding; decoding from a slice it does not, but then checks every length against what is left of it.

use bincode::{DefaultOptions, ErrorKind, Options};
use serde::{Deserialize, Serialize};

use crate::{Field, MetadataError};

/// The most bytes in an encoding: what the envelope can count.
const LIMIT: u32 = u32::MAX;

fn options() -> impl Options {
    DefaultOptions::new()
        .with_fixint_encoding()
        .with_little_endian()
        .with_limit(LIMIT.into())
        .reject_trailing_bytes()
}

/// Appends the encoding of a value to `out`.
pub(crate) fn encode_to<T: Serialize>(value: &T, out: &mut Vec<u8>) -> Result<(), MetadataError> {
    options().serialize_into(out, value).map_err(|error| explain(&error, Field::Payload))
}

/// Decodes a value that takes up all of `bytes` and may borrow from them. `field` is what they are.
pub(crate) fn decode<'a, T: Deserialize<'a>>(
    bytes: &'a [u8],
    field: Field,
) -> Result<T, MetadataError> {
    options().deserialize(bytes).map_err(|error| match *error {
        // A text is all that bincode says of bytes that are left over, and all that the types on the wire say of a
        // variant that does not exist. What decodes without the check for the former has too many bytes.
        ErrorKind::Custom(_)
            if options().allow_trailing_bytes().deserialize::<T>(bytes).is_ok() =>
        {
            MetadataError::TrailingBytes { field }
        }
        error => explain(&error, field),
    })
}

fn explain(error: &ErrorKind, field: Field) -> MetadataError {
    match error {
        ErrorKind::Io(_) => MetadataError::Truncated { field },
        ErrorKind::SizeLimit => MetadataError::TooLarge {
            field,
            len: (LIMIT as usize).saturating_add(1),
            limit: LIMIT as usize,
        },
        _ => MetadataError::Malformed,
    }
}
