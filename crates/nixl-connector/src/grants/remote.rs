//! A peer's export, and reads of its blocks.

use std::fmt;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use nixl_descriptor::layout::{ChunkPairError, Layout, RemoteLayout, same_geometry};
use nixl_descriptor::{
    DescriptorList, LeaseMode, Leased, Leases, PublishedWords, ReadOnlyWords, SharedName,
};
use nixl_metadata::{ExportMetadata, NotificationKey, Rights, SharedFile, Ticket};
use nixl_ops::{
    Completion, Execution, GrantWords, Mailbox, OperationOptions, PathKind, PathPolicy, PathReport,
    PeerId, ReadOperation, RemoteSlots, StaleRead, TransportError, WordCheck,
};

use tokio::sync::Mutex;

use super::described;
use super::error::{BlockReadError, TicketError};
use super::export::ExportShared;
use super::own::exports_of_this_process;
use super::prefault::Prefaulting;
use super::read::{Lists, whole};
use super::words::WordReads;
use super::write;
use crate::admission::{Admitted, Permit, TransferClass};
use crate::offload::Offloaded;
use crate::{Connector, ConnectorError};

/// A peer's export, reached: its blocks can be read by tickets. Cheap to clone.
///
/// The engine is connected and the path to each layout has moved some bytes when [`Connector::import`] returns it. A restarted
/// owner is another export: its old tickets and this import end with errors.
#[derive(Clone)]
pub struct RemoteExport(Arc<Imported>);

pub(super) struct Imported {
    pub(super) connector: Connector,
    pub(super) metadata: ExportMetadata,
    layouts: Vec<RemoteLayout>,
    pub(super) words: Words,
    /// Of each layout into host memory of this process.
    paths: Vec<Option<PathReport>>,
    /// Bytes whose pages were mapped when it was imported.
    prefaulted: u64,
    /// The owner; `None` if that is this process.
    pub(super) peer: Option<PeerId>,
    /// By what the owner tells this import from other readers.
    pub(super) reader: [u8; 16],
    /// The number of the last notification.
    pub(super) notified: Mutex<u64>,
    /// The owner's page, if its mailbox takes this import's messages.
    page: Option<SharedName>,
    /// Stands for that of an offer where executors want one. No owner knows it.
    key: NotificationKey,
}

/// How the words of the export are read.
pub(super) enum Words {
    /// The export is this process's own.
    Own(Arc<ExportShared>),
    Mapped(ReadOnlyWords),
    Engine(WordReads),
}

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
    /// Bytes that are looked at for pages to map before the first read, unless it is said otherwise.
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

/// How blocks are read or written.
#[derive(Clone, Debug, Default)]
pub struct BlockTransferOptions {
    layers: Option<Range<usize>>,
    class: TransferClass,
    operation: OperationOptions,
}

impl BlockTransferOptions {
    /// All layers of the ticket, of the interactive class, without a deadline, by the best path.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Only these layers, which the ticket must grant.
    #[must_use]
    pub fn layers(mut self, layers: Range<usize>) -> Self {
        self.layers = Some(layers);
        self
    }

    /// Which transfers of this connector's go first. Writes go in one piece, whichever class they are of, and what this process
    /// has exported itself is copied at once.
    #[must_use]
    pub fn class(mut self, class: TransferClass) -> Self {
        self.class = class;
        self
    }

    /// The deadline, which counts from the call, and the policy for paths.
    #[must_use]
    pub fn operation(mut self, options: OperationOptions) -> Self {
        self.operation = options;
        self
    }
}

