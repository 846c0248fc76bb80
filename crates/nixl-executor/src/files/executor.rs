//! The file executor: moves blocks between files and memory.

use std::fmt;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use nixl_descriptor::LeaseMode;
use nixl_descriptor::file::{FileLayout, FileRegion, pair_file_blocks};
use nixl_descriptor::layout::{BlockLeaseError, ChunkPairError, Layout};
use nixl_device::LeakInChild;
use nixl_ops::{
    Clock, CopyOperation, Driver, DriverConfig, OperationError, OperationOptions, SystemClock,
};

use super::choice::EngineChoice;
use super::class::FileClass;
use super::device::Devices;
use super::error::FileTransferError;
use super::execution::FileExecution;
use super::io_kind::IoKind;
use super::operation::{Held, Operation};
use super::queue::DeviceQueue;
use super::simulated::SimulatedFiles;
use crate::local::on_a_thread;

/// Options of one transfer between a file and memory.
#[derive(Clone, Debug, Default)]
pub struct FileIoOptions {
    layers: Option<Range<usize>>,
    timeout: Option<Duration>,
    class: Option<FileClass>,
}

impl FileIoOptions {
    /// All layers, no deadline; a read is [demand](FileClass::Demand) and a write is a [write](FileClass::Write).
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Only these layers.
    #[must_use]
    pub fn layers(mut self, layers: Range<usize>) -> Self {
        self.layers = Some(layers);
        self
    }

    /// Ends the transfer with an error if it takes longer. The memory stays leased until the kernel is done with it.
    #[must_use]
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = Some(timeout);
        self
    }

    /// The class in the queue of the device.
    #[must_use]
    pub fn class(mut self, class: FileClass) -> Self {
        self.class = Some(class);
        self
    }
}

/// Moves KV-cache blocks between files and host memory of this process.
///
/// Cheap to clone; all clones share engines, queues and threads. Nothing here blocks an async thread on a file but
/// [`FileRegion::len`], which asks the kernel for a size.
#[derive(Clone)]
pub struct FileExecutor {
    shared: LeakInChild<Arc<Shared>>,
}

struct Shared {
    driver: Arc<Driver>,
    devices: Arc<Devices>,
}

impl FileExecutor {
    /// Transfers in flight; more are refused with [`OperationError::QueueFull`].
    pub const MAX_IN_FLIGHT: usize = 65_536;

    /// Bytes of each class but demand that may wait for a device; more are refused with [`FileTransferError::Busy`].
    pub const MAX_WAITING: u64 = 1 << 30;

    /// An executor that takes the fastest engine of each file.
    ///
    /// # Errors
    ///
    /// [`FileTransferError::Thread`].
    pub fn new() -> Result<Self, FileTransferError> {
        Self::on(Arc::new(SystemClock::new()), None, Self::MAX_WAITING)
    }

    /// An executor on a simulated disk.
    ///
    /// # Errors
    ///
    /// [`FileTransferError::Thread`].
    pub fn simulated(
        disk: SimulatedFiles,
        clock: Arc<dyn Clock>,
    ) -> Result<Self, FileTransferError> {
        Self::on(clock, Some(Arc::new(disk)), Self::MAX_WAITING)
    }

    pub(super) fn on(
        clock: Arc<dyn Clock>,
        only: Option<Arc<dyn super::operation::FileEngine>>,
        limit: u64,
    ) -> Result<Self, FileTransferError> {
        let config =
            DriverConfig::default().max_in_flight(Self::MAX_IN_FLIGHT).inline_bytes(u64::MAX);
        let driver = Driver::spawn_local(Arc::clone(&clock), config)
            .map_err(|error| FileTransferError::Thread { error: error.into() })?;
        let devices = Arc::new(Devices::new(clock, limit, only));
        let shared = Shared { driver: Arc::new(driver), devices };
        Ok(Self { shared: LeakInChild::new(Arc::new(shared)) })
    }

