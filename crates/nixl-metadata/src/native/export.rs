//! The metadata of an export, version 1: the length of the core in 4 bytes, the core, and [sections](super::section).

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::envelope::{self, Message};
use super::file::File;
use super::layout::Layouts;
use super::layout_tensors::LayoutTensors;
use super::peer;
use super::section::{
    self, CLAIMS, LAYOUT_TENSORS, LAYOUTS, OPTIONAL, PEER, REQUIRED, SHARES, VERSIONS, WORDS,
    decode, require,
};
use super::sequence::blob;
use super::share::Shares;
use super::words::Words;
use crate::limits::at_most;
use crate::{
    AgentMetadata, ExportId, ExportMetadata, ExportedLayout, Field, Limits, MetadataError, codec,
};

const VERSION: u16 = 1;

#[derive(Serialize, Deserialize)]
struct Core<'a> {
    export: u64,
    #[serde(serialize_with = "blob")]
    agent_metadata: &'a [u8],
}

pub(crate) fn encode(metadata: &ExportMetadata) -> Result<Vec<u8>, MetadataError> {
    let capacity = capacity(metadata);
    envelope::seal(Message::Export, VERSION, capacity, |out| write(metadata, out))
}

pub(crate) fn decode_with(bytes: &[u8], limits: &Limits) -> Result<ExportMetadata, MetadataError> {
    at_most(Field::Document, bytes.len(), limits.encoded_bytes)?;
    let version_of = |version| match version {
        VERSION => Ok(()),
        version => Err(MetadataError::UnsupportedVersion { version }),
    };
    let ((), payload) = envelope::open(Message::Export, bytes, version_of)?;
    read(payload, limits)
}

/// About as long as the payload will be.
fn capacity(metadata: &ExportMetadata) -> u64 {
    let parts: usize = metadata.layouts().iter().map(|layout| layout.parts.len()).sum();
    let lists = 16 * parts + 128 * (metadata.layouts().len() + metadata.shares().len());
    (metadata.agent_metadata().compressed().len() + lists + 1024) as u64
}

/// Appends the payload, its sections in ascending order of their ids.
fn write(metadata: &ExportMetadata, out: &mut Vec<u8>) -> Result<(), MetadataError> {
    let core = Core {
        export: metadata.export().value(),
        agent_metadata: metadata.agent_metadata().compressed(),
    };
    section::with_length(out, Field::Core, |out| codec::encode_to(&core, out))?;
    peer::write(metadata.peer(), REQUIRED, out)?;
    if !metadata.shares().is_empty() {
        let shares = Shares::new(metadata.shares())?;
        section::write(out, SHARES, OPTIONAL, |out| codec::encode_to(&shares, out))?;
    }
    let layouts = Layouts::new(metadata.layouts())?;
    section::write(out, LAYOUTS, REQUIRED, |out| codec::encode_to(&layouts, out))?;
    let words = Words::new(metadata.words());
    section::write(out, WORDS, REQUIRED, |out| codec::encode_to(&words, out))?;
    if let Some(claims) = metadata.claims() {
        let claims = File::new(claims);
        section::write(out, CLAIMS, OPTIONAL, |out| codec::encode_to(&claims, out))?;
    }
    if !metadata.tensors().is_empty() {
        let tensors = LayoutTensors::new(metadata.tensors());
        section::write(out, LAYOUT_TENSORS, OPTIONAL, |out| codec::encode_to(&tensors, out))?;
    }
    Ok(())
}

fn read(payload: &[u8], limits: &Limits) -> Result<ExportMetadata, MetadataError> {
    const KNOWN: [u16; 7] = [PEER, VERSIONS, SHARES, LAYOUTS, WORDS, CLAIMS, LAYOUT_TENSORS];
    let (core, rest) = section::split_core(payload)?;
    let [peer, versions, shares, layouts, words, claims, tensors] = section::read(rest, KNOWN)?;
    let core: Core<'_> = codec::decode(core, Field::Core)?;
    let peer = peer::read(peer, versions, limits)?
        .ok_or(MetadataError::MissingField { field: Field::Section(PEER) })?;
    let layouts = require::<Layouts<'_>>(LAYOUTS, layouts)?.validate()?;
    let parts = layouts.iter().map(|layout: &ExportedLayout| layout.parts.len()).sum();
    limits.check_descriptors(parts)?;
    let shares = match decode::<Shares<'_>>(SHARES, shares)? {
        Some(shares) => shares.validate(parts)?,
        None => Vec::new(),
    };
    let words = require::<Words>(WORDS, words)?.unchecked();
    let claims = decode(CLAIMS, claims)?.map(File::unchecked);
    let tensors = decode(LAYOUT_TENSORS, tensors)?.map(LayoutTensors::validate).transpose()?;
    // The agent's metadata is the big part, and copied last.
    let blob = Bytes::copy_from_slice(core.agent_metadata);
    let agent = AgentMetadata::from_compressed(blob, limits)?;
    let metadata = ExportMetadata::new(ExportId::new(core.export), agent, peer, layouts, words)?
        .with_shares(shares)?
        .with_tensors(tensors.unwrap_or_default())?;
    match claims {
        Some(claims) => metadata.with_claims(claims),
        None => Ok(metadata),
    }
}