impl Connector {
    /// Reaches a peer's export: connects to its owner, opens what processes of one host can open, and moves some bytes of each
    /// part of each layout, so that later reads need none of that.
    ///
    /// Cancel safe.
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
    pub(super) async fn import_unless(
        &self,
        metadata: &ExportMetadata,
        own: Option<Arc<ExportShared>>,
        options: ImportOptions,
    ) -> Result<RemoteExport, ConnectorError> {
        self.refuse_if_draining()?;
        let layouts: Vec<_> =
            metadata.layouts().iter().map(described::remote).collect::<Result<_, _>>()?;
        let words = match own {
            Some(own) => Words::Own(own),
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
            notified: Mutex::default(),
            page: None,
            key: NotificationKey::random(),
        };
        if let Words::Own(_) = &imported.words {
            return Ok(RemoteExport(Arc::new(imported)));
        }
        if let Words::Mapped(_) = &imported.words {
            imported.page = self.page_of(metadata).await?;
        }
        if let Words::Engine(_) = &imported.words {
            self.ask_whether_open(metadata).await?;
        }
        let mut prefaulting = Prefaulting::new(options.prefault, self.default_options());
        for layout in 0..imported.layouts.len() {
            let local = self.room_for(&Lists::probed(metadata, layout))?;
            let (read, peer) =
                self.read_silently(Lists::of_probe(metadata, layout, local)?).await?;
            imported.paths.push(read.path().cloned());
            imported.peer = Some(peer);
            if read.path().is_some_and(|path| path.kind() == PathKind::SharedMemory) {
                self.prefault(metadata, layout, &mut prefaulting).await?;
            }
        }
        imported.prefaulted = prefaulting.mapped();
        Ok(RemoteExport(Arc::new(imported)))
    }

    /// The page of the owner, which is on this host, if its mailbox takes messages.
    async fn page_of(
        &self,
        metadata: &ExportMetadata,
    ) -> Result<Option<SharedName>, ConnectorError> {
        // Later protocols of the page may have another mailbox.
        let is_known = metadata.peer().versions().doorbell() <= RemoteSlots::VERSION;
        let Some(file) = metadata.claims().filter(|_| is_known) else { return Ok(None) };
        let page = page_of_file(file);
        Ok(self.connection().mailbox(&page).await?.map(|_| page))
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

    /// A buffer of so many bytes for each descriptor.
    fn room_for(&self, lens: &[u64]) -> Result<DescriptorList, ConnectorError> {
        let region = self.buffer(lens.iter().sum::<u64>() as usize)?;
        let mut end = 0;
        let parts = lens.iter().map(|len| {
            let start = end;
            end += *len as usize;
            region.descriptor(start..end)
        });
        Ok(DescriptorList::try_from(parts.collect::<Result<Vec<_>, _>>()?)?)
    }

    async fn open_words(&self, metadata: &ExportMetadata) -> Result<Words, ConnectorError> {
        let connection = self.connection();
        let is_here = connection.info().host().same_pid_namespace(metadata.peer().host());
        let Some(file) = metadata.words().file.filter(|_| is_here) else {
            return self.words_by_engine(metadata).await;
        };
        let name = page_of_file(&file);
        let open = move || PublishedWords::open(&name);
        match connection.control().run(open).await? {
            Ok(words) if words.load(EXPORT_WORD) == Some(metadata.export().value()) => {
                Ok(Words::Mapped(words))
            }
            // The file is that of the random name, so the process is the owner.
            Ok(_) => Err(closed(metadata)),
            // The engine reads them: the owner has closed them, or runs on another host that has the identity of this one.
            Err(error) => {
                tracing::debug!(%error, "the words of an export are not mapped");
                self.words_by_engine(metadata).await
            }
        }
    }

    /// Words that are read by requests.
    async fn words_by_engine(&self, metadata: &ExportMetadata) -> Result<Words, ConnectorError> {
        Ok(Words::Engine(WordReads::new(self, *metadata.words()).await?))
    }

    /// Reads through the engine whether the export is open, before its memory is touched: that of one which is closed may be gone.
    async fn ask_whether_open(&self, metadata: &ExportMetadata) -> Result<(), ConnectorError> {
        let [.., export] = self.read_words(metadata, 0).await?;
        match export == metadata.export().value() {
            true => Ok(()),
            false => Err(closed(metadata)),
        }
    }

    /// The words of a slot, read through the engine. They are in the owner's byte order, which is this process's.
    async fn read_words(
        &self,
        metadata: &ExportMetadata,
        slot: u32,
    ) -> Result<[u64; GrantWords::SLOT_WORDS], ConnectorError> {
        let region = self.buffer(GrantWords::SLOT_BYTES)?;
        let list = DescriptorList::from(region.whole());
        self.read_silently(Lists::of_words(metadata, slot, list)?).await?;
        let mut words = [0; GrantWords::SLOT_WORDS];
        for (index, word) in words.iter_mut().enumerate() {
            let mut bytes = [0; 8];
            region.copy_to_slice(8 * index, &mut bytes).map_err(TicketError::Local)?;
            *word = u64::from_ne_bytes(bytes);
        }
        Ok(words)
    }

    /// Reads a peer's memory, of which the peer is not told.
    async fn read_silently(&self, lists: Lists) -> Result<(Completion, PeerId), ConnectorError> {
        let Lists { local, remote } = lists;
        let options = self.default_options();
        let policy = options.path_policy();
        let me = self.clone();
        let prepare = async move {
            let leased = Leases::acquire_list(local.clone(), LeaseMode::Write)?;
            let memory = (&local, &leased);
            let (execution, peer) = me.prepare_silently(memory, &remote, policy, None).await?;
            Ok::<_, ConnectorError>((execution, peer, local))
        };
        let driver = self.connection().driver();
        // The layouts of an export may have many parts.
        let prepare = Offloaded::new(self.connection().work()?, prepare);
        let (prepared, options) = driver.with_timeout(options, prepare).await?;
        let (execution, peer, local) = prepared??;
        let mut read = ReadOperation::begin(driver, execution, local, options)?;
        Ok((read.wait_for_completion().await?, peer))
    }
}

/// The place of the export's number among the words of slot 0.
const EXPORT_WORD: usize = 3;

impl Imported {
    /// Where this import's messages go, if not through the engine.
    pub(super) async fn mailbox(&self) -> Result<Option<Mailbox>, ConnectorError> {
        match &self.page {
            Some(page) => self.connector.connection().mailbox(page).await,
            None => Ok(None),
        }
    }
}

fn page_of_file(file: &SharedFile) -> SharedName {
    SharedName { pid: file.pid(), fd: file.fd(), name: file.name(), len: file.length() }
}

fn closed(metadata: &ExportMetadata) -> ConnectorError {
    ConnectorError::ExportClosed { export: metadata.export() }
}

impl Imported {
    pub(super) fn key(&self) -> &NotificationKey {
        &self.key
    }
}

impl RemoteExport {
    /// Runs that are listed on the caller's thread.
    const LISTED_HERE: usize = 64;

