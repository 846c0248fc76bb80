//! Grants to write: offers that a ticket names.
//!
//! A one-sided write cannot be recalled. So a writer claims its grant first, and blocks that it may still be writing come back by
//! its message or by proof, as those of a writable offer do. The holder of a ticket derives the offer from it and from the export:
//!
//! | of the offer | in the ticket |
//! |---|---|
//! | key | the token, as a UUID. Its last six bytes are [bound](TicketTerms::bound) to the granted blocks: a ticket of other blocks names no offer |
//! | token of its terms | the lower half of the token |
//! | doorbell | slot and generation, on the page that the export names; no slot if that is [`NO_SLOT`] |
//! | descriptors | blocks and layers: the chunks of the first block first |

use std::num::NonZeroU64;
use std::ops::Range;
use std::sync::Arc;
use std::time::{Duration, UNIX_EPOCH};

use nixl_descriptor::layout::{Layout, RemoteLayout};
use nixl_descriptor::{DependencyError, DescriptorList, WorkQueue};
use nixl_metadata::{
    ClaimDemand, ExportMetadata, MetadataError, NotificationKey, OfferTerms, OperationKind,
    RdmaMetadata, Rights, SerializedDescriptor, Share, SlotAddress, Ticket, TicketTerms,
};
use nixl_ops::{
    Completion, FreeBlocks, GrantError, OperationError, OperationOptions, RevokeOutcome,
    WritableOperation,
};
use tokio::sync::oneshot;

use super::error::TicketError;
use super::export::{Export, ExportShared};
use super::grant::GrantOptions;
use super::read::share;
use super::remote::RemoteExport;
use crate::ConnectorError;
use crate::connector::{Naming, token_of_ticket};
use crate::offload::Offloaded;

/// The slot of a ticket whose offer has none.
const NO_SLOT: u32 = u32::MAX;

/// What is granted for writing, and for how long.
#[derive(Clone, Debug)]
pub struct WriteGrantOptions {
    layers: Option<Range<u16>>,
    time_to_live: Duration,
    after: Option<Arc<dyn WorkQueue>>,
}

impl Default for WriteGrantOptions {
    fn default() -> Self {
        Self::new()
    }
}

impl WriteGrantOptions {
    /// All layers, for [a minute](GrantOptions::TIME_TO_LIVE).
    #[must_use]
    pub fn new() -> Self {
        Self { layers: None, time_to_live: GrantOptions::TIME_TO_LIVE, after: None }
    }

    /// Only these layers.
    #[must_use]
    pub fn layers(mut self, layers: Range<u16>) -> Self {
        self.layers = Some(layers);
        self
    }

    /// The grant ends after this time, unless it is renewed by [its owner](WriteGrant::renew) or
    /// [its writer](crate::RemoteExport::renew).
    #[must_use]
    pub fn time_to_live(mut self, time: Duration) -> Self {
        self.time_to_live = time;
        self
    }

    /// The grant begins once all that `queue` has queued by then is done, and not at all if that fails: for work that still uses
    /// the blocks. [`Export::grant_write`] waits for it.
    #[must_use]
    pub fn after(mut self, queue: Arc<dyn WorkQueue>) -> Self {
        self.after = Some(queue);
        self
    }
}

/// Waits until all that the queue has queued now is done.
async fn reached(queue: &dyn WorkQueue) -> Result<(), DependencyError> {
    let (done, is_done) = oneshot::channel();
    // The caller may have stopped to wait.
    queue.call(Box::new(move |result| drop(done.send(result))))?;
    let dropped =
        |_| Err(DependencyError::new("the queue of work has ended before its work was done"));
    is_done.await.unwrap_or_else(dropped)
}

/// Blocks that one peer may write until this is dropped, revoked, the writer is done, or its time is over.
///
/// The blocks are leased: here they can be neither read nor changed meanwhile. Dropping it revokes the grant.
#[derive(Debug)]
#[must_use = "dropping it revokes the grant"]
pub struct WriteGrant {
    /// Field order: the grant ends before the export may.
    operation: WritableOperation,
    ticket: Ticket,
    export: Arc<ExportShared>,
}

