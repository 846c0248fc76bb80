//! Imports: a peer's export is reached, and prepared for reads.

use std::sync::Arc;

use nixl_descriptor::layout::RemoteLayout;
use nixl_metadata::{ExportMetadata, NotificationKey};
use nixl_ops::{Mailbox, PathKind, RemoteSlots, TransportError, foreign_process};

use super::check::Words;
use super::connected::LastConnection;
use super::notifications::NotificationNumbers;
use super::prefault::Prefaulting;
use super::ready::ReadyLayers;
use super::waits::WatchedGrants;
use super::{Imported, RemoteExport};
use crate::grants::described;
use crate::grants::export::ExportShared;
use crate::grants::metrics::BlockMetrics;
use crate::grants::own::exports_of_this_process;
use crate::grants::read::whole;
use crate::named_file::{notes_owner, page_of_file};
use crate::{Connector, ConnectorError};

/// How an export is imported.
#[derive(Clone, Copy, Debug)]
pub struct ImportOptions {
    prefault: u64,
}

impl Default for ImportOptions {
    fn default() -> Self {
        Self::new()
    }
}

impl ImportOptions {
    /// The default of the bytes whose pages are mapped before the first read.
    pub const PREFAULT: u64 = 1 << 30;

    /// [A GiB](Self::PREFAULT) is pre-faulted.
    #[must_use]
    pub fn new() -> Self {
        Self { prefault: Self::PREFAULT }
    }

    /// Has the pages of the export's first so many bytes mapped before the import is there, on a thread of the connection's, so
    /// that no first read of a block meets page faults. For memory that this process copies by itself, in the order of layouts
    /// and their parts. 0 is none.
    ///
    /// Every byte that is looked at counts: also of a page that its owner has never touched, which is left unmapped, and again
    /// where parts overlap. Looking ends early with the connector's timeout, which counts from its start, and the import goes on.
    ///
    /// The import waits for it. Each page that is mapped takes an entry of this process's page tables.
    #[must_use]
    pub fn prefault(mut self, bytes: u64) -> Self {
        self.prefault = bytes;
        self
    }
}

/// Whether a probe failed since no path leads to the memory without its owner, which takes part in reads by tickets alone.
fn needs_owner(error: &ConnectorError) -> bool {
    let error = error.as_transport();
    matches!(error, Some(TransportError::NoPath { .. } | TransportError::NotRegistered { .. }))
}

impl Imported {
    fn is_of_host(&self, layout: usize) -> bool {
        self.layouts.get(layout).is_none_or(|layout| layout.device().is_host())
    }
}

impl Connector {
    /// Reaches a peer's export: connects to its owner, opens what processes of one host can open, and moves some bytes of each
    /// part of each layout, so that later reads need none of that.
    ///
    /// Cancel safe. The connector's [timeout](crate::ConnectorBuilder::timeout) bounds all but the
    /// [pre-faulting](ImportOptions::prefault).
    ///
    /// # Errors
    ///
    /// [`ConnectorError`]: a layout that makes no sense ([`ConnectorError::ExportedLayout`]), or the owner cannot be reached.
    pub async fn import(&self, metadata: &ExportMetadata) -> Result<RemoteExport, ConnectorError> {
        self.import_with(metadata, ImportOptions::new()).await
    }

    /// As [`import`](Self::import), with options.
    ///
    /// # Errors
    ///
    /// As there.
    pub async fn import_with(
        &self,
        metadata: &ExportMetadata,
        options: ImportOptions,
    ) -> Result<RemoteExport, ConnectorError> {
        let own = exports_of_this_process().get(metadata.export());
        self.import_unless(metadata, own, options).await
    }