    /// What was imported.
    #[must_use]
    pub fn metadata(&self) -> &ExportMetadata {
        &self.0.metadata
    }

    pub(super) fn imported(&self) -> &Imported {
        &self.0
    }

    /// A layout that a ticket was admitted for.
    pub(super) fn remote(&self, layout: usize) -> &RemoteLayout {
        &self.0.layouts[layout]
    }

    /// A layout by its name, and its position among those of the export.
    #[must_use]
    pub fn layout(&self, name: &str) -> Option<(usize, &RemoteLayout)> {
        let at = self.0.metadata.layouts().iter().position(|layout| layout.name == name)?;
        Some((at, self.0.layouts.get(at)?))
    }

    /// The path that a layout's first bytes took into host memory when it was imported, with the reasons against others. `None`
    /// if the export is this process's own.
    #[must_use]
    pub fn path(&self, layout: usize) -> Option<&PathReport> {
        self.0.paths.get(layout)?.as_ref()
    }

    /// Bytes of the export whose pages were mapped when it was imported: see [`ImportOptions::prefault`].
    #[must_use]
    pub fn prefaulted(&self) -> u64 {
        self.0.prefaulted
    }

    /// Whether the words of the grants are mapped here, so that checking a read takes no request of the engine's.
    #[must_use]
    pub fn words_are_mapped(&self) -> bool {
        !matches!(self.0.words, Words::Engine(_))
    }

