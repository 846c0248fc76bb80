//! Connectors, the factories of operations.

mod initiating;
mod offering;

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use nixl_descriptor::{BufferPool, DescriptorList, Region};
use nixl_device::{LeakInChild, tcp_gives_up_after};
use nixl_metadata::{OperationKind, RdmaMetadata};
use nixl_ops::{
    EngineSetting, Execution, OperationOptions, ReadOperation, ReadableOperation, SpentKeys,
    TransportError, WritableOperation, WriteOperation, WrittenBlocks,
};

pub(crate) use self::initiating::SilentRead;
pub(crate) use self::offering::{Naming, Offers, token_of_ticket};

use crate::connection::Connection;
use crate::{ConnectionStats, ConnectorBuilder, ConnectorError, Drained, Health};

/// Factory of operations, and owner of the connection to the engine.
///
/// Cheap to clone; all clones share one connection, which ends when the last clone and the last operation
/// are gone.
///
/// Deadlines count from the call: they bound registering memory and connecting to the peer as well as the transfer.
///
/// No call blocks the thread: blocking calls of the engine (registering memory, the first connection to a peer) run on a thread
/// of the connection. With both cached, an operation begins without a task switch.
///
/// A connector belongs to the process that built it. In a forked child, every call and every poll of an earlier wait is an
/// error at once ([`TransportError::Forked`]); no use or drop there reaches the parent's threads, files or shared pages. A
/// child builds its own connector, and uses its own memory with it.
#[derive(Clone)]
pub struct Connector {
    shared: LeakInChild<Arc<Shared>>,
}

struct Shared {
    connection: Connection,
    timeout: Option<Duration>,
    offers: Offers,
    draining: AtomicBool,
    /// The longest delay of a peer's access over TCP.
    arrival: Duration,
}

impl Connector {
    const CLAIMED: &str = "a writable offer is claimed before its first byte: leave the option out";
    /// Longer lists are processed on a thread of the connection: some nanoseconds for each descriptor, several times.
    const WALKED_HERE: usize = 64;

    /// Starts to configure a connector.
    pub fn builder() -> ConnectorBuilder {
        ConnectorBuilder::new()
    }

    pub(crate) fn new(connection: Connection, timeout: Option<Duration>, offers: Offers) -> Self {
        let draining = AtomicBool::new(false);
        let arrival = tcp_gives_up_after();
        let shared = Arc::new(Shared { connection, timeout, offers, draining, arrival });
        Self { shared: LeakInChild::new(shared) }
    }

    /// The name of this connector for peers, unique for every connector ever built.
    pub fn name(&self) -> &str {
        self.shared.connection.transport().agent_name()
    }

    /// The name of this machine.
    pub fn hostname(&self) -> &str {
        self.shared.connection.info().host().hostname()
    }

    /// Whether a CUDA driver with at least one device is there, as of Dynamo's connector. The first call in a process looks for the driver,
    /// which takes tens of milliseconds.
    pub fn is_cuda_available(&self) -> bool {
        nixl_device::cuda::is_available()
    }

    /// The engine's settings, each with its origin: options, the environment, or a choice for this machine. Empty for an engine
    /// without settings.
    pub fn engine_settings(&self) -> Vec<EngineSetting> {
        self.shared.connection.transport().settings()
    }

    /// Current counts of operations, offers and peers. All zero in a forked child.
    pub fn stats(&self) -> ConnectionStats {
        if self.shared.is_inherited() {
            return ConnectionStats::default();
        }
        self.shared.connection.stats()
    }

    /// Host memory for one request or longer: `len` bytes, with the content of an earlier buffer.
    ///
    /// It comes from the [`BufferPool`] of the process, and returns there with the last handle. It is the preferred memory for
    /// offers: one registration (at the first offer) serves many buffers, peers on this machine map it once, and a late write
    /// lands in memory without an owner. A `Vec` costs a registration each time, and a late write to it lands in the
    /// allocator's next use.
    ///
    /// Peers may reach other buffers of the pool too: see [`BufferPool::buffer`]. Does not block on the engine.
    ///
    /// # Errors
    ///
    /// [`ConnectorError::Memory`]: zero bytes, or the system has no memory.
    pub fn buffer(&self, len: usize) -> Result<Region, ConnectorError> {
        self.check_process()?;
        Ok(BufferPool::global().buffer(len)?)
    }

