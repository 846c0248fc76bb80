//! Version 4: the length of the core in 4 bytes, the core, and [sections](super::section).

use serde::{Deserialize, Serialize};

use super::checksum::{self, Checksum};
use super::doorbell::{self, Doorbell};
use super::offer::{self, Offer};
use super::peer::{self, Peer};
use super::section::{
    self, CHECKSUM, DOORBELL, OPTIONAL, PEER, REQUIRED, SHARES, Sections, TERMS, VERSIONS,
};
use super::sequence::{each, sequence};
use super::share::{self, Share};
use super::terms::{self, Terms};
use super::versions;
use crate::share::check_count;
use crate::{Field, Limits, MetadataError, PeerInfo, RdmaMetadata, codec};

/// The content of the section of shares.
#[derive(Serialize, Deserialize)]
struct Shares<'a>(
    #[serde(borrow, deserialize_with = "sequence::<_, _, { usize::MAX }>")] Vec<Share<'a>>,
);

/// The size of the payload.
pub(super) fn encoded_len(metadata: &RdmaMetadata) -> u64 {
    let shares = metadata.shares();
    let sections = [
        metadata.peer().map(peer::encoded_len),
        metadata.peer().map(|_| versions::ENCODED_LEN),
        (!shares.is_empty()).then(|| share::encoded_len(shares)),
        metadata.doorbell().map(|_| doorbell::ENCODED_LEN),
        metadata.terms().map(|_| terms::ENCODED_LEN),
        metadata.checksum().map(|_| checksum::ENCODED_LEN),
    ];
    let sections = sections.into_iter().flatten().map(|len| section::HEADER_BYTES + len);
    4 + offer::encoded_len(metadata) + sections.sum::<u64>()
}

/// Appends the payload, its sections in ascending order of their ids.
pub(super) fn write(metadata: &RdmaMetadata, out: &mut Vec<u8>) -> Result<(), MetadataError> {
    let offer = Offer::new(metadata)?;
    section::with_length(out, Field::Core, |out| codec::encode_to(&offer, out))?;
    if let Some(peer) = metadata.peer() {
        section::write(out, PEER, OPTIONAL, |out| codec::encode_to(&Peer::new(peer), out))?;
        section::write(out, VERSIONS, OPTIONAL, |out| {
            versions::write(&peer.versions(), out);
            Ok(())
        })?;
    }
    if !metadata.shares().is_empty() {
        let shares = Shares(each(metadata.shares(), Share::new)?);
        section::write(out, SHARES, OPTIONAL, |out| codec::encode_to(&shares, out))?;
    }
    if let Some(doorbell) = metadata.doorbell() {
        let doorbell = Doorbell::new(doorbell);
        section::write(out, DOORBELL, OPTIONAL, |out| codec::encode_to(&doorbell, out))?;
    }
    if let Some(terms) = metadata.terms() {
        section::write(out, TERMS, REQUIRED, |out| codec::encode_to(&Terms::new(terms), out))?;
    }
    if let Some(checksum) = metadata.checksum() {
        let checksum = Checksum::new(checksum);
        section::write(out, CHECKSUM, OPTIONAL, |out| codec::encode_to(&checksum, out))?;
    }
    Ok(())
}

pub(super) fn read(payload: &[u8], limits: &Limits) -> Result<RdmaMetadata, MetadataError> {
    let (core, rest) = split_core(payload)?;
    // The frames first: what has to be refused for an unknown section costs no copy.
    let sections = Sections::read(rest)?;
    let offer: Offer<'_> = codec::decode(core, Field::Core)?;
    let count = offer.count(limits)?;
    let peer = peer(&sections, limits)?;
    let shares = match decode(SHARES, sections.shares)? {
        Some(Shares(shares)) => {
            check_count(shares.len(), count)?;
            each(shares, |_, wire| wire.validate())?
        }
        None => Vec::new(),
    };
    let doorbell = decode(DOORBELL, sections.doorbell)?.map(Doorbell::unchecked);
    let terms = decode(TERMS, sections.terms)?.map(Terms::validate).transpose()?;
    let checksum = decode(CHECKSUM, sections.checksum)?.map(Checksum::validate).transpose()?;
    offer.validate(limits)?.with_parts(peer, shares, doorbell, terms, checksum)
}

fn split_core(payload: &[u8]) -> Result<(&[u8], &[u8]), MetadataError> {
    let truncated = MetadataError::Truncated { field: Field::Core };
    let Some((len, rest)) = payload.split_first_chunk() else {
        return Err(truncated);
    };
    rest.split_at_checked(u32::from_le_bytes(*len) as usize).ok_or(truncated)
}

/// The peer and the versions of its messages. Versions without a peer are ignored: a later release may describe the
/// peer in a section that this one skips.
fn peer(sections: &Sections<'_>, limits: &Limits) -> Result<Option<PeerInfo>, MetadataError> {
    let versions = sections.versions.map(versions::read).transpose()?.unwrap_or_default();
    let peer = decode::<Peer<'_>>(PEER, sections.peer)?;
    peer.map(|peer| Ok(peer.validate(limits)?.with_versions(versions))).transpose()
}

/// Decodes the content of a section, if it is there.
fn decode<'a, T: Deserialize<'a>>(
    id: u16,
    content: Option<&'a [u8]>,
) -> Result<Option<T>, MetadataError> {
    content.map(|bytes| codec::decode(bytes, Field::Section(id))).transpose()
}
