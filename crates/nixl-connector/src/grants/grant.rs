//! The owner's handle of a grant.

use std::fmt;
use std::num::NonZeroU32;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use nixl_descriptor::WorkQueue;
use nixl_device::LeakInChild;
use nixl_metadata::Ticket;
use nixl_ops::{FreeBlocks, GrantTable, Granted, TransportError};

use super::export::ExportShared;
use crate::ConnectorError;

/// What is granted, and for how long.
#[derive(Clone, Debug)]
pub struct GrantOptions {
    pub(super) layers: Option<Range<u16>>,
    pub(super) time_to_live: Duration,
    pub(super) readers: NonZeroU32,
    pub(super) ready: Option<u16>,
    pub(super) after: Option<Arc<dyn WorkQueue>>,
}

impl Default for GrantOptions {
    fn default() -> Self {
        Self::new()
    }
}

impl GrantOptions {
    /// The default time to live of a grant, unless it is renewed.
    pub const TIME_TO_LIVE: Duration = Duration::from_secs(60);

    /// All layers, which are ready, for one reader and [a minute](Self::TIME_TO_LIVE).
    #[must_use]
    pub fn new() -> Self {
        let (time_to_live, readers) = (Self::TIME_TO_LIVE, NonZeroU32::MIN);
        Self { layers: None, time_to_live, readers, ready: None, after: None }
    }

    /// Only these layers.
    #[must_use]
    pub fn layers(mut self, layers: Range<u16>) -> Self {
        self.layers = Some(layers);
        self
    }

    /// The grant ends after this time, unless it is renewed by [its owner](Grant::renew) or
    /// [a reader](crate::RemoteExport::renew). The memory of a closed export is kept for as long as its last ticket would have lived.
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

    /// The grant becomes valid once all that `queue` has queued by then is done, and not at all if that fails: its ticket can be
    /// sent before, and a read by it is [stale](crate::TransportError::Stale) until then; in this process it is refused, as
    /// [unpublished](nixl_ops::GrantError::Unpublished). For the work that fills the blocks.
    #[must_use]
    pub fn after(mut self, queue: Arc<dyn WorkQueue>) -> Self {
        self.after = Some(queue);
        self
    }

    /// Layers below this one are ready, and the others later: see [`Grant::ready_through`]. A read of the others is
    /// [`NotReady`](crate::TransportError::NotReady) until then.
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

/// A grant, and the export that it keeps open. Field order: the grant ends before the export may.
#[derive(Debug)]
pub(super) struct Alive {
    ends: Ends,
    export: LeakInChild<Arc<ExportShared>>,
}

impl Alive {
    pub(super) fn new(export: &Arc<ExportShared>, granted: Granted) -> Self {
        let ends = Ends { table: LeakInChild::new(Arc::clone(export.table())), granted };
        Self { ends, export: LeakInChild::new(Arc::clone(export)) }
    }
}

/// A grant that ends when this is dropped, but not in a forked child: the words are the parent's.
struct Ends {
    table: LeakInChild<Arc<GrantTable>>,
    granted: Granted,
}

impl Ends {
    fn end(&self) -> bool {
        !self.table.is_inherited() && self.table.end(self.granted.slot(), self.granted.generation())
    }

    /// The table, in the process of the grant.
    fn table(&self) -> Result<&Arc<GrantTable>, TransportError> {
        match self.table.is_inherited() {
            true => Err(TransportError::Forked),
            false => Ok(&self.table),
        }
    }
}

impl fmt::Debug for Ends {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Ends").field("granted", &self.granted).finish_non_exhaustive()
    }
}

impl Drop for Ends {
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

    /// Marks the layers below this one as ready. A smaller number than before changes nothing.
    ///
    /// # Errors
    ///
    /// [`ConnectorError::Grant`] if the grant has ended.
    pub fn ready_through(&self, layers: u16) -> Result<(), ConnectorError> {
        let (table, granted) = (self.alive.ends.table()?, &self.alive.ends.granted);
        Ok(table.ready_through(granted.slot(), granted.generation(), layers.into())?)
    }

    /// As [`ready_through`](Self::ready_through), once all that `queue` has queued until now is done. If that fails nothing is
    /// said, nor if the grant has ended by then.
    ///
    /// # Errors
    ///
    /// [`ConnectorError::WorkQueue`] if the queue does not take it.
    pub fn ready_through_on(
        &self,
        layers: u16,
        queue: &dyn WorkQueue,
    ) -> Result<(), ConnectorError> {
        let (table, granted) = (self.alive.ends.table()?, &self.alive.ends.granted);
        let (table, slot, generation) = (Arc::clone(table), granted.slot(), granted.generation());
        Ok(queue.call(Box::new(move |done| {
            if done.is_ok() {
                // A grant that has ended has no readers.
                let _ = table.ready_through(slot, generation, layers.into());
            }
        }))?)
    }

    /// Gives the grant its time to live anew: its readers go on reading by the ticket that they have, and learn of it by the
    /// words of the grant.
    ///
    /// # Errors
    ///
    /// [`ConnectorError::Grant`] if the grant has ended.
    pub fn renew(&self) -> Result<(), ConnectorError> {
        let (table, granted) = (self.alive.ends.table()?, &self.alive.ends.granted);
        table.renew(granted.slot(), granted.generation(), &granted.token())?;
        Ok(())
    }

    /// Ends the grant: what is done to the blocks from here on is not taken for granted bytes by a reader. Returns whether it
    /// had not ended before.
    ///
    /// It orders work of this process's threads that follows. Work that was queued on a GPU before is not ordered by it: see
    /// [`end_on`](Self::end_on).
    pub fn end(self) -> bool {
        self.alive.ends.end()
    }

    /// Ends the grant in the order of a queue of work: after all that `queue` has queued until now, and before what is queued on
    /// it later begins. So work that overwrites the blocks can be queued at once, and no reader takes what it writes for granted
    /// bytes. The blocks are [free](Self::free_blocks) from then on.
    ///
    /// The grant does not keep the export open any more: it ends with it at the latest, as by its time to live.
    ///
    /// # Errors
    ///
    /// [`ConnectorError::WorkQueue`] if the queue does not take it. Then the grant has ended when this returns, which is sooner
    /// than requested, and as safe.
    pub fn end_on(self, queue: &dyn WorkQueue) -> Result<(), ConnectorError> {
        let ends = self.alive.ends;
        ends.table()?;
        // Dropped by the queue if it refuses, or its context breaks: that ends the grant, too.
        Ok(queue.call(Box::new(move |_| drop(ends)))?)
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
