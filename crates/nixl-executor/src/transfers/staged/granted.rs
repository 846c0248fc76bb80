//! The grant of blocks that a source copies for a reader.

use std::ops::Range;
use std::sync::Arc;

use nixl_metadata::Ticket;
use nixl_ops::{GrantError, GrantTable, GrantedCopy, TransportError, WordCheck};

use crate::messages::GrantRefusal;
use crate::sessions::failed_by;

/// The blocks are leased while a chunk of them is being copied, and the grant is checked after each copy: a chunk that leaves this side
/// was copied while it stood, so its reader needs no check.
pub(super) struct SourceGrant {
    table: Arc<GrantTable>,
    ticket: Ticket,
    layers: Range<usize>,
    check: WordCheck,
    /// Copies under way, and what they need.
    copies: usize,
    held: Option<GrantedCopy>,
}

impl SourceGrant {
    pub(super) fn new(table: Arc<GrantTable>, ticket: Ticket, layers: Range<usize>) -> Self {
        let check = WordCheck::new(ticket.slot(), ticket.generation(), ticket.digest());
        let check = check.of_layers_below(layers.end as u64);
        Self { table, ticket, layers, check, copies: 0, held: None }
    }

    /// Whether the grant stands.
    ///
    /// # Errors
    ///
    /// Why it does not.
    pub(super) fn check(&self) -> Result<(), TransportError> {
        let checked = self.table.check_copied(&self.check);
        checked.map_err(|stale| GrantRefusal::from(stale).error())
    }

    /// A copy begins.
    ///
    /// # Errors
    ///
    /// The grant does not stand, or the blocks cannot be leased.
    pub(super) fn begin(&mut self) -> Result<(), TransportError> {
        if self.held.is_none() {
            let held = self.table.begin_copy(&self.ticket, self.layers.clone());
            self.held = Some(held.map_err(refused)?);
        }
        self.copies += 1;
        Ok(())
    }

    /// The GPU has ended a copy, or refused it.
    ///
    /// # Errors
    ///
    /// The grant no longer stands: the copied bytes may be of a later use of the blocks.
    pub(super) fn copied(&mut self) -> Result<(), TransportError> {
        self.copies = self.copies.saturating_sub(1);
        // Before the lease ends, and with it the wait for the blocks.
        let checked = self.check();
        if self.copies == 0 {
            self.held = None;
        }
        checked
    }
}

impl Drop for SourceGrant {
    fn drop(&mut self) {
        if self.copies > 0 {
            self.held.take().into_iter().for_each(GrantedCopy::leak);
        }
    }
}

/// Why a copy for a reader cannot begin.
fn refused(error: GrantError) -> TransportError {
    match error {
        GrantError::NotReady { ready, asked } => TransportError::NotReady { ready, asked },
        GrantError::NotGranted { .. }
        | GrantError::WrongToken { .. }
        | GrantError::NoSlot { .. }
        | GrantError::NoLayout { .. } => TransportError::NotGranted,
        // As for readers that look at the words.
        GrantError::Over | GrantError::Closed | GrantError::Unpublished => TransportError::Stale,
        error => failed_by("lease", error),
    }
}
