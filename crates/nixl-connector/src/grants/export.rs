//! The owner's side of an export.

use std::fmt;
use std::num::{NonZeroU32, NonZeroUsize};
use std::ops::Range;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use nixl_descriptor::layout::Layout;
use nixl_descriptor::tensor::TensorLayout;
use nixl_descriptor::{DescriptorList, Region, Registration};
use nixl_device::LeakInChild;
use nixl_device::locks::lock;
use nixl_metadata::{
    ExportId, ExportMetadata, NotificationKey, Rights, SharedFile, Ticket, TicketTerms,
    WordsLocation,
};
use nixl_ops::{
    FreeBlocks, GrantStats, GrantTable, GrantTableOptions, GrantTerms, OperationKind,
    OperationOptions, TransportError, UnquietOffer, WordCheck,
};
use tokio::sync::oneshot;

use super::described;
use super::error::TicketError;
use super::grant::{Alive, Grant, GrantOptions};
use super::own::exports_of_this_process;
use super::progress::ExportProgress;
use super::registering::{self, Part};
use super::table::ExportTable;
use super::writers::Writers;
use crate::{Connector, ConnectorError};

/// How memory is exported.
#[derive(Clone, Debug)]
pub struct ExportOptions {
    slots: NonZeroU32,
    populate: Option<NonZeroUsize>,
    progress: ExportProgress,
    tensors: Vec<(String, TensorLayout)>,
}

impl Default for ExportOptions {
    fn default() -> Self {
        Self::new()
    }
}

impl ExportOptions {
    /// Room for 65,536 grants, and pages are left as they are.
    #[must_use]
    pub fn new() -> Self {
        let slots = GrantTableOptions::default().slots();
        let tensors = Vec::new();
        Self { slots, populate: None, progress: ExportProgress::new(), tensors }
    }

    /// Grants that can be alive at one time. Each takes 32 bytes of shared memory once it is used.
    #[must_use]
    pub fn slots(mut self, slots: NonZeroU32) -> Self {
        self.slots = slots;
        self
    }

    /// Has the pages of host memory allocated before they are registered, by at most so many threads of the library's own and at
    /// most 64. Bytes stay as they are.
    ///
    /// An engine that pins memory (RDMA) has the system do it while it registers, on one thread and with all other calls of
    /// the agent waiting: then this makes the export faster, and takes no more memory. Other engines leave pages alone, and it is the
    /// first use of each that gets faster.
    #[must_use]
    pub fn populate(mut self, threads: NonZeroUsize) -> Self {
        self.populate = Some(threads);
        self
    }

    /// Sets the tensor that each block of a layout is, such as `[layers, outer, tokens, heads, head size]` of BF16. Peers get it by
    /// [`RemoteExport::block_tensor`](super::RemoteExport::block_tensor). It has as many bytes as a block.
    #[must_use]
    pub fn block_tensor(mut self, layout: impl Into<String>, tensor: TensorLayout) -> Self {
        self.tensors.push((layout.into(), tensor));
        self
    }

    /// The receiver of the export's progress.
    #[must_use]
    pub fn progress(mut self, progress: &ExportProgress) -> Self {
        self.progress = progress.clone();
        self
    }

    pub(super) fn room(&self) -> NonZeroU32 {
        self.slots
    }
}

/// Layouts that are registered and whose blocks are granted to peers.
///
/// It takes no lease: blocks that no grant covers are the owner's to use. Dropping it, with its last grant, closes it: all
/// tickets end, and the memory stays registered and allocated for as long as a read that began in time may be under way.
///
/// It belongs to the process that made it, and so do its grants: in a forked child, every call is an error at once
/// ([`TransportError::Forked`]), and a drop changes nothing.
#[derive(Debug)]
pub struct Export {
    shared: LeakInChild<Arc<ExportShared>>,
}

pub(crate) struct ExportShared {
    connector: Connector,
    id: ExportId,
    layouts: Vec<Layout>,
    table: ExportTable,
    writers: Writers,
    metadata: ExportMetadata,
    held: LeakInChild<Mutex<Option<Held>>>,
}