    /// Offers memory to be read by one peer, which gets [`metadata`](ReadableOperation::metadata). That of a
    /// [`Tensor`](nixl_descriptor::tensor::Tensor) describes the tensor.
    ///
    /// Until the operation ends, the memory can be read here but not changed. Memory with work
    /// [pending](DescriptorList::pending) on it is offered after that work, without a bound if there is no deadline.
    ///
    /// Cancel safe: nothing is offered if the future is dropped.
    ///
    /// # Errors
    ///
    /// [`ConnectorError`]: the memory is leased, cannot be registered, or the engine refuses.
    pub async fn create_readable<L>(&self, local: L) -> Result<ReadableOperation, ConnectorError>
    where
        L: TryInto<DescriptorList>,
        ConnectorError: From<L::Error>,
    {
        self.create_readable_with(local, self.default_options()).await
    }

    /// As [`create_readable`](Self::create_readable), with options instead of the connector's timeout.
    ///
    /// # Errors
    ///
    /// Those, [`ConnectorError::ChecksumOfDevice`], and [`ConnectorError::NoOfferWord`].
    pub async fn create_readable_with<L>(
        &self,
        local: L,
        options: OperationOptions,
    ) -> Result<ReadableOperation, ConnectorError>
    where
        L: TryInto<DescriptorList>,
        ConnectorError: From<L::Error>,
    {
        let local = self.admit(local)?;
        let connection = &self.shared.connection;
        let (spec, options) =
            self.offered((OperationKind::Read, Naming::Random), local, options).await?;
        // The wait may have been long.
        self.refuse_if_draining()?;
        Ok(ReadableOperation::offer(connection.driver(), connection.executor(), spec, options)?)
    }

    /// Offers memory to be written by one peer, which gets [`metadata`](WritableOperation::metadata).
    ///
    /// Until the operation ends, the memory can be neither read nor changed here. Memory with work
    /// [pending](DescriptorList::pending) on it is offered after that work, without a bound if there is no deadline.
    ///
    /// Cancel safe: nothing is offered if the future is dropped.
    ///
    /// # Errors
    ///
    /// [`ConnectorError`]: the memory is leased or read-only, cannot be registered, or the engine refuses.
    pub async fn create_writable<L>(&self, local: L) -> Result<WritableOperation, ConnectorError>
    where
        L: TryInto<DescriptorList>,
        ConnectorError: From<L::Error>,
    {
        self.create_writable_with(local, self.default_options()).await
    }

    /// As [`create_writable`](Self::create_writable), with options instead of the connector's timeout.
    ///
    /// # Errors
    ///
    /// Those, [`ConnectorError::ChecksumOfWritable`], and [`ConnectorError::NoOfferWord`].
    pub async fn create_writable_with<L>(
        &self,
        local: L,
        options: OperationOptions,
    ) -> Result<WritableOperation, ConnectorError>
    where
        L: TryInto<DescriptorList>,
        ConnectorError: From<L::Error>,
    {
        self.create_writable_as((Naming::Random, None), self.admit(local)?, options).await
    }

    /// Offers memory to be written, by metadata or by a ticket.
    pub(crate) async fn create_writable_as(
        &self,
        (naming, written): (Naming, Option<WrittenBlocks>),
        local: DescriptorList,
        options: OperationOptions,
    ) -> Result<WritableOperation, ConnectorError> {
        if options.has_checksum() {
            return Err(ConnectorError::ChecksumOfWritable);
        }
        if options.checks_word() {
            return Err(ConnectorError::NoOfferWord { reason: Self::CLAIMED });
        }
        let connection = &self.shared.connection;
        let (spec, options) = self.offered((OperationKind::Write, naming), local, options).await?;
        // The wait may have been long.
        self.refuse_if_draining()?;
        let (driver, executor) = (connection.driver(), connection.executor());
        Ok(WritableOperation::offer(driver, executor, spec.of_blocks(written), options)?)
    }

