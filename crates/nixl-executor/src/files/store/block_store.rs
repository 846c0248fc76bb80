//! The block store.

use std::fmt;
use std::io;
use std::path::Path;
use std::sync::Arc;

use nixl_descriptor::file::{
    FileError, FileLayout, FileLayoutError, FileOptions, FileRegion, pair_file_blocks,
};
use nixl_descriptor::layout::{
    BlockLeaseError, Dimensions, Inner, Layout, LayoutError, LayoutGeometry,
};
use nixl_descriptor::{LeaseMode, LeaseSet, Region};
use nixl_device::LeakInChild;
use nixl_ops::{OperationError, TransportError};
use rustix::fs::{FlockOperation, flock, unlink};
use rustix::io::{Errno, pread, retry_on_intr};

use super::super::class::FileClass;
use super::super::error::FileTransferError;
use super::super::executor::{FileExecutor, FileIoOptions};
use super::super::io_kind::IoKind;
use super::error::StoreError;
use super::key::BlockKey;
use super::options::{Commit, StoreOptions};
use super::record::{Header, PAGE, Record};
use super::slots::{Reading, Reservation, Slots};
use super::syncs::Syncs;
use crate::local::on_a_thread;

/// Blocks of one shape in a preallocated file, found by their keys. Cheap to clone; the last clone ends the ownership of the folder.
#[derive(Clone)]
pub struct BlockStore {
    shared: LeakInChild<Arc<Shared>>,
}

struct Shared {
    executor: FileExecutor,
    file: FileRegion,
    /// The pages of records, and the blocks.
    records: FileLayout,
    blocks: FileLayout,
    slots: Arc<Slots>,
    fingerprint: u128,
    capacity: u32,
    commit: Commit,
    syncs: Arc<Syncs>,
}

/// Pages of records that are read at once, of which a table has a multiple.
const BATCH: u64 = 256;

impl BlockStore {
    /// Opens the store of a folder, or creates it with room for all blocks. What was committed is found; nothing else is.
    ///
    /// Never blocks the caller's thread. Cancel safe.
    ///
    /// # Errors
    ///
    /// [`StoreError`]: another store has the folder; its file is damaged, or holds other blocks; there is no room, or no right.
    pub async fn open(
        executor: &FileExecutor,
        folder: impl AsRef<Path>,
        options: StoreOptions,
    ) -> Result<Self, StoreError> {
        let folder = folder.as_ref().to_owned();
        let (fingerprint, capacity) = (options.fingerprint(), options.capacity);
        let places = Places::new(&options)?;
        let opened = on_a_thread(move || files(&folder, places.len)).await;
        let (owner, file, is_new) =
            opened.map_err(|error| FileTransferError::Thread { error: error.into() })??;
        executor.prepare(&file).await?;
        let header = Header { fingerprint, capacity };
        if is_new || is_empty(executor, &file).await? {
            let first = page(&header.encode())?;
            let layout = FileLayout::new(*first.geometry(), file.clone(), 0)?;
            let io = FileIoOptions::new();
            let mut write = executor.begin(
                IoKind::Write,
                (&layout, &[0]),
                (&first, &[0]),
                &io,
                (false, Some(Box::new(owner.clone()))),
            )?;
            write.wait_for_completion().await?;
            executor.sync(&file, &io)?.wait_for_completion().await?;
        }
        check(executor, &file, header).await?;
        // A first page that was lost leaves the records.
        let found = match is_new {
            true => vec![None; capacity as usize],
            false => scan(executor, &file, header).await?,
        };
        let records = FileLayout::new(pages(capacity.into())?, file.clone(), PAGE as u64)?;
        let blocks = FileLayout::new(places.geometry, file.clone(), places.blocks)?;
        let (slots, superseded) = Slots::new(found, options.eviction, owner);
        let syncs = Syncs::new(executor.clone(), file.clone());
        let shared = Shared {
            executor: executor.clone(),
            file,
            records,
            blocks,
            slots,
            fingerprint,
            capacity,
            commit: options.commit,
            syncs,
        };
        let store = Self { shared: LeakInChild::new(Arc::new(shared)) };
        for slot in superseded {
            // Otherwise it would be found again when the later block of its key has left.
            store.erase(&Arc::new(slot)).await?;
        }
        Ok(store)
    }