/// The remaining waits of a closed export.
struct Closing {
    /// Blocks that peers may be writing.
    written: Vec<UnquietOffer>,
    /// Resolves when no read is under way.
    freed: oneshot::Receiver<()>,
}

/// What peers may be reading.
struct Held {
    registrations: Vec<Registration>,
    /// Regions that were registered for the export.
    made: Vec<Region>,
    memory: Arc<DescriptorList>,
}

impl Connector {
    /// Exports layouts: registers their memory once, and makes their blocks grantable.
    ///
    /// The memory is registered on the connection's thread, region by region; hundreds of gigabytes may take seconds. The
    /// connector's [timeout](crate::ConnectorBuilder::timeout) bounds each step of about a gibibyte, with the wait for other calls
    /// on that thread. Cancel safe: nothing is exported if the future is dropped, and what was registered for it ends.
    ///
    /// # Errors
    ///
    /// [`ConnectorError`]: no layouts, a name that is not one or is there twice ([`ConnectorError::Metadata`]), a layout that
    /// cannot be described ([`ConnectorError::ExportedLayout`]), or memory that cannot be registered
    /// ([`ConnectorError::ExportedMemory`]).
    pub async fn export<N: Into<String>>(
        &self,
        layouts: impl IntoIterator<Item = (N, Layout)>,
    ) -> Result<Export, ConnectorError> {
        self.export_with(layouts, ExportOptions::default()).await
    }

    /// As [`export`](Self::export), with options.
    ///
    /// # Errors
    ///
    /// As there.
    pub async fn export_with<N: Into<String>>(
        &self,
        layouts: impl IntoIterator<Item = (N, Layout)>,
        options: ExportOptions,
    ) -> Result<Export, ConnectorError> {
        self.check_process()?;
        self.refuse_if_draining()?;
        let layouts: Vec<(String, Layout)> =
            layouts.into_iter().map(|(name, layout)| (name.into(), layout)).collect();
        let mut described = Vec::with_capacity(layouts.len());
        for (name, layout) in &layouts {
            described.push(described::describe(name, layout)?);
        }
        let tensors = described::tensors(&options.tensors, &described)?;
        let connection = self.connection();
        let of_layouts = layouts.iter().flat_map(|(name, layout)| Part::all_of(name, layout));
        let mut parts: Vec<_> = of_layouts.collect();
        let layouts: Vec<Layout> = layouts.into_iter().map(|(_, layout)| layout).collect();
        let table = ExportTable::new(self, &layouts, &options)?;
        let list = |parts: &[Part]| {
            DescriptorList::try_from(parts.iter().map(|p| p.memory().clone()).collect::<Vec<_>>())
        };
        let exported = list(&parts)?;
        parts.push(Part::of_words(table.words().region().whole()));
        let all = list(&parts)?;
        let ExportOptions { populate, progress, .. } = &options;
        let registered = registering::register(self, parts, *populate, progress).await?;
        let agent = connection.export_of(&all, registered.held());
        let agent = self.within_timeout(agent).await?;
        let id = ExportId::new(random());
        let name = table.words().name();
        let words = WordsLocation {
            address: table.words().region().address(),
            slots: table.words().slots(),
            file: Some(SharedFile::new(name.pid, name.fd, name.name, name.len)),
        };
        let metadata = ExportMetadata::new(id, agent, connection.info().clone(), described, words)?
            .with_shares(connection.shares(&exported))?
            .with_tensors(tensors)?;
        // Any slot names the page of all.
        let slot = connection.driver().arm_slot(&NotificationKey::random(), OperationKind::Write);
        let metadata = match slot.map(|slot| slot.address()) {
            Some(doorbell) => metadata.with_claims(doorbell.file())?,
            None => metadata,
        };
        table.open(id.value());
        connection.driver().serve_grants(id.value(), &table);
        if let Some(offers) = connection.executor().offers() {
            offers.export_opened(id, &table);
        }
        let (registrations, made) = registered.finish();
        let held = Held { registrations, made, memory: Arc::new(all) };
        let shared = Arc::new(ExportShared {
            connector: self.clone(),
            id,
            layouts,
            table,
            writers: Writers::default(),
            metadata,
            held: LeakInChild::new(Mutex::new(Some(held))),
        });
        exports_of_this_process().insert(id, &shared);
        Ok(Export { shared: LeakInChild::new(shared) })
    }
}

