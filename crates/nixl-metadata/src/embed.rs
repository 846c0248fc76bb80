//! Messages inside larger ones, by serde: base64 in human-readable formats, bytes in binary ones.

use std::fmt;

use base64::Engine;
use base64::display::Base64Display;
use base64::engine::general_purpose::STANDARD;
use serde::de::{Deserializer, Error, Visitor};
use serde::ser::{Error as _, Serializer};

use crate::limits::at_most;
use crate::{Field, MetadataError};

pub(crate) fn serialize<S: Serializer>(
    encoded: Result<Vec<u8>, MetadataError>,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    let encoded = encoded.map_err(S::Error::custom)?;
    if serializer.is_human_readable() {
        serializer.collect_str(&Base64Display::new(&encoded, &STANDARD))
    } else {
        serializer.serialize_bytes(&encoded)
    }
}

/// Reads at most `most` bytes, called `field`, and decodes them.
pub(crate) fn deserialize<'de, D: Deserializer<'de>, T>(
    deserializer: D,
    field: Field,
    most: usize,
    decode: fn(&[u8]) -> Result<T, MetadataError>,
) -> Result<T, D::Error> {
    let embedded = Embedded { field, most, decode };
    if deserializer.is_human_readable() {
        deserializer.deserialize_str(embedded)
    } else {
        deserializer.deserialize_bytes(embedded)
    }
}

/// Takes either form, also the one that was not asked for: serde keeps a value that it reads twice in a buffer that calls itself a format
/// for people, also if it came from a binary one.
struct Embedded<T> {
    field: Field,
    most: usize,
    decode: fn(&[u8]) -> Result<T, MetadataError>,
}

impl<T> Embedded<T> {
    fn text(&self, text: &str) -> Result<T, MetadataError> {
        // A text this long decodes to more than the limit: refuse it before decoding.
        at_most(self.field, (text.len() / 4).saturating_mul(3).saturating_sub(2), self.most)?;
        let bytes =
            STANDARD.decode(text).map_err(|_| MetadataError::NotBase64 { field: self.field })?;
        self.bytes(&bytes)
    }

    fn bytes(&self, bytes: &[u8]) -> Result<T, MetadataError> {
        at_most(self.field, bytes.len(), self.most)?;
        (self.decode)(bytes)
    }
}

impl<T> Visitor<'_> for Embedded<T> {
    type Value = T;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} as base64 or bytes", self.field)
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<T, E> {
        self.text(text).map_err(E::custom)
    }

    fn visit_bytes<E: Error>(self, bytes: &[u8]) -> Result<T, E> {
        self.bytes(bytes).map_err(E::custom)
    }
}