    /// Stores a block of memory under a key. It is found once this has completed, and replaces what was found before.
    ///
    /// Dropped, it is as if it had not been; after a restart the block may be found nevertheless.
    ///
    /// # Errors
    ///
    /// [`StoreError::Full`], [`StoreError::Transfer`] if the block cannot be read or the device has too much waiting,
    /// [`StoreError::Operation`] if a write failed, [`StoreError::NotSynced`] if a sync did, of this or another put. Then the block
    /// is not found, though it may be after a restart; if only the block before it could not be erased, it is found. A block that
    /// gave way to it before a write failed is lost; one whose memory or shape is refused takes none.
    pub async fn put(
        &self,
        key: BlockKey,
        memory: &Layout,
        block: usize,
    ) -> Result<(), StoreError> {
        let Shared { executor, blocks, slots, capacity, .. } = self.shared()?;
        self.shared.syncs.check()?;
        // A block that gives way is lost, so what can be refused is refused before.
        let lease = self.check(memory, block)?;
        let reserved = slots.reserve().ok_or(StoreError::Full { capacity: *capacity })?;
        let reserved = Arc::new(reserved);
        if !reserved.is_erased() {
            // What the slot had before must not be found after a crash, when a later block of its key has given way.
            self.erase(&reserved).await?;
        }
        let mut write = executor.begin(
            IoKind::Write,
            (blocks, &[reserved.slot()]),
            (memory, &[block]),
            &FileIoOptions::new(),
            (true, Some(Box::new(Arc::clone(&reserved)))),
        )?;
        drop(lease);
        write.wait_for_completion().await?;
        // A record whose block a crash has torn would hide the block before it.
        self.settle().await?;
        let record = Record {
            key,
            generation: reserved.generation(),
            len: blocks.geometry().block_len() as u64,
            // A write that has completed has one.
            checksum: write.checksum().unwrap_or(0),
        };
        reserved.set_written(&record);
        self.write_record(&reserved, &record.encode(self.shared.fingerprint)).await?;
        self.settle().await?;
        if let Some(before) = reserved.commit(record) {
            self.erase(&Arc::new(before)).await?;
        }
        Ok(())
    }

    /// Reads a block into a block of memory. Returns whether it was found: if not, the memory is as it was.
    ///
    /// # Errors
    ///
    /// [`StoreError::Damaged`] if other bytes are there than were put; the block is found no more. [`StoreError::Transfer`] and
    /// [`StoreError::Operation`] as of any read. After an error the content of the memory is undefined.
    pub async fn get(
        &self,
        key: BlockKey,
        memory: &Layout,
        block: usize,
    ) -> Result<bool, StoreError> {
        self.read(key, memory, block, FileClass::Demand).await
    }

    /// As [`get`](Self::get), before a request needs the block.
    ///
    /// # Errors
    ///
    /// As there, and [`FileTransferError::Busy`].
    pub async fn prefetch(
        &self,
        key: BlockKey,
        memory: &Layout,
        block: usize,
    ) -> Result<bool, StoreError> {
        self.read(key, memory, block, FileClass::Prefetch).await
    }

    /// Takes a block out of the store. Returns whether it was there.
    ///
    /// # Errors
    ///
    /// [`StoreError::StillUsed`], [`StoreError::Transfer`], [`StoreError::Operation`] and [`StoreError::NotSynced`]: it is found no
    /// more, but it or a block before it may be after a restart, unless another call succeeds.
    pub async fn remove(&self, key: BlockKey) -> Result<bool, StoreError> {
        let slots = &self.shared()?.slots;
        let was_there = slots.contains(&key);
        let (records, is_used) = slots.take(&key);
        for record in records {
            self.erase(&Arc::new(record)).await?;
        }
        match is_used {
            false => Ok(was_there),
            true => Err(StoreError::StillUsed { key }),
        }
    }

    /// Whether a block is found. None is in the child of a fork.
    #[must_use]
    pub fn contains(&self, key: BlockKey) -> bool {
        self.shared().is_ok_and(|shared| shared.slots.contains(&key))
    }