impl Export {
    /// What peers [import](Connector::import).
    #[must_use]
    pub fn metadata(&self) -> &ExportMetadata {
        &self.shared.metadata
    }

    /// Grants blocks of a layout, by its position, for reading, and gives the ticket. Grants of the same blocks may overlap.
    ///
    /// Until the grant ends, the blocks can be read here but not changed. Takes some microseconds and does not block, but for a
    /// host copy of the same bytes that is under way.
    ///
    /// # Errors
    ///
    /// [`ConnectorError::Grant`] with the block that cannot be granted; [`ConnectorError::Draining`]; [`ConnectorError::WorkQueue`]
    /// if the queue of [`GrantOptions::after`] refuses.
    pub fn grant(
        &self,
        layout: u16,
        blocks: &[u32],
        options: GrantOptions,
    ) -> Result<Grant, ConnectorError> {
        self.shared.connector.check_process()?;
        self.shared.connector.refuse_if_draining()?;
        let GrantOptions { layers, time_to_live, readers, ready, after } = options;
        let (_, layers) = self.shared.layers_of(layout, layers)?;
        let terms = GrantTerms::new(layout)
            .for_time(time_to_live)
            .for_readers(readers)
            .of_layers_below(layers.end.into());
        let table = &self.shared.table;
        let granted = table.grant(&terms, blocks)?;
        let alive = Alive::new(&self.shared, granted);
        let connection = self.shared.connector.connection();
        let ready = ready.unwrap_or(layers.end);
        let is_filled = after.is_none() && ready >= layers.end;
        let terms = TicketTerms {
            export: self.shared.id,
            layout,
            layers,
            rights: Rights::Read,
            slot: granted.slot(),
            generation: granted.generation(),
            token: granted.token(),
            expires_unix_millis: granted.end().unix_millis(),
        };
        let ticket = match is_filled {
            true => Ticket::new(terms, blocks)?,
            false => Ticket::new_unfilled(terms, blocks)?,
        };
        if !is_filled {
            // Readers may ask for layers.
            connection.driver().await_grants();
        }
        connection.driver().grant_expires(granted.end().time());
        let (slot, generation, digest) = (granted.slot(), granted.generation(), ticket.digest());
        match after {
            None => table.publish(slot, generation, digest, ready.into())?,
            Some(queue) => {
                let table = Arc::clone(table);
                queue.call(Box::new(move |done| {
                    if done.is_err()
                        || table.publish(slot, generation, digest, ready.into()).is_err()
                    {
                        table.end(slot, generation);
                    }
                }))?;
            }
        }
        Ok(Grant::new(alive, ticket))
    }

    pub(super) fn shared(&self) -> &Arc<ExportShared> {
        &self.shared
    }

    /// Resolves when no grant covers any of the blocks: those to read have ended, and of those to write no peer writes any more.
    /// Cancel safe.
    ///
    /// # Errors
    ///
    /// [`ConnectorError::Grant`] if there is no such layout or block.
    pub fn free_blocks(&self, layout: u16, blocks: &[u32]) -> Result<FreeBlocks, ConnectorError> {
        self.shared.free_blocks(layout, blocks)
    }

    /// What is granted now. All zero in a forked child.
    #[must_use]
    pub fn stats(&self) -> GrantStats {
        self.shared.stats()
    }