    /// Begins a read of a peer's offer into local memory.
    ///
    /// Until the operation ends, the memory can be neither read nor changed here.
    ///
    /// If the offer carries a [checksum](OperationOptions::checksum), the bytes are verified before the operation completes: it
    /// ends with [`TransportError::Corrupted`] if they differ. The owner's operation has completed by then.
    ///
    /// Cancel safe: if the future is dropped, nothing is transferred or the transfer is cancelled.
    ///
    /// # Errors
    ///
    /// [`ConnectorError`]: the two sides do not pair, the memory is leased or cannot be registered, the
    /// peer cannot be reached, or the offer carries a checksum and the memory is not the host's.
    pub async fn begin_read<L>(
        &self,
        remote: &RdmaMetadata,
        local: L,
    ) -> Result<ReadOperation, ConnectorError>
    where
        L: TryInto<DescriptorList>,
        ConnectorError: From<L::Error>,
    {
        self.begin_read_with(remote, local, self.default_options()).await
    }

    /// As [`begin_read`](Self::begin_read), with options instead of the connector's timeout.
    ///
    /// # Errors
    ///
    /// As there.
    pub async fn begin_read_with<L>(
        &self,
        remote: &RdmaMetadata,
        local: L,
        options: OperationOptions,
    ) -> Result<ReadOperation, ConnectorError>
    where
        L: TryInto<DescriptorList>,
        ConnectorError: From<L::Error>,
    {
        let local = self.admit(local)?;
        let driver = self.shared.connection.driver();
        let (prepared, local, options) =
            self.counted(self.prepared(OperationKind::Read, local, remote, options).await)?;
        self.refuse_if_draining()?;
        self.counted(ReadOperation::begin(driver, prepared, local, options))
    }

    /// Begins a write of local memory into a peer's offer.
    ///
    /// Until the operation ends, the memory can be read here but not changed.
    ///
    /// Cancel safe: if the future is dropped, nothing is transferred or the transfer is cancelled.
    ///
    /// # Errors
    ///
    /// [`ConnectorError`]: the two sides do not pair, the memory is leased or cannot be registered, or the
    /// peer cannot be reached.
    pub async fn begin_write<L>(
        &self,
        local: L,
        remote: &RdmaMetadata,
    ) -> Result<WriteOperation, ConnectorError>
    where
        L: TryInto<DescriptorList>,
        ConnectorError: From<L::Error>,
    {
        self.begin_write_with(local, remote, self.default_options()).await
    }

    /// As [`begin_write`](Self::begin_write), with options instead of the connector's timeout.
    ///
    /// # Errors
    ///
    /// As there.
    pub async fn begin_write_with<L>(
        &self,
        local: L,
        remote: &RdmaMetadata,
        options: OperationOptions,
    ) -> Result<WriteOperation, ConnectorError>
    where
        L: TryInto<DescriptorList>,
        ConnectorError: From<L::Error>,
    {
        let local = self.admit(local)?;
        let (prepared, local, options) = self.prepare_write(local, remote, options).await?;
        self.begin_prepared(prepared, local, options)
    }

    /// Prepares a write that its caller begins.
    pub(crate) async fn prepare_write(
        &self,
        local: DescriptorList,
        remote: &RdmaMetadata,
        options: OperationOptions,
    ) -> Result<(Box<dyn Execution>, DescriptorList, OperationOptions), ConnectorError> {
        self.check_process()?;
        self.counted(self.prepared(OperationKind::Write, local, remote, options).await)
    }

    /// Begins a write that was prepared.
    pub(crate) fn begin_prepared(
        &self,
        execution: Box<dyn Execution>,
        local: DescriptorList,
        options: OperationOptions,
    ) -> Result<WriteOperation, ConnectorError> {
        self.refuse_if_draining()?;
        let driver = self.shared.connection.driver();
        self.counted(WriteOperation::begin(driver, execution, local, options))
    }

    /// Declines an offer: the owner's operation ends with [`OperationError::Declined`](nixl_ops::OperationError::Declined)
    /// instead of waiting for its deadline. Dynamo's profile has no such message; this process still refuses to use the offer.
    ///
    /// Cancel safe. It takes no longer than the connector's timeout.
    ///
    /// # Errors
    ///
    /// [`ConnectorError`]: the offer has been used by this process or has ended, or its owner cannot be reached.
    pub async fn decline(&self, remote: &RdmaMetadata) -> Result<(), ConnectorError> {
        self.check_process()?;
        let connection = &self.shared.connection;
        let key = remote.notification_key();
        let readers = remote.terms().map_or(1, |terms| terms.readers().get());
        let record = self.remembered(remote)?;
        let used = SpentKeys::of_this_process().begin(key, readers, record)?;
        let tell = async {
            match (connection.slot(remote).await?, remote.terms()) {
                (Some(slot), _) => slot.decline()?,
                (None, Some(terms)) => {
                    let peer = connection.connect(remote).await?;
                    connection.driver().decline(key, terms, &peer).await?;
                }
                // Dynamo's profile and version 3 have no field for it.
                (None, None) => {}
            }
            Ok::<_, ConnectorError>(())
        };
        self.within_timeout(tell).await?;
        used.spend();
        SpentKeys::of_this_process().disown(key, record);
        Ok(())
    }