    /// Reads the blocks of a ticket, in its order, into `blocks` of a local layout. The bytes are those that were granted: the
    /// grant stood when the last of them had arrived.
    ///
    /// Cancel safe: if the future is dropped, the read is cancelled, and the local blocks can be used once the engine is quiet.
    ///
    /// # Errors
    ///
    /// [`BlockReadError`], which names the local blocks that must not be used: [`TransportError::Stale`] if the grant has ended,
    /// [`TransportError::NotGranted`] for a ticket that its owner did not give out, [`TicketError`], or why the owner was not
    /// reached.
    pub async fn read_blocks(
        &self,
        ticket: &Ticket,
        local: &Layout,
        blocks: &[usize],
    ) -> Result<Completion, BlockReadError> {
        self.read_blocks_with(ticket, local, blocks, self.default_options()).await
    }

    /// As [`read_blocks`](Self::read_blocks), with options instead of the connector's timeout.
    ///
    /// # Errors
    ///
    /// As there.
    pub async fn read_blocks_with(
        &self,
        ticket: &Ticket,
        local: &Layout,
        blocks: &[usize],
        options: BlockTransferOptions,
    ) -> Result<Completion, BlockReadError> {
        let read = self.read(ticket, local, blocks, options).await;
        read.map_err(|cause| BlockReadError { blocks: blocks.to_vec(), cause })
    }

    /// Writes `blocks` of a local layout to the blocks of a ticket, in its order. The grant is claimed before the first byte, and
    /// used up.
    ///
    /// Until it ends, the local blocks can be read here but not changed. Cancel safe: if the future is dropped, the write is
    /// cancelled, and the owner gets its blocks back once they are quiet.
    ///
    /// # Errors
    ///
    /// [`ConnectorError`]: a ticket that cannot be used ([`ConnectorError::Ticket`]), a grant that has ended or is claimed by
    /// another writer ([`TransportError::OfferEnded`]), or an owner that is not reached. Blocks of the owner's may then have been
    /// written in part.
    pub async fn write_blocks(
        &self,
        ticket: &Ticket,
        local: &Layout,
        blocks: &[usize],
    ) -> Result<Completion, ConnectorError> {
        self.write_blocks_with(ticket, local, blocks, self.default_options()).await
    }

    fn default_options(&self) -> BlockTransferOptions {
        BlockTransferOptions::new().operation(self.0.connector.default_options())
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
    ) -> Result<Completion, ConnectorError> {
        let Imported { connector, metadata, layouts, .. } = &*self.0;
        connector.refuse_if_draining()?;
        let BlockTransferOptions { layers, class, operation } = options;
        let layers = self.admit(ticket, Rights::Write, layers)?;
        if self.is_over(ticket.expires_unix_millis()) {
            return Err(TicketError::Expired.into());
        }
        let theirs = &layouts[usize::from(ticket.layout())];
        same_geometry(local.geometry(), theirs.geometry())
            .map_err(|error| TicketError::Pairing(error.into()))?;
        if blocks.len() != ticket.blocks().len() {
            let (src, dst) = (blocks.len(), ticket.blocks().len());
            return Err(TicketError::Pairing(ChunkPairError::Count { src, dst }).into());
        }
        let runs = blocks.len().saturating_mul(layers.len() * theirs.geometry().outer());
        let (local, remote) = if runs <= Self::LISTED_HERE {
            write::lists((metadata, theirs), ticket, (local, blocks), layers)?
        } else {
            let (me, ticket) = (self.clone(), ticket.clone());
            let (local, blocks) = (local.clone(), blocks.to_vec());
            let list = async move {
                let Imported { metadata, layouts, .. } = &*me.0;
                let export = (metadata, &layouts[usize::from(ticket.layout())]);
                write::lists(export, &ticket, (&local, &blocks), layers)
            };
            Offloaded::new(connector.connection().work()?, list).await??
        };
        let (_permit, operation) = match &self.0.peer {
            Some(peer) => {
                let (permit, operation) = self.turn(class, (peer, &local), operation).await?;
                (Some(permit), operation)
            }
            None => (None, operation),
        };
        connector.write_with(local, &remote, operation).await
    }

