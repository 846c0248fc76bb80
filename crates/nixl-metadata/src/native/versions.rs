//! Encoding of the versions of a peer's messages: pairs of a kind and its version, in ascending order of the kinds.
//!
//! Both are 2 bytes, and nothing else is there. Kinds that are unknown are skipped, so a release may add one; a known kind
//! that is absent is one that the peer does not speak.

use super::section::VERSIONS;
use crate::{Field, MessageVersions, MetadataError};

const STAGING: u16 = 1;
const REMOTE_COPY: u16 = 2;
const DOORBELL: u16 = 3;
const CLAIMS: u16 = 4;

/// The size of the encoding.
pub(super) const ENCODED_LEN: u64 = 4 * (2 + 2);

pub(super) fn write(versions: &MessageVersions, out: &mut Vec<u8>) {
    let pairs = [
        (STAGING, versions.staging()),
        (REMOTE_COPY, versions.remote_copy()),
        (DOORBELL, versions.doorbell()),
        (CLAIMS, versions.claims()),
    ];
    for (kind, version) in pairs {
        out.extend(kind.to_le_bytes());
        out.extend(version.to_le_bytes());
    }
}

pub(super) fn read(bytes: &[u8]) -> Result<MessageVersions, MetadataError> {
    let (pairs, []) = bytes.as_chunks::<4>() else {
        return Err(MetadataError::Truncated { field: Field::Section(VERSIONS) });
    };
    let mut versions = MessageVersions::NONE;
    let mut before = None;
    for &[k0, k1, v0, v1] in pairs {
        let (kind, version) = (u16::from_le_bytes([k0, k1]), u16::from_le_bytes([v0, v1]));
        if before.is_some_and(|before| before >= kind) {
            return Err(MetadataError::MessageVersionOrder { kind });
        }
        before = Some(kind);
        versions = match kind {
            STAGING => versions.with_staging(version),
            REMOTE_COPY => versions.with_remote_copy(version),
            DOORBELL => versions.with_doorbell(version),
            CLAIMS => versions.with_claims(version),
            _ => versions,
        };
    }
    Ok(versions)
}