    /// Chooses the engine of a file by a probe, for all files of its file system that are opened as it is. Before, threads serve
    /// it. Never blocks the caller's thread: the probe has a thread of its own.
    ///
    /// Cancel safe: a probe that was begun goes on.
    ///
    /// # Errors
    ///
    /// [`FileTransferError::Thread`].
    pub async fn prepare(&self, file: &FileRegion) -> Result<EngineChoice, FileTransferError> {
        self.shared.driver.check_process().map_err(OperationError::from)?;
        let (devices, file) = (Arc::clone(&self.shared.devices), file.clone());
        let probed = on_a_thread(move || devices.probe(&file)).await;
        probed.map_err(|error| FileTransferError::Thread { error: error.into() })
    }

    /// The engine of a file, and why it is that one.
    #[must_use]
    pub fn choice(&self, file: &FileRegion) -> EngineChoice {
        self.shared.devices.choice(file)
    }

    /// Reads blocks `src_blocks` of a file into blocks `dst_blocks` of memory, pairwise. Returns after the begin; until the end,
    /// the blocks of `dst` cannot be used otherwise.
    ///
    /// # Errors
    ///
    /// [`FileTransferError`]: the two sides do not match, the file has no such bytes, another operation uses them or the memory,
    /// the memory is a device's, or the device has too much waiting.
    pub fn read_blocks(
        &self,
        src: &FileLayout,
        src_blocks: &[usize],
        dst: &Layout,
        dst_blocks: &[usize],
        options: &FileIoOptions,
    ) -> Result<FileOperation, FileTransferError> {
        self.begin(IoKind::Read, (src, src_blocks), (dst, dst_blocks), options, (false, None))
    }

    /// Writes blocks `src_blocks` of memory to blocks `dst_blocks` of a file, pairwise, each once on both sides. Returns after the
    /// begin; until the end, the blocks of `src` cannot be changed. That the bytes are on the disk is for
    /// [`sync`](Self::sync) to bring about.
    ///
    /// # Errors
    ///
    /// As [`read_blocks`](Self::read_blocks).
    pub fn write_blocks(
        &self,
        src: &Layout,
        src_blocks: &[usize],
        dst: &FileLayout,
        dst_blocks: &[usize],
        options: &FileIoOptions,
    ) -> Result<FileOperation, FileTransferError> {
        self.begin(IoKind::Write, (dst, dst_blocks), (src, src_blocks), options, (false, None))
    }

    /// Brings all bytes of the file that were written before to the disk (`fdatasync`).
    ///
    /// # Errors
    ///
    /// [`FileTransferError::Operation`].
    pub fn sync(
        &self,
        file: &FileRegion,
        options: &FileIoOptions,
    ) -> Result<FileOperation, FileTransferError> {
        self.shared.driver.check_process().map_err(OperationError::from)?;
        let (engine, choice) = self.shared.devices.engine(file);
        let operation = Operation::sync(file, engine);
        self.start(operation, file, &choice, options)
    }

    /// Bytes that wait for the device of a file, of one class.
    #[must_use]
    pub fn waiting(&self, file: &FileRegion, class: FileClass) -> u64 {
        self.shared.devices.of(file).queue.queued(class)
    }

    /// Begins a read or a write, which sums its bytes if wanted, and owns `more` until it is quiet.
    pub(super) fn begin(
        &self,
        kind: IoKind,
        (of_file, file_blocks): (&FileLayout, &[usize]),
        (memory, blocks): (&Layout, &[usize]),
        options: &FileIoOptions,
        (is_summed, more): (bool, Option<Held>),
    ) -> Result<FileOperation, FileTransferError> {
        self.shared.driver.check_process().map_err(OperationError::from)?;
        if !memory.device().is_host() {
            return Err(FileTransferError::NotHost { device: memory.device() });
        }
        let file = of_file.file();
        let layers = options.layers.clone().unwrap_or(0..memory.geometry().layers());
        let pairs = pair_file_blocks(of_file, file_blocks, memory, blocks, layers.clone())
            .map_err(|error| if kind == IoKind::Write { swapped(error) } else { error })?;
        let default = if kind == IoKind::Read { FileClass::Demand } else { FileClass::Write };
        let class = options.class.unwrap_or(default);
        let device = self.shared.devices.of(file);
        device.queue.check(class, pairs.bytes())?;
        let (of_memory, of_ranges) = match kind {
            IoKind::Read => (LeaseMode::Write, LeaseMode::Read),
            _ => (LeaseMode::Read, LeaseMode::Write),
        };
        let ranges = file.lease(&pairs.ranges(), of_ranges)?;
        let leases = memory.lease(blocks, layers, of_memory).map_err(|error| match error {
            BlockLeaseError::Lease(error) => FileTransferError::Lease(error),
            BlockLeaseError::Duplicate { block } => ChunkPairError::Duplicate { block }.into(),
            BlockLeaseError::Selection(error) => ChunkPairError::Destination(error).into(),
            // The pairing has checked the rest.
            _ => ChunkPairError::Count { src: file_blocks.len(), dst: blocks.len() }.into(),
        })?;
        let (engine, choice) = self.shared.devices.engine(file);
        let held: Held = Box::new((leases, ranges, more));
        let operation = Operation::of_pairs(kind, class, file, engine, &pairs, (is_summed, held));
        self.start(operation, file, &choice, options)
    }