    /// How many layers of a ticket's blocks are ready, from the first on: those below are read as their owner has filled them.
    ///
    /// One look: where the words are not mapped, two requests of the engine's. Cancel safe.
    ///
    /// # Errors
    ///
    /// [`ConnectorError`]: as [`read_blocks`](Self::read_blocks), [`TransportError::Stale`] among them.
    pub async fn layers_ready(&self, ticket: &Ticket) -> Result<usize, ConnectorError> {
        let Imported { connector, metadata, words, .. } = &*self.0;
        self.admit(ticket, Rights::Read, None)?;
        self.admit_in_time(ticket).await?;
        let check = check_of(ticket);
        let layers = match words {
            Words::Own(own) => own.layers_ready(&check)?,
            Words::Mapped(words) => check.layers_ready(words).map_err(refused)?,
            Words::Engine(_) => {
                let [_, _, layers, _] = connector.read_words(metadata, check.slot()).await?;
                // The number is of this grant if that stands after the number was read.
                let [word, digest, ..] = connector.read_words(metadata, check.slot()).await?;
                check.compare(word, digest).map_err(refused)?;
                layers
            }
        };
        Ok(usize::try_from(layers).unwrap_or(usize::MAX))
    }

    /// Tells the owner that this import is done with a ticket: its grant ends once all its readers have said so. Saying it again
    /// changes nothing.
    ///
    /// Cancel safe.
    ///
    /// # Errors
    ///
    /// [`ConnectorError`]: the ticket is for another export, or the owner cannot be reached. Without an error the word may be lost
    /// with its owner; the grant then ends by its time to live.
    pub async fn done(&self, ticket: &Ticket) -> Result<(), ConnectorError> {
        let Imported { connector, metadata, words, peer, reader, .. } = &*self.0;
        let (export, import) = (ticket.export(), metadata.export());
        if export != import {
            return Err(TicketError::OtherExport { ticket: export, import }.into());
        }
        let (slot, generation, token) = (ticket.slot(), ticket.generation(), *ticket.token());
        if let Words::Own(own) = words {
            own.table().done(slot, generation, &token, *reader)?;
            return Ok(());
        }
        let Some(peer) = peer else { return Ok(()) };
        let driver = connector.connection().driver();
        let (grant, to) = ((slot, generation, token), (peer, self.0.mailbox().await?));
        let options = connector.default_options();
        Ok(driver.tell_grant_done(export.value(), grant, *reader, to, options).await?)
    }

    /// Asks the owner to give a ticket's grant its time to live anew, from when the message arrives. Reads by the ticket go on
    /// beyond its own time once that is so, which each looks up by the words of the grant. A reader whose transfers may take longer
    /// than the time to live asks well before its end, and again: an owner that awaits nothing takes messages once a second.
    ///
    /// Cancel safe.
    ///
    /// # Errors
    ///
    /// [`ConnectorError`]: the ticket is for another export or for writing, or the owner cannot be reached. Without an error the
    /// message may be lost with its owner, come too late, or find an owner of an earlier release, which ignores it.
    pub async fn renew(&self, ticket: &Ticket) -> Result<(), ConnectorError> {
        self.admit(ticket, Rights::Read, None)?;
        let Imported { connector, metadata, words, peer, reader, .. } = &*self.0;
        let grant = (ticket.slot(), ticket.generation(), *ticket.token());
        if let Words::Own(own) = words {
            own.table().renew(grant.0, grant.1, &grant.2)?;
            return Ok(());
        }
        let Some(peer) = peer else { return Ok(()) };
        let driver = connector.connection().driver();
        let (export, to) = (metadata.export().value(), (peer, self.0.mailbox().await?));
        let options = connector.default_options();
        Ok(driver.ask_grant_renewed(export, grant, *reader, to, options).await?)
    }

