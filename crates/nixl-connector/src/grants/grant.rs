//! A grant, as its owner holds it.

use std::num::NonZeroU32;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use nixl_metadata::Ticket;
use nixl_ops::{FreeBlocks, Granted};

use super::export::ExportShared;
use crate::ConnectorError;

/// What is granted, and for how long.
#[derive(Clone, Debug)]
pub struct GrantOptions {
    pub(super) layers: Option<Range<u16>>,
    pub(super) time_to_live: Duration,
    pub(super) readers: NonZeroU32,
    pub(super) ready: Option<u16>,
}

impl Default for GrantOptions {
    fn default() -> Self {
        Self::new()
    }
}

impl GrantOptions {
    /// How long a grant lives unless it is renewed, or its owner says otherwise.
    pub const TIME_TO_LIVE: Duration = Duration::from_secs(60);

    /// All layers, which are ready, for one reader and [a minute](Self::TIME_TO_LIVE).
    #[must_use]
    pub fn new() -> Self {
        let (time_to_live, readers) = (Self::TIME_TO_LIVE, NonZeroU32::MIN);
        Self { layers: None, time_to_live, readers, ready: None }
    }

    /// Only these layers.
    #[must_use]
    pub fn layers(mut self, layers: Range<u16>) -> Self {
        self.layers = Some(layers);
        self
    }

    /// The grant ends after this time. The memory of a closed export is kept for as long as its last ticket would have lived.
    #[must_use]
    pub fn time_to_live(mut self, time: Duration) -> Self {
        self.time_to_live = time;
        self
    }

    /// The grant ends when so many readers are done with it.
    #[must_use]
    pub fn readers(mut self, readers: NonZeroU32) -> Self {
        self.readers = readers;
        self
    }

    /// Layers below this one are ready, and the others later: see [`Grant::ready_through`].
    #[must_use]
    pub fn ready(mut self, layers: u16) -> Self {
        self.ready = Some(layers);
        self
    }
}

/// Blocks that peers may read until this is dropped, ended, its readers are done, or its time is over.
#[derive(Debug)]
#[must_use = "dropping it ends the grant"]
pub struct Grant {
    alive: Alive,
    ticket: Ticket,
}

/// A grant that ends when this is dropped.
#[derive(Debug)]
pub(super) struct Alive {
    pub(super) export: Arc<ExportShared>,
    pub(super) granted: Granted,
}

impl Alive {
    fn end(&self) -> bool {
        let (slot, generation) = (self.granted.slot(), self.granted.generation());
        self.export.table().end(slot, generation)
    }
}

impl Drop for Alive {
    fn drop(&mut self) {
        self.end();
    }
}

impl Grant {
    pub(super) fn new(alive: Alive, ticket: Ticket) -> Self {
        Self { alive, ticket }
    }

    /// What the readers need, beside the metadata of the export: send it to them over a channel that both trust.
    #[must_use]
    pub fn ticket(&self) -> &Ticket {
        &self.ticket
    }

    /// Says that the layers below this one are ready. A smaller number than before changes nothing.
    ///
    /// # Errors
    ///
    /// [`ConnectorError::Grant`] if the grant has ended.
    pub fn ready_through(&self, layers: u16) -> Result<(), ConnectorError> {
        let granted = &self.alive.granted;
        let (slot, generation) = (granted.slot(), granted.generation());
        Ok(self.alive.export.table().ready_through(slot, generation, layers.into())?)
    }

    /// Ends the grant: what is done to the blocks from here on is not taken for granted bytes by a reader. Returns whether it
    /// had not ended before.
    ///
    /// It orders work of this process's threads that follows. Work that was queued on a GPU before is not ordered by it.
    pub fn end(self) -> bool {
        self.alive.end()
    }

    /// Resolves when no grant covers the blocks of this one: it has ended, and so have others of the same blocks. Cancel safe.
    ///
    /// # Errors
    ///
    /// None in practice: the blocks exist.
    pub fn free_blocks(&self) -> Result<FreeBlocks, ConnectorError> {
        self.alive.export.free_blocks(self.ticket.layout(), self.ticket.blocks())
    }
}
