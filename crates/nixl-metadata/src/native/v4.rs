//! Version 4: the length of the core in 4 bytes, the core, and [sections](super::section).

use super::checksum::{self, Checksum};
use super::offer::{self, Offer};
use super::offer_word::{self, OfferWord};
use super::peer;
use super::section::{
    self, CHECKSUM, DOORBELL, OFFER_WORD, OPTIONAL, PEER, REQUIRED, SHARES, TENSOR, TERMS,
    TRACE_CONTEXT, VERSIONS, decode,
};
use super::share::{self, Shares};
use super::slot_address::{self, SlotAddress};
use super::tensor::{self, Tensor};
use super::terms::{self, Terms};
use super::versions;
use crate::{Field, Limits, MetadataError, RdmaMetadata, TraceContext, codec};

/// The size of the payload.
pub(super) fn encoded_len(metadata: &RdmaMetadata) -> u64 {
    let shares = metadata.shares();
    let sections = [
        metadata.peer().map(peer::encoded_len),
        metadata.peer().map(|_| versions::ENCODED_LEN),
        (!shares.is_empty()).then(|| share::encoded_len(shares)),
        metadata.slot_address().map(|_| slot_address::ENCODED_LEN),
        metadata.terms().map(|_| terms::ENCODED_LEN),
        metadata.checksum().map(|_| checksum::ENCODED_LEN),
        metadata.trace_context().map(|_| TraceContext::LEN as u64),
        metadata.tensor().map(tensor::encoded_len),
        metadata.word().map(|_| offer_word::ENCODED_LEN),
    ];
    let sections = sections.into_iter().flatten().map(|len| section::HEADER_BYTES + len);
    4 + offer::encoded_len(metadata) + sections.sum::<u64>()
}

/// Appends the payload, its sections in ascending order of their ids.
pub(super) fn write(metadata: &RdmaMetadata, out: &mut Vec<u8>) -> Result<(), MetadataError> {
    let offer = Offer::new(metadata)?;
    section::with_length(out, Field::Core, |out| codec::encode_to(&offer, out))?;
    if let Some(peer) = metadata.peer() {
        peer::write(peer, OPTIONAL, out)?;
    }
    if !metadata.shares().is_empty() {
        let shares = Shares::new(metadata.shares())?;
        section::write(out, SHARES, OPTIONAL, |out| codec::encode_to(&shares, out))?;
    }
    if let Some(slot_address) = metadata.slot_address() {
        let slot_address = SlotAddress::new(slot_address);
        section::write(out, DOORBELL, OPTIONAL, |out| codec::encode_to(&slot_address, out))?;
    }
    if let Some(terms) = metadata.terms() {
        section::write(out, TERMS, REQUIRED, |out| codec::encode_to(&Terms::new(terms), out))?;
    }
    if let Some(checksum) = metadata.checksum() {
        let checksum = Checksum::new(checksum);
        section::write(out, CHECKSUM, OPTIONAL, |out| codec::encode_to(&checksum, out))?;
    }
    if let Some(context) = metadata.trace_context() {
        section::write(out, TRACE_CONTEXT, OPTIONAL, |out| {
            out.extend(context.to_wire());
            Ok(())
        })?;
    }
    if let Some(tensor) = metadata.tensor() {
        let tensor = Tensor::new(tensor);
        section::write(out, TENSOR, OPTIONAL, |out| codec::encode_to(&tensor, out))?;
    }
    if let Some(word) = metadata.word() {
        let word = OfferWord::new(word);
        section::write(out, OFFER_WORD, OPTIONAL, |out| codec::encode_to(&word, out))?;
    }
    Ok(())
}

pub(super) fn read(payload: &[u8], limits: &Limits) -> Result<RdmaMetadata, MetadataError> {
    const KNOWN: [u16; 9] =
        [PEER, VERSIONS, SHARES, DOORBELL, TERMS, CHECKSUM, TRACE_CONTEXT, TENSOR, OFFER_WORD];
    let (core, rest) = section::split_core(payload)?;
    // The frames first: what has to be refused for an unknown section costs no copy.
    let [peer, versions, shares, slot_address, terms, checksum, trace, tensor, word] =
        section::read(rest, KNOWN)?;
    let offer: Offer<'_> = codec::decode(core, Field::Core)?;
    let count = offer.count(limits)?;
    let peer = peer::read(peer, versions, limits)?;
    let shares = match decode::<Shares<'_>>(SHARES, shares)? {
        Some(shares) => shares.validate(count)?,
        None => Vec::new(),
    };
    let slot_address = decode(DOORBELL, slot_address)?.map(SlotAddress::unchecked);
    let terms = decode(TERMS, terms)?.map(Terms::validate).transpose()?;
    let checksum = decode(CHECKSUM, checksum)?.map(Checksum::validate).transpose()?;
    let tensor = decode(TENSOR, tensor)?.map(Tensor::validate).transpose()?;
    let word = decode(OFFER_WORD, word)?.map(OfferWord::validate).transpose()?;
    let metadata =
        offer.validate(limits)?.with_parts(peer, shares, slot_address, terms, checksum)?;
    let metadata = match tensor {
        Some(tensor) => metadata.with_tensor(tensor)?,
        None => metadata,
    };
    let metadata = match word {
        Some(word) => metadata.with_word(word)?,
        None => metadata,
    };
    Ok(match trace.and_then(TraceContext::from_wire) {
        Some(context) => metadata.with_trace_context(context),
        None => metadata,
    })
}
