//! The native profile: an envelope around a bincode payload.

mod envelope;
mod sequence;
mod share;
mod wire;

use crate::limits::at_most;
use crate::{Field, Limits, MetadataError, RdmaMetadata, codec};

pub(crate) use envelope::is_native;

pub(crate) fn encode(metadata: &RdmaMetadata) -> Result<Vec<u8>, MetadataError> {
    let document = wire::Document::new(metadata)?;
    envelope::seal(|out| codec::encode_to(&document, out))
}

pub(crate) fn decode(bytes: &[u8], limits: &Limits) -> Result<RdmaMetadata, MetadataError> {
    at_most(Field::Document, bytes.len(), limits.encoded_bytes)?;
    let payload = envelope::open(bytes)?;
    codec::decode::<wire::Document<'_>>(payload)?.validate(limits)
}