    async fn read(
        &self,
        ticket: &Ticket,
        local: &Layout,
        blocks: &[usize],
        options: BlockTransferOptions,
    ) -> Result<Completion, ConnectorError> {
        let Imported { connector, words, .. } = &*self.0;
        connector.refuse_if_draining()?;
        let BlockTransferOptions { layers, class, operation } = options;
        let layers = self.admit(ticket, Rights::Read, layers)?;
        self.admit_in_time(ticket).await?;
        let check = check_of(ticket);
        let under_way = match words {
            Words::Engine(words) => Some((words, words.begin())),
            _ => None,
        };
        if let Words::Mapped(words) = words {
            // A grant that has ended moves nothing.
            check.check_mapped(words).map_err(refused)?;
        }
        if let Words::Own(own) = words {
            return own.copy(connector, ticket, (local, blocks), layers, operation).await;
        }
        let sides = (ticket.clone(), local.clone(), blocks.to_vec());
        let (done, peer, operation) = match class {
            TransferClass::Interactive => self.read_whole(sides, layers, operation).await?,
            TransferClass::Bulk => self.read_in_pieces(sides, layers, operation).await?,
        };
        // The bytes have arrived: every thread and request of theirs has ended.
        let checked = match (words, &under_way) {
            (Words::Mapped(words), _) => check.check_mapped(words),
            (_, Some((words, under_way))) => {
                let options = operation.spending(done.elapsed());
                let ask = async || {
                    let words = words.after(under_way, (check.slot(), &peer), options).await?;
                    Ok::<_, ConnectorError>(check.compare(words[0], words[1]))
                };
                match ask().await? {
                    // Both words may have been read while the slot was granted anew.
                    Err(StaleRead::NotGranted) => ask().await?,
                    checked => checked,
                }
            }
            (Words::Own(_) | Words::Engine(_), None) => Ok(()),
        };
        checked.map_err(refused)?;
        Ok(done)
    }

    /// Whether a time of the owner's, in milliseconds since 1970, is over by this side's clock.
    fn is_over(&self, unix_millis: u64) -> bool {
        let now = self.0.connector.connection().clock().unix_time();
        now >= Duration::from_millis(unix_millis)
    }

    /// Admits a ticket whose time is not over, or was renewed. Where the words are not mapped, looking for that takes two requests of
    /// the engine's.
    async fn admit_in_time(&self, ticket: &Ticket) -> Result<(), ConnectorError> {
        if !self.is_over(ticket.expires_unix_millis()) {
            return Ok(());
        }
        let Imported { connector, metadata, words, .. } = &*self.0;
        let (check, slots) = (check_of(ticket), metadata.words().slots);
        let until = match words {
            Words::Own(own) => own.table().words().renewed_until(&check),
            Words::Mapped(words) => check.renewed_until(words, slots),
            Words::Engine(_) => {
                let slot = GrantWords::renewed_slot(check.slot(), slots);
                let [.., until] = connector.read_words(metadata, slot).await?;
                // It is of this grant if that stands after it was read.
                let [word, digest, ..] = connector.read_words(metadata, check.slot()).await?;
                check.compare(word, digest).map(|()| until)
            }
        };
        match until {
            Ok(until) if !self.is_over(until) => Ok(()),
            // An altered ticket has no time that counts.
            Ok(_) | Err(_) => Err(TicketError::Expired.into()),
        }
    }

    /// Reads blocks in one piece. Returns the options with the time that was left when it began.
    async fn read_whole(
        &self,
        sides: (Ticket, Layout, Vec<usize>),
        layers: Range<usize>,
        options: OperationOptions,
    ) -> Result<(Completion, PeerId, OperationOptions), ConnectorError> {
        let connection = self.0.connector.connection();
        let driver = connection.driver();
        let (_, local, blocks) = &sides;
        let runs = blocks.len().saturating_mul(layers.len() * local.geometry().outer());
        let prepare = self.clone().prepare(sides, layers, options.path_policy());
        let (prepared, options) = if runs <= Self::LISTED_HERE {
            driver.with_timeout(options, prepare).await?
        } else {
            let offloaded = Offloaded::new(connection.work()?, prepare);
            let (prepared, options) = driver.with_timeout(options, offloaded).await?;
            (prepared?, options)
        };
        let (execution, local, peer) = prepared?;
        let class = TransferClass::Interactive;
        let (permit, options) = self.turn(class, (&peer, &local), options).await?;
        let execution = Admitted::with(execution, permit);
        let mut read = ReadOperation::begin(driver, execution, local, options)?;
        Ok((read.wait_for_completion().await?, peer, options))
    }

