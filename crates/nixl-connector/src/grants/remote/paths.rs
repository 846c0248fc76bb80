//! The paths between the memories of an export and those of this process.

use nixl_descriptor::layout::{BlockPart, Layout, RemoteLayout, pair_remote_chunks};
use nixl_descriptor::{DescriptorList, LeaseMode, Leased, Leases};
use nixl_metadata::{MetadataError, Rights, Ticket, TicketTerms};
use nixl_ops::{PathKind, PathReport, TicketRead};

use super::check::Words;
use super::{Imported, RemoteExport};
use crate::ConnectorError;
use crate::connector::SilentRead;
use crate::grants::error::TicketError;
use crate::grants::read::of_peer;

impl RemoteExport {
    /// The path that a layout's first bytes took into host memory when it was imported, with the reasons against others. `None`
    /// if the export is this process's own, or no path leads to memory of a GPU without [its owner](Self::path_to).
    #[must_use]
    pub fn path(&self, layout: usize) -> Option<&PathReport> {
        self.0.paths.get(layout)?.as_ref()
    }

    /// The path that a read of one block of a layout, by its name, would take now into a local layout, with the reasons against
    /// others: for each pair of memories, such as the owner's GPU and a GPU of this process.
    ///
    /// Nothing is read, and no ticket is needed. As before a read, the local memory is registered and what is needed of the peer's is
    /// opened, and the first local block must not be in use. Health and load may change the path of a later read, whose
    /// [`Completion`](crate::Completion) has the path that it took.
    ///
    /// Cancel safe.
    ///
    /// # Errors
    ///
    /// [`ConnectorError`]: no such layout ([`ConnectorError::NoSuchLayout`]), layouts of different shapes
    /// ([`TicketError::Pairing`]), local memory in use ([`ConnectorError::Lease`]) or that cannot be registered, no path
    /// ([`TransportError::NoPath`](crate::TransportError::NoPath)), or an owner that is not reached.
    pub async fn path_to(
        &self,
        layout: &str,
        local: &Layout,
    ) -> Result<PathReport, ConnectorError> {
        let Imported { connector, metadata, words, peer, key, .. } = &*self.0;
        connector.check_process()?;
        connector.refuse_if_draining()?;
        let missing = || ConnectorError::NoSuchLayout { layout: layout.to_owned() };
        let (at, theirs) = self.layout(layout).ok_or_else(missing)?;
        let layers = 0..theirs.geometry().layers();
        let pairs = pair_remote_chunks(theirs, &[0], local, &[0], layers);
        let pairs = pairs.map_err(TicketError::Pairing)?;
        if let Words::Own(own) = words {
            if !theirs.device().is_host() || !local.device().is_host() {
                let at = u16::try_from(at).map_err(|_| missing())?;
                return self.own(own)?.path_on_gpu(connector, (at, local)).await;
            }
            let bytes = local.geometry().block_len() as u64;
            return Ok(PathReport::new(PathKind::SameProcessCopy, "memcpy", bytes, 1));
        }
        let remote = of_peer((metadata, key), at, (pairs.remote(), pairs.remote_parts()))?;
        let by_ticket = self.planned((at, theirs), pairs.pieces())?;
        let local = DescriptorList::try_from(pairs.into_local())?;
        let plan = async {
            let leased = Leased::from(Leases::acquire(local.as_slice(), LeaseMode::Write)?);
            let options = connector.default_options();
            let (policy, known) = (options.path_policy(), peer.as_ref());
            let by_ticket = by_ticket.as_ref();
            let to = SilentRead { policy, known, by_ticket, ..SilentRead::default() };
            let prepare = connector.prepare_silently((&local, &leased), &remote, to);
            let driver = connector.connection().driver();
            let (prepared, _) = driver.with_timeout(options, prepare).await?;
            let (execution, _) = prepared?;
            Ok(execution.report())
        };
        plan.await
    }

    /// A read of a block of a layout, for a plan: its ticket is of no grant, and is never sent.
    fn planned(
        &self,
        (at, theirs): (usize, &RemoteLayout),
        pieces: usize,
    ) -> Result<Option<TicketRead>, MetadataError> {
        let layers = theirs.geometry().layers();
        let terms = TicketTerms {
            export: self.0.metadata.export(),
            layout: u16::try_from(at).unwrap_or(u16::MAX),
            layers: 0..u16::try_from(layers).unwrap_or(u16::MAX),
            rights: Rights::Read,
            slot: 0,
            generation: 0,
            token: [0; 16],
            expires_unix_millis: 0,
        };
        let (ticket, part) = (Ticket::new(terms, [0])?, BlockPart::of_layers(0..layers));
        Ok(self.by_ticket(&ticket, &part, pieces))
    }
}
