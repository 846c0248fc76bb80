//! The text of the agent's metadata: `b64:` and base64, or hexadecimal as early versions printed it.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use super::BASE64_PREFIX;
use crate::limits::at_most;
use crate::{AgentMetadata, Field, Limits, MetadataError};

pub(crate) fn print(agent: &AgentMetadata) -> String {
    let mut text = BASE64_PREFIX.to_owned();
    STANDARD.encode_string(agent.compressed(), &mut text);
    text
}

pub(crate) fn parse(text: &str, limits: &Limits) -> Result<AgentMetadata, MetadataError> {
    // A text this long decodes to more than the limit: refuse it before decoding.
    let limit = limits.compressed_bytes;
    let compressed = match text.strip_prefix(BASE64_PREFIX) {
        Some(base64) => {
            let at_least = (base64.len() / 4).saturating_mul(3).saturating_sub(2);
            at_most(Field::NixlMetadata, at_least, limit)?;
            STANDARD.decode(base64).map_err(|_| MetadataError::BadBase64)?
        }
        None => {
            at_most(Field::NixlMetadata, text.len() / 2, limit)?;
            decode_hex(text.as_bytes()).ok_or(MetadataError::BadHex)?
        }
    };
    AgentMetadata::from_compressed(compressed.into(), limits)
}

/// Pairs of hexadecimal digits in either case.
fn decode_hex(text: &[u8]) -> Option<Vec<u8>> {
    let (pairs, []) = text.as_chunks::<2>() else {
        return None;
    };
    let digit = |byte: u8| char::from(byte).to_digit(16);
    pairs.iter().map(|&[high, low]| u8::try_from(digit(high)? << 4 | digit(low)?).ok()).collect()
}