impl Export {
    /// Grants blocks of a layout, by its position, for writing by one peer, and gives the ticket. No other grant covers them. The
    /// grant ends with the export at the latest, which it keeps open.
    ///
    /// Cancel safe: nothing is granted if the future is dropped.
    ///
    /// # Errors
    ///
    /// [`ConnectorError`]: an export that is closed ([`ConnectorError::Grant`]), blocks or layers that do not exist, blocks that are
    /// granted or in use ([`ConnectorError::Lease`]), memory that must not change, or [`ConnectorError::WorkQueue`] if the
    /// work of [`WriteGrantOptions::after`] fails or its queue refuses.
    pub async fn grant_write(
        &self,
        layout: u16,
        blocks: &[u32],
        options: WriteGrantOptions,
    ) -> Result<WriteGrant, ConnectorError> {
        let shared = self.shared();
        shared.connector().check_process()?;
        let WriteGrantOptions { layers, time_to_live, after } = options;
        let (of, layers) = shared.layers_of(layout, layers)?;
        if let Some(queue) = after {
            reached(&*queue).await?;
        }
        shared.connector().refuse_if_draining()?;
        shared.writers().check_open()?;
        let ids: Vec<usize> = blocks.iter().map(|&block| block as usize).collect();
        let range = usize::from(layers.start)..usize::from(layers.end);
        let runs = blocks.len().saturating_mul(range.len() * of.geometry().outer());
        let layers_of = of.clone();
        let list = move || {
            let chunks =
                layers_of.chunk_descriptors(&ids, range).map_err(TicketError::Selection)?;
            Ok::<_, ConnectorError>(DescriptorList::try_from(chunks)?)
        };
        let list = if runs <= RemoteExport::LISTED_HERE {
            list()?
        } else {
            Offloaded::new(shared.connector().connection().work()?, async move { list() }).await??
        };
        let offer = OperationOptions::new()
            .timeout(time_to_live)
            .life_time(time_to_live)
            .claims(ClaimDemand::Everywhere);
        let connector = shared.connector();
        let terms = TicketTerms {
            export: shared.id(),
            layout,
            layers,
            rights: Rights::Write,
            slot: NO_SLOT,
            generation: 0,
            token: uuid::Uuid::new_v4().into_bytes(),
            expires_unix_millis: 0,
        };
        let terms = terms.bound(blocks);
        let key = key_of(&terms.token)?;
        let written = shared.table().write_begins(layout, blocks)?;
        let as_ticket = (Naming::Ticket(key), Some(written));
        // The life time is that of the grant, and no deadline of its preparation.
        let operation = connector.create_writable_as(as_ticket, list, offer);
        let operation = connector.within_timeout(operation).await?;
        shared.writers().add(operation.ender())?;
        let metadata = operation.metadata();
        let expires = metadata.terms().map_or(0, |terms| terms.expires_unix_millis().get());
        let (slot, generation) =
            metadata.slot_address().map_or((NO_SLOT, 0), |bell| (bell.slot(), bell.token()));
        let terms = TicketTerms { slot, generation, expires_unix_millis: expires, ..terms };
        let ticket = Ticket::new(terms, blocks)?;
        Ok(WriteGrant { operation, ticket, export: Arc::clone(shared) })
    }
}

impl WriteGrant {
    /// What the writer needs, beside the metadata of the export.
    #[must_use]
    pub fn ticket(&self) -> &Ticket {
        &self.ticket
    }

    /// Waits until the writer is done: the bytes are in place. Cancel safe.
    ///
    /// # Errors
    ///
    /// [`OperationError`]: the grant was revoked, or declined.
    pub async fn written(&mut self) -> Result<Completion, OperationError> {
        self.operation.wait_for_completion().await
    }