    /// As [`import`](Self::import), through the engine unless it is this process's own.
    pub(crate) async fn import_unless(
        &self,
        metadata: &ExportMetadata,
        own: Option<Arc<ExportShared>>,
        options: ImportOptions,
    ) -> Result<RemoteExport, ConnectorError> {
        self.check_process()?;
        self.refuse_if_draining()?;
        let layouts = metadata.layouts().iter().map(described::remote).collect::<Result<_, _>>()?;
        let (mut imported, mapped) =
            self.within_timeout(self.reach(metadata, layouts, own)).await?;
        let mut prefaulting = Prefaulting::new(options.prefault, self.default_options());
        for layout in mapped {
            self.prefault(metadata, layout, &mut prefaulting).await?;
        }
        imported.prefaulted = prefaulting.mapped();
        Ok(RemoteExport::new(imported))
    }

    /// Reaches a peer's export. Returns it with the layouts that are in memory mapped here.
    async fn reach(
        &self,
        metadata: &ExportMetadata,
        layouts: Arc<[RemoteLayout]>,
        own: Option<Arc<ExportShared>>,
    ) -> Result<(Imported, Vec<usize>), ConnectorError> {
        let words = match own {
            Some(own) => Words::Own(Arc::downgrade(&own)),
            None => self.open_words(metadata).await?,
        };
        let mut imported = Imported {
            connector: self.clone(),
            metadata: metadata.clone(),
            layouts,
            words,
            paths: Vec::new(),
            prefaulted: 0,
            peer: None,
            reader: uuid::Uuid::new_v4().into_bytes(),
            notified: NotificationNumbers::default(),
            mailbox: None,
            prepared: Arc::default(),
            ready: ReadyLayers::default(),
            watched: WatchedGrants::default(),
            under_way: Arc::default(),
            looked: LastConnection::default(),
            metrics: BlockMetrics::new(),
            key: NotificationKey::random(),
        };
        if let Words::Own(_) = &imported.words {
            return Ok((imported, Vec::new()));
        }
        if let Words::Mapped(_) = &imported.words {
            imported.mailbox = self.mailbox_of(metadata).await?;
        }
        let mut mapped = Vec::new();
        for layout in 0..imported.layouts.len() {
            let (words, looked) = (&imported.words, &imported.looked);
            let path = match self.probe((metadata, layout), words, looked).await {
                Ok((read, peer)) => {
                    imported.peer = Some(peer);
                    read.path().cloned()
                }
                Err(error) if needs_owner(&error) && !imported.is_of_host(layout) => {
                    let remote = whole(metadata, layout)?;
                    imported.peer = Some(self.connection().connect(&remote).await?);
                    None
                }
                Err(error) => return Err(error),
            };
            if path.as_ref().is_some_and(|path| path.kind() == PathKind::SharedMemory) {
                mapped.push(layout);
            }
            imported.paths.push(path);
        }
        Ok((imported, mapped))
    }

    /// The mailbox of the owner, which is on this host, if it takes messages.
    async fn mailbox_of(
        &self,
        metadata: &ExportMetadata,
    ) -> Result<Option<Mailbox>, ConnectorError> {
        // Later protocols of the page may have another mailbox.
        let is_known = metadata.peer().versions().doorbell() <= RemoteSlots::VERSION;
        let Some(file) = metadata.claims().filter(|_| is_known) else { return Ok(None) };
        let page = page_of_file(file);
        let foreign = foreign_process(self.connection().info().host(), metadata.peer().host());
        // The words are mapped, so the peer is met.
        if !notes_owner(&page, foreign) {
            return Ok(None);
        }
        self.connection().mailbox(&page).await
    }

    /// Has pages of a layout mapped.
    async fn prefault(
        &self,
        metadata: &ExportMetadata,
        layout: usize,
        prefaulting: &mut Prefaulting,
    ) -> Result<(), ConnectorError> {
        if prefaulting.left() == 0 {
            return Ok(());
        }
        let connection = self.connection();
        let remote = whole(metadata, layout)?;
        match connection.executor().prefault(&remote, prefaulting.left()) {
            Some(steps) => prefaulting.run(connection.driver(), connection.work()?, steps).await,
            None => Ok(()),
        }
    }
}