    /// Ends all grants, and waits until the memory is registered no longer and no read or claimed write of it can be under way; no
    /// longer than `deadline`. Returns whether that is so: if not, it comes later. `false` in a forked child, where nothing ends.
    ///
    /// It waits for the readers of each grant: until as many as [that is for](GrantOptions::readers) are
    /// [done](crate::RemoteExport::done), their ticket has expired and reads that began in time have arrived, or the system shows
    /// that no process is left that could read.
    ///
    /// Cancel safe: if the future is dropped, the export is closed all the same.
    pub async fn close(self, deadline: Duration) -> bool {
        if self.shared.is_inherited() {
            return false;
        }
        let driver = Arc::clone(self.shared.connector.connection().driver());
        let Some(Closing { written, freed }) = self.shared.close() else { return true };
        drop(self);
        let options = OperationOptions::new().timeout(deadline);
        let quiet = async {
            for offer in written {
                offer.quiet().await;
            }
            freed.await
        };
        driver.with_timeout(options, quiet).await.is_ok()
    }
}

impl ExportShared {
    pub(super) fn id(&self) -> ExportId {
        self.id
    }

    pub(super) fn connector(&self) -> &Connector {
        &self.connector
    }

    pub(super) fn layouts(&self) -> &[Layout] {
        &self.layouts
    }

    pub(super) fn table(&self) -> &Arc<GrantTable> {
        &self.table
    }

    pub(super) fn writers(&self) -> &Writers {
        &self.writers
    }

    pub(super) fn free_blocks(
        &self,
        layout: u16,
        blocks: &[u32],
    ) -> Result<FreeBlocks, ConnectorError> {
        self.connector.check_process()?;
        let free = self.table.free_blocks(layout, blocks)?;
        self.connector.connection().driver().await_grants();
        Ok(free)
    }

    fn stats(&self) -> GrantStats {
        self.connector
            .check_process()
            .map_or_else(|_| GrantStats::default(), |()| self.table.stats())
    }

    /// How many layers of a grant's blocks are ready, for a reader in this process.
    pub(super) fn layers_ready(&self, check: &WordCheck) -> Result<u64, ConnectorError> {
        let ready = self.table.words().layers_ready(check);
        Ok(ready.map_err(|_| TransportError::Stale)?)
    }

    /// A layout by its position, and its requested layers, or all.
    pub(super) fn layers_of(
        &self,
        layout: u16,
        layers: Option<Range<u16>>,
    ) -> Result<(&Layout, Range<u16>), TicketError> {
        let layouts = self.layouts.len();
        let of = self.layouts.get(usize::from(layout));
        let of = of.ok_or(TicketError::NoSuchLayout { layout, layouts })?;
        // No layout with more is exported.
        let last = u16::try_from(of.geometry().layers()).unwrap_or(u16::MAX);
        let layers = layers.unwrap_or(0..last);
        if layers.is_empty() || layers.end > last {
            let (start, end) = (layers.start.into(), layers.end.into());
            return Err(TicketError::Layers { start, end, first: 0, last });
        }
        Ok((of, layers))
    }

    /// Ends all grants, and has the memory kept for as long as reads and writes may be under way. `None` if the export was closed
    /// before.
    fn close(&self) -> Option<Closing> {
        let Held { registrations, made, memory } = lock(&self.held).take()?;
        exports_of_this_process().remove(self.id);
        let connection = self.connector.connection();
        // The words stay: a peer that imports late reads there that the export is closed.
        self.table.close();
        let written = self.writers.close();
        let (tell, freed) = oneshot::channel();
        let cache = Arc::clone(connection.registrations());
        let freed_at = move || {
            // The application may keep the memory, and with it the cache's hold.
            made.into_iter().for_each(|region| cache.evict(&region));
            let _ = tell.send(());
        };
        connection.driver().retain_export(&self.table, (registrations, memory), freed_at);
        Some(Closing { written, freed })
    }
}

impl Drop for ExportShared {
    fn drop(&mut self) {
        // An import of this process may be its last handle in a forked child, too.
        if self.connector.check_process().is_ok() {
            drop(self.close());
        }
    }
}

fn random() -> u64 {
    // 0 if no export is open.
    (uuid::Uuid::new_v4().as_u128() as u64).max(1)
}

impl fmt::Debug for ExportShared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ExportShared")
            .field("metadata", &self.metadata)
            .field("stats", &self.stats())
            .finish_non_exhaustive()
    }
}
