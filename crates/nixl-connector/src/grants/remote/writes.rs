//! Writes of blocks by tickets.

use std::time::Duration;

use nixl_descriptor::layout::{ChunkPairError, Layout, same_geometry};
use nixl_metadata::{Rights, Ticket};
use nixl_ops::{Completion, EndedOffer, OperationKind, TransportError};

use super::options::BlockTransferOptions;
use super::{Imported, RemoteExport};
use crate::ConnectorError;
use crate::admission::Admitted;
use crate::grants::error::{BlockWriteError, TicketError};
use crate::grants::grant::GrantOptions;
use crate::grants::write;
use crate::offload::Offloaded;

impl RemoteExport {
    /// Writes `blocks` of a local layout to the blocks of a ticket, in its order. The grant is claimed before the first byte, and
    /// used up.
    ///
    /// Until it ends, the local blocks can be read here but not changed. Cancel safe: if the future is dropped, the write is
    /// cancelled, and the owner gets its blocks back once they are quiet.
    ///
    /// # Errors
    ///
    /// [`BlockWriteError`], which names the owner's blocks that may have been written in part: a ticket that cannot be used
    /// ([`TicketError`]), a grant that has ended or was used ([`TransportError::OfferEnded`], or [`TicketError::Expired`] once the
    /// ticket's time is over), one that is claimed by another writer ([`TransportError::OfferEnded`]), a ticket of other blocks or
    /// layers than were granted ([`TransportError::NotGranted`]), or why the owner was not reached.
    pub async fn write_blocks(
        &self,
        ticket: &Ticket,
        local: &Layout,
        blocks: &[usize],
    ) -> Result<Completion, BlockWriteError> {
        self.write_blocks_with(ticket, local, blocks, self.default_options()).await
    }

    /// As [`write_blocks`](Self::write_blocks), with options instead of the connector's timeout.
    ///
    /// # Errors
    ///
    /// As there.
    pub async fn write_blocks_with(
        &self,
        ticket: &Ticket,
        local: &Layout,
        blocks: &[usize],
        options: BlockTransferOptions,
    ) -> Result<Completion, BlockWriteError> {
        let mut has_begun = false;
        let write = async {
            let written = self.write(ticket, (local, blocks), options, &mut has_begun).await;
            written.map_err(|error| match was_ended(&error) {
                // Its owner has not renewed it.
                true if self.is_over(ticket.expires_unix_millis()) => TicketError::Expired.into(),
                _ => error,
            })
        };
        let written = async {
            self.0.connector.check_process()?;
            self.0.metrics.counted(OperationKind::Write, write).await
        };
        let written = written.await;
        written.map_err(|cause| {
            let blocks = if has_begun { ticket.blocks().to_vec() } else { Vec::new() };
            BlockWriteError { blocks, cause }
        })
    }

    async fn write(
        &self,
        ticket: &Ticket,
        (local, blocks): (&Layout, &[usize]),
        options: BlockTransferOptions,
        has_begun: &mut bool,
    ) -> Result<Completion, ConnectorError> {
        let Imported { connector, metadata, layouts, .. } = &*self.0;
        connector.refuse_if_draining()?;
        let BlockTransferOptions { layers, outer, tokens, class, operation, .. } = options;
        if outer.is_some() || tokens.is_some() {
            return Err(TicketError::PartOfLayers.into());
        }
        if operation.has_checksum() {
            return Err(ConnectorError::NoChecksum);
        }
        let layers = self.admit(ticket, Rights::Write, layers)?;
        let theirs = &layouts[usize::from(ticket.layout())];
        same_geometry(local.geometry(), theirs.geometry())
            .map_err(|error| TicketError::Pairing(error.into()))?;
        if blocks.len() != ticket.blocks().len() {
            let (src, dst) = (blocks.len(), ticket.blocks().len());
            return Err(TicketError::Pairing(ChunkPairError::Count { src, dst }).into());
        }
        if ticket.bound_token() != *ticket.token() {
            // Its claim would name no grant.
            return Err(TransportError::NotGranted.into());
        }
        let connection = connector.connection();
        // The ticket's time is a hint, since the claim decides: the grant may have been renewed.
        let soon = connection.clock().unix_time().saturating_add(GrantOptions::TIME_TO_LIVE);
        let until = soon.max(Duration::from_millis(ticket.expires_unix_millis()));
        let runs = blocks.len().saturating_mul(layers.len() * theirs.geometry().outer());
        let ((local, remote), operation) = if runs <= Self::LISTED_HERE {
            (write::lists((metadata, theirs), ticket, (local, blocks), (layers, until))?, operation)
        } else {
            let (me, ticket) = (self.clone(), ticket.clone());
            let (local, blocks) = (local.clone(), blocks.to_vec());
            let list = async move {
                let Imported { metadata, layouts, .. } = &*me.0;
                let export = (metadata, &layouts[usize::from(ticket.layout())]);
                write::lists(export, &ticket, (&local, &blocks), (layers, until))
            };
            let list = Offloaded::new(connection.work()?, list);
            let (lists, operation) = connection.driver().with_timeout(operation, list).await?;
            (lists??, operation)
        };
        let (execution, local, mut operation) =
            connector.prepare_write(local, &remote, operation).await?;
        let execution = match &self.0.peer {
            Some(peer) => {
                let (permit, left) = self.turn(class, (peer, &local), operation).await?;
                operation = left;
                Admitted::with(execution, permit)
            }
            None => execution,
        };
        let mut write = connector.begin_prepared(execution, local, operation)?;
        *has_begun = true;
        Ok(write.wait_for_completion().await?)
    }
}

/// Whether a write was refused since its grant is no more.
fn was_ended(error: &ConnectorError) -> bool {
    // A slot that was given to another offer counts as used.
    let ended = [EndedOffer::Revoked, EndedOffer::Used];
    let error = error.as_transport();
    ended.iter().any(|&why| error == Some(&TransportError::OfferEnded { why }))
}