    /// Waits until it is the turn of a transfer.
    async fn turn(
        &self,
        class: TransferClass,
        (peer, local): (&PeerId, &DescriptorList),
        options: OperationOptions,
    ) -> Result<(Permit, OperationOptions), ConnectorError> {
        let connection = self.0.connector.connection();
        let (admission, bytes) = (connection.admission(), local.total_bytes());
        if let Some(permit) = admission.try_admit(class, peer, bytes) {
            return Ok((permit, options));
        }
        let turn = admission.admit(class, peer, bytes);
        let (permit, options) = connection.driver().with_timeout(options, turn).await?;
        Ok((permit?, options))
    }

    /// The layers to read, of a ticket that is for this export.
    fn admit(
        &self,
        ticket: &Ticket,
        rights: Rights,
        layers: Option<Range<usize>>,
    ) -> Result<Range<usize>, TicketError> {
        let Imported { metadata, layouts, .. } = &*self.0;
        let (import, layout, slot) = (metadata.export(), ticket.layout(), ticket.slot());
        if ticket.export() != import {
            return Err(TicketError::OtherExport { ticket: ticket.export(), import });
        }
        if usize::from(layout) >= layouts.len() {
            return Err(TicketError::NoSuchLayout { layout, layouts: layouts.len() });
        }
        let slots = metadata.words().slots;
        if rights == Rights::Read && ticket.rights() == rights && slot >= slots {
            return Err(TicketError::NoSuchSlot { slot, slots });
        }
        if ticket.rights() != rights {
            return Err(TicketError::OtherRights { writing: rights == Rights::Read });
        }
        let granted = ticket.layers();
        let all = usize::from(granted.start)..usize::from(granted.end);
        let layers = layers.unwrap_or_else(|| all.clone());
        if layers.is_empty() || layers.start < all.start || layers.end > all.end {
            let Range { start, end } = layers;
            let (first, last) = (granted.start, granted.end);
            return Err(TicketError::Layers { start, end, first, last });
        }
        Ok(layers)
    }

    async fn prepare(
        self,
        sides: (Ticket, Layout, Vec<usize>),
        layers: Range<usize>,
        policy: PathPolicy,
    ) -> Result<(Box<dyn Execution>, DescriptorList, PeerId), ConnectorError> {
        let Imported { connector, metadata, peer, key, .. } = &*self.0;
        let theirs = self.remote(sides.0.layout().into());
        let Lists { local, remote } = Lists::of_blocks(((metadata, key), theirs), &sides, layers)?;
        let leased = Leased::from(Leases::acquire(local.as_slice(), LeaseMode::Write)?);
        let memory = (&local, &leased);
        let prepared = connector.prepare_silently(memory, &remote, policy, peer.as_ref()).await?;
        let (execution, peer) = prepared;
        Ok((execution, local, peer))
    }
}

#[cfg(test)]
impl RemoteExport {
    fn word_reads(&self) -> &WordReads {
        match &self.0.words {
            Words::Engine(words) => words,
            _ => panic!("the words are not read through the engine"),
        }
    }

    /// Whether a request for words is in flight, and how many reads wait for the next.
    pub(super) fn words_in_flight(&self) -> (bool, usize) {
        self.word_reads().state()
    }

    /// Requests for words so far.
    pub(super) fn word_requests(&self) -> usize {
        self.word_reads().requests()
    }
}

fn check_of(ticket: &Ticket) -> WordCheck {
    WordCheck::new(ticket.slot(), ticket.generation(), ticket.digest())
}

/// What is said of a grant that does not stand, before anything moves.
fn refused(stale: StaleRead) -> TransportError {
    match stale {
        StaleRead::NotGranted => TransportError::NotGranted,
        _ => TransportError::Stale,
    }
}

impl fmt::Debug for RemoteExport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RemoteExport")
            .field("metadata", &self.0.metadata)
            .field("words_are_mapped", &self.words_are_mapped())
            .finish_non_exhaustive()
    }
}