    /// The number of blocks; 0 in the child of a fork.
    #[must_use]
    #[expect(clippy::len_without_is_empty, reason = "a count of blocks")]
    pub fn len(&self) -> usize {
        self.shared().map_or(0, |shared| shared.slots.len())
    }

    /// The number of blocks that the store has room for.
    #[must_use]
    pub fn capacity(&self) -> u32 {
        self.shared.capacity
    }

    /// The number of blocks that were found damaged since the store was opened; 0 in the child of a fork.
    #[must_use]
    pub fn damaged(&self) -> u64 {
        self.shared().map_or(0, |shared| shared.slots.damaged())
    }

    /// What the store consists of, in the process that has opened it: a fork's child inherits locks that no thread of its own gives
    /// back.
    fn shared(&self) -> Result<&Shared, StoreError> {
        match self.shared.is_inherited() {
            true => Err(OperationError::Transport(TransportError::Forked).into()),
            false => Ok(&self.shared),
        }
    }

    async fn read(
        &self,
        key: BlockKey,
        memory: &Layout,
        block: usize,
        class: FileClass,
    ) -> Result<bool, StoreError> {
        let Shared { executor, blocks, slots, .. } = self.shared()?;
        let Some(reading) = slots.read(&key).map(Arc::new) else { return Ok(false) };
        let mut read = executor.begin(
            IoKind::Read,
            (blocks, &[reading.slot()]),
            (memory, &[block]),
            &FileIoOptions::new().class(class),
            (true, Some(Box::new(Arc::clone(&reading)))),
        )?;
        read.wait_for_completion().await?;
        let record = reading.record();
        let is_whole = record.len == blocks.geometry().block_len() as u64
            && read.checksum() == Some(record.checksum);
        if !is_whole {
            reading.set_damaged();
            return Err(StoreError::Damaged { key });
        }
        // It may have left the store in the meantime.
        if let Some(left) = Arc::into_inner(reading).and_then(Reading::finish) {
            self.erase(&Arc::new(left)).await?;
        }
        Ok(true)
    }

    /// Empties the record of a slot.
    async fn erase(&self, reserved: &Arc<Reservation>) -> Result<(), StoreError> {
        self.write_record(reserved, &[]).await?;
        self.settle().await?;
        reserved.set_erased();
        Ok(())
    }

    async fn write_record(
        &self,
        reserved: &Arc<Reservation>,
        bytes: &[u8],
    ) -> Result<(), StoreError> {
        let page = page(bytes)?;
        let mut write = self.shared.executor.begin(
            IoKind::Write,
            (&self.shared.records, &[reserved.slot()]),
            (&page, &[0]),
            &FileIoOptions::new(),
            (false, Some(Box::new(Arc::clone(reserved)))),
        )?;
        write.wait_for_completion().await?;
        Ok(())
    }

    /// Brings what was written to the disk, if that is wanted.
    async fn settle(&self) -> Result<(), StoreError> {
        if self.shared.commit == Commit::Each {
            self.shared.syncs.settle().await?;
        }
        Ok(())
    }

    /// Leases the memory of a block to be put if its shape is right and there is room in the queue.
    fn check(&self, memory: &Layout, block: usize) -> Result<Option<LeaseSet>, StoreError> {
        let Shared { executor, blocks, file, .. } = self.shared()?;
        if !memory.device().is_host() {
            return Err(FileTransferError::NotHost { device: memory.device() }.into());
        }
        let layers = 0..memory.geometry().layers();
        pair_file_blocks(blocks, &[0], memory, &[block], layers.clone())
            .map_err(FileTransferError::from)?;
        let class = FileClass::Write;
        let waiting = executor.waiting(file, class);
        let (queued, limit) = (
            waiting.saturating_add(blocks.geometry().block_len() as u64),
            FileExecutor::MAX_WAITING,
        );
        if waiting > 0 && queued > limit {
            return Err(FileTransferError::Busy { class, queued, limit }.into());
        }
        match memory.lease(&[block], layers, LeaseMode::Read) {
            Ok(lease) => Ok(Some(lease)),
            Err(BlockLeaseError::Lease(error)) => Err(FileTransferError::Lease(error).into()),
            // The pairing has checked the rest.
            Err(_) => Ok(None),
        }
    }
}