    /// Resolves when the blocks are the owner's again: this grant has ended, and no peer writes them. Cancel safe.
    ///
    /// # Errors
    ///
    /// [`TransportError::Forked`](nixl_ops::TransportError::Forked); else none, since the blocks exist.
    pub fn free_blocks(&self) -> Result<FreeBlocks, ConnectorError> {
        self.export.free_blocks(self.ticket.layout(), self.ticket.blocks())
    }

    /// Gives the grant its time to live anew, also while it is written: the writer goes on by the ticket that it has, since its claim
    /// decides.
    ///
    /// # Errors
    ///
    /// [`ConnectorError::Grant`] if the grant has ended; [`TransportError::Forked`](nixl_ops::TransportError::Forked).
    pub fn renew(&self) -> Result<(), ConnectorError> {
        self.export.renew_written(&self.ticket)
    }

    /// Ends the grant: no writer begins any more. The blocks are the owner's again if the outcome is
    /// [`Free`](RevokeOutcome::Free); otherwise a writer has claimed them, and they come back by its message or by proof.
    pub fn revoke(&mut self) -> RevokeOutcome {
        self.operation.revoke()
    }
}

/// Both sides of a write: the local blocks, and the offer that the ticket names, which may be claimed `until` then, since 1970.
pub(super) fn lists(
    (export, theirs): (&ExportMetadata, &RemoteLayout),
    ticket: &Ticket,
    (local, blocks): (&Layout, &[usize]),
    (layers, until): (Range<usize>, Duration),
) -> Result<(DescriptorList, RdmaMetadata), ConnectorError> {
    let chunks = local.chunk_descriptors(blocks, layers.clone()).map_err(TicketError::Selection)?;
    let mut descriptors = Vec::with_capacity(chunks.len());
    let mut shares: Vec<Share> = Vec::new();
    for &block in ticket.blocks() {
        for layer in layers.clone() {
            for outer in 0..theirs.geometry().outer() {
                let chunk = theirs.chunk(block as usize, layer, outer);
                let chunk = chunk.map_err(TicketError::Selection)?;
                let at = descriptors.len();
                descriptors.push(SerializedDescriptor::new(
                    chunk.device,
                    chunk.address,
                    chunk.len,
                )?);
                let part = theirs.part_of(layer);
                let at = at..at + 1;
                shares.extend(share(export, (ticket.layout().into(), part), chunk.address, at));
            }
        }
    }
    let remote = offered(export, (ticket, until), descriptors, shares)?;
    Ok((DescriptorList::try_from(chunks)?, remote))
}

impl ExportShared {
    /// Gives the grant of a ticket for writing its time to live anew.
    pub(super) fn renew_written(&self, ticket: &Ticket) -> Result<(), ConnectorError> {
        self.connector().check_process()?;
        let key = key_of(ticket.token())?;
        let token = token_of_ticket(&key).get();
        match self.connector().connection().driver().renew_offer(&key, token) {
            true => Ok(()),
            false => Err(GrantError::Over.into()),
        }
    }
}

/// The key of the offer that a ticket with this token names.
pub(super) fn key_of(token: &[u8; 16]) -> Result<NotificationKey, MetadataError> {
    NotificationKey::new(&uuid::Uuid::from_bytes(*token).to_string())
}

fn offered(
    export: &ExportMetadata,
    (ticket, until): (&Ticket, Duration),
    descriptors: Vec<SerializedDescriptor>,
    shares: Vec<Share>,
) -> Result<RdmaMetadata, MetadataError> {
    let key = key_of(&ticket.bound_token())?;
    let terms: NonZeroU64 = token_of_ticket(&key);
    let terms = OfferTerms::new(UNIX_EPOCH + until, terms)?.with_claims(ClaimDemand::Everywhere);
    let agent = export.agent_metadata().clone();
    let remote = RdmaMetadata::new(OperationKind::Write, descriptors, agent, key)?
        .with_peer(export.peer().clone())
        .with_shares(shares)?
        .with_terms(terms)?;
    match export.claims() {
        Some(&file) if ticket.slot() != NO_SLOT => {
            remote.with_slot_address(SlotAddress::new(file, ticket.slot(), ticket.generation()))
        }
        _ => Ok(remote),
    }
}