    fn start(
        &self,
        operation: Arc<Operation>,
        file: &FileRegion,
        choice: &EngineChoice,
        options: &FileIoOptions,
    ) -> Result<FileOperation, FileTransferError> {
        let queue = Arc::clone(&self.shared.devices.of(file).queue);
        let execution =
            FileExecution::new(Arc::clone(&operation), Arc::clone(&queue), choice.cached);
        let bytes = operation.bytes();
        let mut of_operation = OperationOptions::new();
        if let Some(timeout) = options.timeout {
            of_operation = of_operation.timeout(timeout);
        }
        if bytes > FileExecution::SMALL {
            // It takes longer than a waiter may spin.
            of_operation = of_operation.spin(Duration::ZERO);
        }
        // The operation owns its leases, for longer than the execution if that is dropped.
        let copy = CopyOperation::begin(
            &self.shared.driver,
            Box::new(execution),
            bytes,
            Vec::new(),
            of_operation,
        )?;
        Ok(FileOperation { copy, operation, queue })
    }
}

/// The error of a write, whose source is the memory.
fn swapped(error: ChunkPairError) -> ChunkPairError {
    match error {
        ChunkPairError::Source(error) => ChunkPairError::Destination(error),
        ChunkPairError::Destination(error) => ChunkPairError::Source(error),
        ChunkPairError::Count { src, dst } => ChunkPairError::Count { src: dst, dst: src },
        other => other,
    }
}

impl fmt::Debug for FileExecutor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FileExecutor")
            .field("devices", &self.shared.devices)
            .finish_non_exhaustive()
    }
}

/// A transfer between a file and memory. It progresses without being awaited. Dropping it cancels it.
#[derive(Debug)]
pub struct FileOperation {
    copy: CopyOperation,
    operation: Arc<Operation>,
    queue: Arc<DeviceQueue>,
}

impl FileOperation {
    /// Moves what has not begun of a prefetch to the class of demand: a request waits for it now.
    pub fn promote(&self) {
        self.queue.promote(&self.operation, FileClass::Demand);
    }

    /// The CRC-32 of the bytes, of an operation that was to sum them and has completed.
    pub(super) fn checksum(&self) -> Option<u32> {
        self.operation.checksum()
    }

    /// The operation, to be awaited or cancelled.
    #[must_use]
    pub fn into_operation(self) -> CopyOperation {
        self.copy
    }

    /// As [`CopyOperation::wait_for_completion`].
    ///
    /// # Errors
    ///
    /// As there; [`FileIoError::of`](super::FileIoError::of) has what the kernel answered.
    pub async fn wait_for_completion(&mut self) -> Result<nixl_ops::Completion, OperationError> {
        self.copy.wait_for_completion().await
    }

    /// As [`CopyOperation::wait_blocking`].
    ///
    /// # Errors
    ///
    /// As [`wait_for_completion`](Self::wait_for_completion).
    pub fn wait_blocking(&mut self) -> Result<nixl_ops::Completion, OperationError> {
        self.copy.wait_blocking()
    }
}