impl fmt::Debug for BlockStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BlockStore")
            .field("file", &self.shared.file.path())
            .field("blocks", &self.len())
            .field("capacity", &self.shared.capacity)
            .field("damaged", &self.damaged())
            .finish_non_exhaustive()
    }
}

/// Where the parts of a store's file are.
#[derive(Clone, Copy)]
struct Places {
    geometry: LayoutGeometry,
    /// Where the blocks begin, after the first page and the records.
    blocks: u64,
    len: u64,
}

impl Places {
    fn new(options: &StoreOptions) -> Result<Self, StoreError> {
        let overflow =
            || StoreError::from(FileLayoutError::from(LayoutError::Overflow { part: 0 }));
        let dimensions =
            Dimensions { blocks: options.capacity as usize, ..options.geometry.dimensions() };
        let geometry = LayoutGeometry::try_from(dimensions)
            .map_err(|error| FileLayoutError::from(LayoutError::from(error)))?;
        let blocks = PAGE as u64 * (1 + table(options.capacity));
        let stride = FileLayout::stride_of(&geometry).ok_or_else(overflow)?;
        let len =
            stride.checked_mul(options.capacity.into()).and_then(|len| len.checked_add(blocks));
        Ok(Self { geometry, blocks, len: len.ok_or_else(overflow)? })
    }
}

/// Pages of the table of records.
fn table(capacity: u32) -> u64 {
    u64::from(capacity).next_multiple_of(BATCH)
}

/// The shape of so many pages.
fn pages(count: u64) -> Result<LayoutGeometry, StoreError> {
    blocks_of(PAGE, count)
}

fn blocks_of(len: usize, count: u64) -> Result<LayoutGeometry, StoreError> {
    let dimensions = Dimensions {
        blocks: usize::try_from(count).unwrap_or(usize::MAX),
        layers: 1,
        outer: 1,
        page_size: 1,
        inner: Inner::Elements(len),
        element_width: 1,
    };
    let geometry = LayoutGeometry::try_from(dimensions);
    Ok(geometry.map_err(|error| FileLayoutError::from(LayoutError::from(error)))?)
}

/// One page of memory that begins with these bytes.
fn page(bytes: &[u8]) -> Result<Layout, StoreError> {
    let memory = |reason: &dyn fmt::Display| StoreError::Memory { reason: reason.to_string() };
    let region = Region::zeroed(PAGE).map_err(|error| memory(&error))?;
    region.copy_from_slice(0, bytes).map_err(|error| memory(&error))?;
    Layout::of_blocks(region, PAGE).map_err(|error| FileLayoutError::from(error).into())
}

/// The lock of the folder, the file of the store, and whether it was created.
fn files(folder: &Path, len: u64) -> Result<(FileRegion, FileRegion, bool), StoreError> {
    let (owner, _) = open_or_create(folder, "owner", FileOptions::read_write(), PAGE as u64)?;
    let lock = flock(owner.descriptor(), FlockOperation::NonBlockingLockExclusive);
    lock.map_err(|error| match error {
        Errno::WOULDBLOCK => StoreError::InUse { folder: folder.to_owned() },
        error => StoreError::NoLock {
            path: owner.path().to_owned(),
            error: io::Error::from(error).into(),
        },
    })?;
    discard_unfinished(folder, len)?;
    let direct = open_or_create(folder, "blocks", FileOptions::read_write().direct(), len);
    let (file, is_new) = match direct {
        Err(FileError::NoDirectIo { .. }) => {
            open_or_create(folder, "blocks", FileOptions::read_write(), len)?
        }
        opened => opened?,
    };
    match file.len()? == len {
        true => Ok((owner, file, is_new)),
        false => Err(StoreError::OtherBlocks { path: file.path().to_owned() }),
    }
}

