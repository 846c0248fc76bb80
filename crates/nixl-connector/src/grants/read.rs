//! The ranges of a ticket's blocks, as an executor takes them.

use std::ops::Range;
use std::sync::Arc;

use nixl_descriptor::layout::{BlockPart, Layout, RemoteLayout, RemotePairs, pair_remote_parts};
use nixl_descriptor::{DescriptorList, Span};
use nixl_device::Device;
use nixl_metadata::{
    ExportMetadata, MetadataError, NotificationKey, OperationKind, RdmaMetadata,
    SerializedDescriptor, Share, Ticket, WordsLocation,
};

use super::error::TicketError;
use crate::ConnectorError;

/// A ticket, a local layout, and the blocks of that, one for each block of the ticket.
pub(super) type Sides<'a> = (&'a Ticket, &'a Layout, &'a [usize]);

/// Both sides of a transfer of blocks.
pub(super) struct Lists {
    pub(super) local: DescriptorList,
    pub(super) remote: RdmaMetadata,
    /// [Pieces](RemotePairs::pieces) of each block.
    pub(super) pieces: usize,
}

impl Lists {
    /// The blocks of the ticket, in its order, beside `blocks` of a local layout.
    pub(super) fn of_blocks(
        (export, theirs): ((&ExportMetadata, &NotificationKey), &RemoteLayout),
        sides: Sides<'_>,
        part: &BlockPart,
    ) -> Result<Self, ConnectorError> {
        let pairs = pairs_of_blocks(theirs, sides, part)?;
        let runs = (pairs.remote(), pairs.remote_parts());
        let remote = of_peer(export, sides.0.layout().into(), runs)?;
        let pieces = pairs.pieces();
        Ok(Self { local: DescriptorList::try_from(pairs.into_local())?, remote, pieces })
    }

    /// The words of a slot.
    pub(super) fn of_words(
        export: &ExportMetadata,
        slot: u32,
        local: DescriptorList,
    ) -> Result<Self, ConnectorError> {
        let len = WordsLocation::SLOT_BYTES;
        // Inside the address space, as the metadata was checked.
        let at = export.words().address + len * u64::from(slot);
        let words = SerializedDescriptor::new(Device::HOST, at, len)?;
        Ok(Self {
            local,
            remote: offered((export, NotificationKey::random()), vec![words], Vec::new())?,
            pieces: 1,
        })
    }

    /// How many bytes of a layout's parts a probe reads, part by part: the first few of each, so that all are opened and known to
    /// the engine. Of a layout of more parts than processes keep open, only those of the first.
    pub(super) fn probed(export: &ExportMetadata, layout: usize) -> Vec<u64> {
        const PARTS: usize = 1024;
        const BYTES: u64 = 64;
        let parts = &export.layouts()[layout].parts;
        let probed = if parts.len() > PARTS { &parts[..1] } else { parts };
        probed.iter().map(|part| part.len.min(BYTES)).collect()
    }

    /// As many bytes of a layout's parts, to see whether a path works.
    pub(super) fn of_probe(
        export: &ExportMetadata,
        layout: usize,
        local: DescriptorList,
    ) -> Result<Self, ConnectorError> {
        let described = &export.layouts()[layout];
        let (mut descriptors, mut shares) = (Vec::new(), Vec::new());
        for (index, (part, bytes)) in described.parts.iter().zip(local.iter()).enumerate() {
            let (address, len) = (part.address, bytes.len() as u64);
            descriptors.push(SerializedDescriptor::new(described.device, address, len)?);
            shares.extend(share(export, (layout, index), address, index..index + 1));
        }
        let key = NotificationKey::random();
        Ok(Self { local, remote: offered((export, key), descriptors, shares)?, pieces: 1 })
    }
}

/// All of a layout's parts, for what is done of them ahead of reads.
pub(super) fn whole(export: &ExportMetadata, layout: usize) -> Result<RdmaMetadata, MetadataError> {
    let (mut descriptors, mut shares) = (Vec::new(), Vec::new());
    let described = &export.layouts()[layout];
    for (index, part) in described.parts.iter().enumerate() {
        descriptors.push(SerializedDescriptor::new(described.device, part.address, part.len)?);
        shares.extend(share(export, (layout, index), part.address, index..index + 1));
    }
    offered((export, NotificationKey::random()), descriptors, shares)
}

/// The runs of the ticket's blocks, in its order, and of the blocks of a local layout.
pub(super) fn pairs_of_blocks(
    theirs: &RemoteLayout,
    (ticket, local, blocks): Sides<'_>,
    part: &BlockPart,
) -> Result<RemotePairs, TicketError> {
    let pair = |granted: &[usize]| pair_remote_parts(theirs, granted, local, blocks, part);
    let pairs = match ticket.blocks() {
        &[block] => pair(&[block as usize]),
        granted => pair(&granted.iter().map(|&block| block as usize).collect::<Vec<_>>()),
    };
    pairs.map_err(TicketError::Pairing)
}

/// A part of the peer's layout, and how many runs of a list lie in it.
pub(super) type Part = (usize, usize);

/// What the peer offers, as the metadata of an offer of these bytes alone would say it.
pub(super) fn of_peer(
    (export, key): (&ExportMetadata, &NotificationKey),
    layout: usize,
    (runs, parts): (&[Span], &[Part]),
) -> Result<RdmaMetadata, MetadataError> {
    let mut descriptors = Vec::with_capacity(runs.len());
    for span in runs {
        descriptors.push(SerializedDescriptor::new(span.device, span.address, span.len)?);
    }
    let mut shares: Vec<Share> = Vec::new();
    let mut start = 0;
    for &(part, count) in parts {
        let end = start + count;
        let first = runs[start].address;
        let next = share(export, (layout, part), first, start..end);
        start = end;
        let Some(next) = next else { continue };
        match shares.last_mut() {
            // Parts that lie in one file are one share.
            Some(last) if continues(last, &next, runs) => {
                let range = last.descriptors().start..next.descriptors().end;
                *last = Share::new(range, *last.kind(), last.offset());
            }
            _ => shares.push(next),
        }
    }
    offered((export, key.clone()), descriptors, shares)
}

/// Whether `next` follows `last` in the list and lies in the same memory, as far from it as the addresses say.
fn continues(last: &Share, next: &Share, runs: &[Span]) -> bool {
    let address = |share: &Share| runs[share.descriptors().start].address;
    let apart = address(next).wrapping_sub(address(last));
    last.descriptors().end == next.descriptors().start
        && last.kind() == next.kind()
        && last.offset().wrapping_add(apart) == next.offset()
}

/// How processes of the owner's host reach these descriptors, which begin at `first` in the part.
pub(super) fn share(
    export: &ExportMetadata,
    (layout, part): (usize, usize),
    first: u64,
    descriptors: Range<usize>,
) -> Option<Share> {
    let (share, offset) = export.share_of(layout, part)?;
    let start = export.layouts().get(layout)?.parts.get(part)?.address;
    let offset = offset.checked_add(first.checked_sub(start)?)?;
    Some(Share::new(descriptors, *share.kind(), offset))
}

fn offered(
    (export, key): (&ExportMetadata, NotificationKey),
    descriptors: Vec<SerializedDescriptor>,
    shares: Vec<Share>,
) -> Result<RdmaMetadata, MetadataError> {
    let agent = export.agent_metadata().clone();
    RdmaMetadata::new(OperationKind::Read, descriptors, agent, key)?
        .with_peer(Arc::clone(export.peer()))
        .with_shares(shares)
}
