//! Version 3: all parts in one struct.
//!
//! It has no versions of messages, which means the [default](crate::MessageVersions::default), and carries neither
//! terms nor a checksum. Its slot's address means that protocol's version 1, which this release reads but does not write.

use serde::{Deserialize, Serialize};

use super::NativeVersion;
use super::offer::{self, Offer};
use super::peer::{self, Peer};
use super::sequence::{each, sequence};
use super::share::{self, Share};
use super::slot_address::SlotAddress;
use crate::share::check_count;
use crate::{Field, Limits, MetadataError, RdmaMetadata, codec};

#[derive(Serialize, Deserialize)]
struct Document<'a> {
    #[serde(borrow)]
    offer: Offer<'a>,
    #[serde(borrow)]
    peer: Option<Peer<'a>>,
    slot_address: Option<SlotAddress>,
    #[serde(borrow, deserialize_with = "sequence::<_, _, { usize::MAX }>")]
    shares: Vec<Share<'a>>,
}

/// The size of the payload.
pub(super) fn encoded_len(metadata: &RdmaMetadata) -> u64 {
    let peer = 1 + metadata.peer().map_or(0, peer::encoded_len);
    let slot_address = 1;
    offer::encoded_len(metadata) + peer + slot_address + share::encoded_len(metadata.shares())
}

/// Appends the payload. The slot's address, the terms, the checksum and the tensor are left out: an initiator that reads this version
/// notifies through the engine.
pub(super) fn write(metadata: &RdmaMetadata, out: &mut Vec<u8>) -> Result<(), MetadataError> {
    if let Some(terms) = metadata.terms().filter(|terms| terms.claims().is_binding()) {
        return Err(MetadataError::ClaimsNotCarried {
            version: NativeVersion::V3,
            claims: terms.claims(),
        });
    }
    let document = Document {
        offer: Offer::new(metadata)?,
        peer: metadata.peer().map(Peer::new),
        slot_address: None,
        shares: each(metadata.shares(), Share::new)?,
    };
    codec::encode_to(&document, out)
}

pub(super) fn read(payload: &[u8], limits: &Limits) -> Result<RdmaMetadata, MetadataError> {
    let document: Document<'_> = codec::decode(payload, Field::Payload)?;
    check_count(document.shares.len(), document.offer.count(limits)?)?;
    let peer = document.peer.map(|peer| peer.validate(limits)).transpose()?;
    let shares = each(document.shares, |_, wire| wire.validate())?;
    let slot_address = document.slot_address.map(SlotAddress::unchecked);
    document.offer.validate(limits)?.with_parts(peer, shares, slot_address, None, None)
}
