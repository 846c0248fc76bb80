//! Copies from an export within its owner's process, under a real lease.

use std::ops::Range;

use nixl_descriptor::layout::{BlockPairs, Layout, pair_chunks};
use nixl_descriptor::{DescriptorList, LeaseError, Leased, copy_range};
use nixl_metadata::Ticket;
use nixl_ops::{
    Completion, GrantError, OperationOptions, PathKind, PathReport, ReadableOperation,
    TransportError,
};

use super::error::TicketError;
use super::export::ExportShared;
use crate::offload::Offloaded;
use crate::{Connector, ConnectorError};

/// Chunks of one offer: fewer than metadata may list.
const CHUNKS: usize = 1 << 14;

/// A part of a copy by an executor: the source as an offer of this process, which leases it, and the destination.
struct Offered {
    source: ReadableOperation,
    local: DescriptorList,
}

impl ExportShared {
    /// Copies granted blocks to local ones, both of this process.
    pub(super) async fn copy(
        &self,
        reader: &Connector,
        ticket: &Ticket,
        (local, blocks): (&Layout, &[usize]),
        layers: Range<usize>,
        options: OperationOptions,
    ) -> Result<Completion, ConnectorError> {
        let clock = reader.connection().clock();
        let begun = clock.now();
        let (layout, of) = (ticket.layout(), (ticket.slot(), ticket.generation()));
        let granted = self.table().lease(of, ticket.token(), ticket.digest(), layers.clone());
        let granted = granted.map_err(|error| match error {
            // As for readers of other processes.
            GrantError::Over => TransportError::Stale.into(),
            GrantError::NotGranted { .. } => TransportError::NotGranted.into(),
            GrantError::NotReady { ready, asked } => {
                TransportError::NotReady { ready, asked }.into()
            }
            error => ConnectorError::from(error),
        })?;
        let source = self.layout(layout)?;
        let ids: Vec<usize> = ticket.blocks().iter().map(|&block| block as usize).collect();
        let pairs =
            pair_chunks(source, &ids, local, blocks, layers).map_err(TicketError::Pairing)?;
        let report = match source.device().is_host() && local.device().is_host() {
            true => {
                let [reading, writing] = pairs.lease().map_err(TicketError::Lease)?;
                drop(granted);
                let held = [Leased::from(reading), Leased::from(writing)];
                let copying = copy(pairs, (source.clone(), local.clone()), held);
                let copying = Offloaded::new(reader.connection().work()?, copying);
                let (copied, _) =
                    reader.connection().driver().with_timeout(options, copying).await?;
                copied??
            }
            false => {
                let offers = self.offers(&pairs, (source, local)).await?;
                drop(granted);
                read(reader, offers, options).await?
            }
        };
        let elapsed = clock.now().saturating_sub(begun);
        Ok(Completion::of_copy(report, elapsed))
    }

    /// The path of a copy of a block between memories of which one is a GPU's, in this process.
    pub(super) async fn path_on_gpu(
        &self,
        reader: &Connector,
        (layout, local): (u16, &Layout),
    ) -> Result<PathReport, ConnectorError> {
        let source = self.layout(layout)?;
        let layers = 0..source.geometry().layers();
        let pairs = pair_chunks(source, &[0], local, &[0], layers).map_err(TicketError::Pairing)?;
        let options = reader.default_options();
        let mut report = None;
        for Offered { source, local } in self.offers(&pairs, (source, local)).await? {
            report = Some(reader.path_of_read(&source.metadata(), local, options).await?);
        }
        report.ok_or(ConnectorError::Transport(TransportError::Closed))
    }

    fn layout(&self, layout: u16) -> Result<&Layout, TicketError> {
        let layouts = self.layouts().len();
        self.layouts().get(usize::from(layout)).ok_or(TicketError::NoSuchLayout { layout, layouts })
    }

    /// Offers the source of each part of a copy to this process.
    async fn offers(
        &self,
        pairs: &BlockPairs,
        (source, local): (&Layout, &Layout),
    ) -> Result<Vec<Offered>, ConnectorError> {
        let chunks: Vec<_> = pairs.chunks().collect();
        let mut offers = Vec::with_capacity(chunks.len().div_ceil(CHUNKS));
        for chunks in chunks.chunks(CHUNKS) {
            let (mut from, mut to) = (Vec::new(), Vec::new());
            for chunk in chunks {
                let (start, end) = (chunk.src().offset, chunk.dst().offset);
                let part = &source.parts()[chunk.src().part];
                from.push(part.slice(start..start + chunk.len())?);
                to.push(local.parts()[chunk.dst().part].slice(end..end + chunk.len())?);
            }
            let from = DescriptorList::try_from(from)?;
            let source = self.connector().create_readable(from).await?;
            offers.push(Offered { source, local: DescriptorList::try_from(to)? });
        }
        Ok(offers)
    }
}

/// Copies bytes of the host.
async fn copy(
    pairs: BlockPairs,
    (source, local): (Layout, Layout),
    held: [Leased; 2],
) -> Result<PathReport, ConnectorError> {
    let uses = held.each_ref().map(Leased::begin_use);
    let [Ok(reading), Ok(writing)] = &uses else {
        return Err(TicketError::Lease(LeaseError::InUse).into());
    };
    let mut count = 0;
    for chunk in pairs.chunks() {
        let from = &source.parts()[chunk.src().part];
        let to = &local.parts()[chunk.dst().part];
        let (start, end) = (chunk.src().offset, chunk.dst().offset);
        copy_range(from, start, to, end, chunk.len(), &[reading, writing])?;
        count += 1;
    }
    let bytes = pairs.bytes() as u64;
    Ok(PathReport::new(PathKind::SameProcessCopy, "memcpy", bytes, count))
}

/// Reads the parts by the reader's executor. Its report is that of the last, of all bytes.
async fn read(
    reader: &Connector,
    offers: Vec<Offered>,
    mut options: OperationOptions,
) -> Result<PathReport, ConnectorError> {
    let (mut bytes, mut descriptors, mut report) = (0, 0, None);
    for Offered { source, local } in offers {
        let remote = source.metadata();
        let part = reader.begin_read_with(&remote, local, options.unmetered()).await?.await?;
        bytes += part.bytes();
        options = options.spending(part.elapsed());
        descriptors += part.path().map_or(0, PathReport::descriptors);
        report = part.path().cloned().or(report);
    }
    let none = || PathReport::new(PathKind::SameProcessCopy, "none", 0, 0);
    Ok(report.unwrap_or_else(none).of_copies(bytes, descriptors))
}