/// Removes the file of a store whose creation has ended amid the reservation of its room: before the first page nothing is written.
fn discard_unfinished(folder: &Path, len: u64) -> Result<(), FileError> {
    let file = match FileRegion::open(folder, "blocks", &FileOptions::read_write()) {
        Err(FileError::NotFound { .. }) => return Ok(()),
        opened => opened?,
    };
    if file.len()? >= len {
        return Ok(());
    }
    let (mut part, mut offset) = (vec![0; 1 << 20], 0);
    loop {
        match retry_on_intr(|| pread(file.descriptor(), &mut part[..], offset)) {
            Ok(0) => break,
            Ok(count) if part[..count].iter().all(|&byte| byte == 0) => offset += count as u64,
            // It has a content of some kind.
            Ok(_) | Err(_) => return Ok(()),
        }
    }
    let _ = unlink(file.path());
    Ok(())
}

fn open_or_create(
    folder: &Path,
    name: &str,
    options: FileOptions,
    len: u64,
) -> Result<(FileRegion, bool), FileError> {
    match FileRegion::open(folder, name, &options) {
        Err(FileError::NotFound { .. }) => {}
        opened => return Ok((opened?, false)),
    }
    match FileRegion::open(folder, name, &options.create(len)) {
        // Another process was faster.
        Err(FileError::Exists { .. }) => Ok((FileRegion::open(folder, name, &options)?, false)),
        created => Ok((created?, true)),
    }
}

/// Whether the first page was never written: its store ended while it was created.
async fn is_empty(executor: &FileExecutor, file: &FileRegion) -> Result<bool, StoreError> {
    Ok(first_page(executor, file).await?.iter().all(|&byte| byte == 0))
}

/// That the first page is that of a store of these blocks.
async fn check(
    executor: &FileExecutor,
    file: &FileRegion,
    expected: Header,
) -> Result<(), StoreError> {
    let path = || file.path().to_owned();
    match Header::decode(&first_page(executor, file).await?) {
        Some(found) if found == expected => Ok(()),
        Some(_) => Err(StoreError::OtherBlocks { path: path() }),
        None => Err(StoreError::NoStore { path: path() }),
    }
}

async fn first_page(executor: &FileExecutor, file: &FileRegion) -> Result<Vec<u8>, StoreError> {
    let first = page(&[])?;
    let layout = FileLayout::new(*first.geometry(), file.clone(), 0)?;
    let io = FileIoOptions::new();
    executor.read_blocks(&layout, &[0], &first, &[0], &io)?.wait_for_completion().await?;
    first.block_to_vec(0).map_err(|error| StoreError::Memory { reason: error.to_string() })
}

/// The records of all slots.
async fn scan(
    executor: &FileExecutor,
    file: &FileRegion,
    header: Header,
) -> Result<Vec<Option<Record>>, StoreError> {
    /// Batches in flight.
    const AHEAD: usize = 8;
    let (batch, count) = (PAGE * BATCH as usize, table(header.capacity) / BATCH);
    let layout = FileLayout::new(blocks_of(batch, count)?, file.clone(), PAGE as u64)?;
    let memory = |reason: &dyn fmt::Display| StoreError::Memory { reason: reason.to_string() };
    let region = Region::zeroed(batch * AHEAD).map_err(|error| memory(&error))?;
    let buffers = Layout::of_blocks(region, batch).map_err(FileLayoutError::from)?;
    let mut records = Vec::with_capacity(header.capacity as usize);
    let (mut reads, mut begun) = (std::collections::VecDeque::new(), 0);
    while records.len() < header.capacity as usize {
        while begun < layout.geometry().blocks() && reads.len() < AHEAD {
            let (io, buffer) = (FileIoOptions::new(), begun % AHEAD);
            reads.push_back((
                executor.read_blocks(&layout, &[begun], &buffers, &[buffer], &io)?,
                buffer,
            ));
            begun += 1;
        }
        let Some((mut read, buffer)) = reads.pop_front() else { break };
        read.wait_for_completion().await?;
        let bytes = buffers.block_to_vec(buffer).map_err(|error| memory(&error))?;
        records.extend(bytes.chunks(PAGE).map(|page| Record::decode(page, header.fingerprint)));
    }
    records.truncate(header.capacity as usize);
    Ok(records)
}
