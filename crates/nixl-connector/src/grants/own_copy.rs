//! Copies from an export within its owner's process, under a real lease.

use nixl_descriptor::layout::{
    BlockPairs, BlockPart, ByteSpan, ChunkPair, Layout, pair_chunks, pair_parts,
};
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

/// Runs of one offer: fewer than metadata may list.
const RUNS: usize = 1 << 14;

/// Source and destination.
type Run = (ByteSpan, ByteSpan);

/// A part of a copy by an executor: the source as an offer of this process, which leases it, and the destination.
struct Offered {
    source: ReadableOperation,
    local: DescriptorList,
}

/// Blocks of two layouts of this process.
struct Paired {
    source: (Layout, Vec<usize>),
    local: (Layout, Vec<usize>),
    part: BlockPart,
    /// Of the whole layers.
    pairs: BlockPairs,
}

impl ExportShared {
    /// Copies granted blocks to local ones, both of this process.
    pub(super) async fn copy(
        &self,
        reader: &Connector,
        ticket: &Ticket,
        (local, blocks): (&Layout, &[usize]),
        part: &BlockPart,
        options: OperationOptions,
    ) -> Result<Completion, ConnectorError> {
        let connection = reader.connection();
        let (clock, driver) = (connection.clock(), connection.driver());
        let begun = clock.now();
        // The lease keeps this library's own changes away, and the blocks are not free before the copy has ended. Kernels and others that
        // write without a lease are found by the check after it.
        let granted = self.table().begin_copy(ticket, part.layers().clone());
        let granted = granted.map_err(|error| match error {
            // As for readers of other processes.
            GrantError::Over => TransportError::Stale.into(),
            GrantError::NotGranted { .. } => TransportError::NotGranted.into(),
            GrantError::NotReady { ready, asked } => {
                TransportError::NotReady { ready, asked }.into()
            }
            error => ConnectorError::from(error),
        })?;
        let ids = ticket.blocks().iter().map(|&block| block as usize).collect();
        let paired = self.paired((ticket.layout(), ids), (local, blocks), part.clone())?;
        let report = match paired.is_of_host() {
            true => {
                let [reading, writing] = paired.pairs.lease().map_err(TicketError::Lease)?;
                let held = [Leased::from(reading), Leased::from(writing)];
                // It goes on without its future.
                let copy = async move {
                    let copied = paired.copy(held).await;
                    drop(granted);
                    copied
                };
                let copying = Offloaded::new(connection.work()?, copy);
                driver.with_timeout(options, copying).await?.0??
            }
            false => {
                let offering = paired.offers(self.connector().clone());
                let offering = Offloaded::new(connection.work()?, offering);
                let (offers, options) = driver.with_timeout(options, offering).await?;
                let read = read(reader, offers??, options).await;
                drop(granted);
                read?
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
        let part = BlockPart::of_layers(0..local.geometry().layers());
        let paired = self.paired((layout, vec![0]), (local, &[0]), part)?;
        let options = reader.default_options();
        let mut report = None;
        for Offered { source, local } in paired.offers(self.connector().clone()).await? {
            report = Some(reader.path_of_read(source.metadata(), local, options).await?);
        }
        report.ok_or(ConnectorError::Transport(TransportError::Closed))
    }

    fn paired(
        &self,
        (layout, ids): (u16, Vec<usize>),
        (local, blocks): (&Layout, &[usize]),
        part: BlockPart,
    ) -> Result<Paired, TicketError> {
        let layouts = self.layouts().len();
        let source = self.layouts().get(usize::from(layout));
        let source = source.ok_or(TicketError::NoSuchLayout { layout, layouts })?;
        let layers = part.layers().clone();
        let pairs =
            pair_chunks(source, &ids, local, blocks, layers).map_err(TicketError::Pairing)?;
        let (source, local) = ((source.clone(), ids), (local.clone(), blocks.to_vec()));
        Ok(Paired { source, local, part, pairs })
    }
}

impl Paired {
    fn is_of_host(&self) -> bool {
        [&self.source, &self.local].into_iter().all(|(layout, _)| layout.device().is_host())
    }

    /// The runs: for work off the async threads.
    fn runs(&self) -> Result<Vec<Run>, TicketError> {
        let Self { source, local, part, pairs } = self;
        if !part.has_whole_layers(source.0.geometry()) {
            let runs = pair_parts(&source.0, &source.1, &local.0, &local.1, part);
            return runs.map_err(TicketError::Pairing);
        }
        let span = |(part, offset), len| ByteSpan { part, offset, len };
        let run = |chunk: ChunkPair| {
            let (src, dst, len) = (chunk.src(), chunk.dst(), chunk.len());
            (span((src.part, src.offset), len), span((dst.part, dst.offset), len))
        };
        Ok(pairs.chunks().map(run).collect())
    }

    /// Copies bytes of the host.
    async fn copy(self, held: [Leased; 2]) -> Result<PathReport, ConnectorError> {
        let runs = self.runs()?;
        let uses = held.each_ref().map(Leased::begin_use);
        let [Ok(reading), Ok(writing)] = &uses else {
            return Err(TicketError::Lease(LeaseError::InUse).into());
        };
        for (src, dst) in &runs {
            let (from, to) = (&self.source.0.parts()[src.part], &self.local.0.parts()[dst.part]);
            copy_range(from, src.offset, to, dst.offset, src.len, &[reading, writing])?;
        }
        let bytes = runs.iter().map(|(src, _)| src.len as u64).sum();
        Ok(PathReport::new(PathKind::SameProcessCopy, "memcpy", bytes, runs.len()))
    }

    /// Offers the source of each part of a copy to this process.
    async fn offers(self, owner: Connector) -> Result<Vec<Offered>, ConnectorError> {
        let memory = |layout: &Layout, span: ByteSpan| {
            layout.parts()[span.part].slice(span.offset..span.offset + span.len)
        };
        let runs = self.runs()?;
        let mut offers = Vec::with_capacity(runs.len().div_ceil(RUNS));
        for runs in runs.chunks(RUNS) {
            let (mut from, mut to) = (Vec::new(), Vec::new());
            for &(src, dst) in runs {
                from.push(memory(&self.source.0, src)?);
                to.push(memory(&self.local.0, dst)?);
            }
            let source = owner.create_readable(DescriptorList::try_from(from)?).await?;
            offers.push(Offered { source, local: DescriptorList::try_from(to)? });
        }
        Ok(offers)
    }
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
        let part = reader.begin_read_with(remote, local, options.unmetered()).await?.await?;
        bytes += part.bytes();
        options = options.spending(part.elapsed());
        descriptors += part.path().map_or(0, PathReport::descriptors);
        report = part.path().cloned().or(report);
    }
    let none = || PathReport::new(PathKind::SameProcessCopy, "none", 0, 0);
    Ok(report.unwrap_or_else(none).of_copies(bytes, descriptors))
}