    /// Ends the connector: no operation begins ([`ConnectorError::Draining`]), and running ones continue to their end or to the
    /// deadline. Then remaining offers are revoked. If no operation is left, connected peers are notified to drop their state of
    /// it. Peers on this host see revoked offers in the slots.
    ///
    /// The drain does not wait for operations past their own deadline and drain time, or for memory in quarantine:
    /// [`stats`](Self::stats) counts them.
    ///
    /// Cancel safe: if the future is dropped, the connector still begins no operation, and the call can be repeated.
    pub async fn drain(&self, deadline: Duration) -> Drained {
        // The operations are the parent's.
        if self.shared.is_inherited() {
            return Drained::new(0, 0);
        }
        let connection = &self.shared.connection;
        self.shared.draining.store(true, Ordering::SeqCst);
        let options = OperationOptions::new().timeout(deadline);
        let ended = connection.driver().until_drained(options).await.is_ok();
        let left = match ended {
            true => Drained::new(0, 0),
            false => Drained::new(connection.driver().awaited_offers(), self.stats().active()),
        };
        connection.driver().revoke_offers();
        if self.stats().active() == 0 {
            connection.tell_leaving().await;
        }
        left
    }

    /// The connector's health, determined within about a second. Cancel safe.
    pub async fn health(&self) -> Health {
        let (problems, is_blocked) = match self.shared.is_inherited() {
            true => (vec![TransportError::Forked], false),
            false => self.shared.connection.problems().await,
        };
        let is_draining = self.shared.draining.load(Ordering::SeqCst);
        Health { is_draining, problems, is_blocked }
    }

    fn admit<L>(&self, local: L) -> Result<DescriptorList, ConnectorError>
    where
        L: TryInto<DescriptorList>,
        ConnectorError: From<L::Error>,
    {
        self.check_process()?;
        self.refuse_if_draining()?;
        Ok(local.try_into()?)
    }

    pub(crate) fn connection(&self) -> &Connection {
        &self.shared.connection
    }

    pub(crate) fn check_process(&self) -> Result<(), TransportError> {
        self.shared.connection.driver().check_process()
    }

    pub(crate) fn default_options(&self) -> OperationOptions {
        match self.shared.timeout {
            Some(timeout) => OperationOptions::new().timeout(timeout),
            None => OperationOptions::new(),
        }
    }

    /// Awaits what may wait for the connection's thread, within the connector's timeout.
    pub(crate) async fn within_timeout<T>(
        &self,
        future: impl Future<Output = Result<T, ConnectorError>>,
    ) -> Result<T, ConnectorError> {
        let driver = self.shared.connection.driver();
        let (output, _) = driver.with_timeout(self.default_options(), future).await?;
        output
    }

    /// Counts an operation that fails before it reaches the driver.
    fn counted<T, E: Into<ConnectorError>>(
        &self,
        begun: Result<T, E>,
    ) -> Result<T, ConnectorError> {
        begun.map_err(Into::into).inspect_err(|error: &ConnectorError| {
            self.shared.connection.driver().note_unbegun(error.cause());
        })
    }

    pub(crate) fn refuse_if_draining(&self) -> Result<(), ConnectorError> {
        match self.shared.draining.load(Ordering::SeqCst) {
            true => Err(ConnectorError::Draining),
            false => Ok(()),
        }
    }
}

impl fmt::Debug for Connector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connector")
            .field("name", &self.name())
            .field("executor", self.shared.connection.executor())
            .field("engine", self.shared.connection.transport())
            .field("pages_of_peers", self.shared.connection.slots())
            .field("stats", &self.stats())
            .finish_non_exhaustive()
    }
}
