//! The connector, which makes operations.

mod initiating;
mod offering;

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use nixl_descriptor::{Access, BufferPool, Descriptor, DescriptorList, Region};
use nixl_device::{LeakInChild, tcp_gives_up_after};
use nixl_metadata::{OperationKind, RdmaMetadata};
use nixl_ops::{
    EngineSetting, OperationOptions, ReadOperation, ReadableOperation, SpentKeys, TransportError,
    WritableOperation, WriteOperation,
};

pub(crate) use self::offering::{Naming, Offers, token_of_ticket};

use crate::connection::Connection;
use crate::{ConnectionStats, ConnectorBuilder, ConnectorError, Drained, Health};

/// Makes operations, and owns the connection to the engine that carries them.
///
/// Cheap to clone; all clones share one connection, which ends when the last clone and the last operation
/// are gone.
///
/// Deadlines count from the call: they bound registering memory and connecting to the peer as well as the transfer.
///
/// None of its calls blocks the thread: what blocks in the engine (registering memory, connecting to a peer for
/// the first time) runs on a thread of the connection's own, and once that is cached an operation begins
/// without a task switch.
///
/// A connector is of the process that built it. In one that was forked from it, every call is an error at once
/// ([`TransportError::Forked`]), also the waits that were begun before, once they are polled; nothing that is done with it there, or
/// dropped, reaches the parent's threads, files or shared pages. Such a process builds a connector of its own, and uses memory of
/// its own with it.
#[derive(Clone)]
pub struct Connector {
    shared: LeakInChild<Arc<Shared>>,
}

struct Shared {
    connection: Connection,
    timeout: Option<Duration>,
    offers: Offers,
    draining: AtomicBool,
    /// How long a peer's access may be on its way by TCP.
    arrival: Duration,
}

impl Connector {
    /// Longer lists are walked on a thread of the connection's: some nanoseconds a descriptor, several times.
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

    /// The name under which peers know this connector. It differs with every connector ever built.
    pub fn name(&self) -> &str {
        self.shared.connection.transport().agent_name()
    }

    /// The name of this machine.
    pub fn hostname(&self) -> &str {
        self.shared.connection.info().host().hostname()
    }

    /// Whether a CUDA driver with at least one device is there.
    pub fn is_cuda_available(&self) -> bool {
        nixl_device::cuda::is_available()
    }

    /// The settings that the engine was given, with where each is from: options, the environment, or a choice for this machine.
    /// Empty with an engine that has none.
    pub fn engine_settings(&self) -> Vec<EngineSetting> {
        self.shared.connection.transport().settings()
    }

    /// Counts of the operations, offers and peers of now. All zero in a process that was forked from that of the connector.
    pub fn stats(&self) -> ConnectionStats {
        if self.shared.is_inherited() {
            return ConnectionStats::default();
        }
        self.shared.connection.stats()
    }

    /// Host memory for one request, or for as long as it is kept: `len` bytes with the bytes that an earlier buffer left in them.
    ///
    /// It comes from the [`BufferPool`] of the process, and goes back there when the last handle is gone. That is the memory
    /// to offer: it is registered once for many buffers (at the first offer), peers of this machine map it once, and a peer
    /// that writes too late meets memory without an owner. A `Vec` costs a registration each time, and a late write to it
    /// meets what the allocator has put there.
    ///
    /// Peers may reach other buffers of the pool too: see [`BufferPool::buffer`]. Does not block on the engine.
    ///
    /// # Errors
    ///
    /// [`ConnectorError::Memory`]: no bytes were asked for, or the system has no memory.
    pub fn buffer(&self, len: usize) -> Result<Region, ConnectorError> {
        self.check_process()?;
        Ok(BufferPool::global().buffer(len)?)
    }

    /// Offers memory to be read by one peer, which gets [`metadata`](ReadableOperation::metadata).
    ///
    /// Until the operation ends, the memory can be read here but not changed. Memory with work
    /// [pending](DescriptorList::pending) on it is offered once that is done, however long it takes if there is no deadline.
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
    /// As there, and [`ConnectorError::ChecksumOfDevice`].
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
        // It may have waited for long.
        self.refuse_if_draining()?;
        Ok(ReadableOperation::offer(connection.driver(), connection.executor(), spec, options)?)
    }

    /// Offers memory to be written by one peer, which gets [`metadata`](WritableOperation::metadata).
    ///
    /// Until the operation ends, the memory can be neither read nor changed here. Memory with work
    /// [pending](DescriptorList::pending) on it is offered once that is done, however long it takes if there is no deadline.
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
    /// As there, and [`ConnectorError::ChecksumOfWritable`].
    pub async fn create_writable_with<L>(
        &self,
        local: L,
        options: OperationOptions,
    ) -> Result<WritableOperation, ConnectorError>
    where
        L: TryInto<DescriptorList>,
        ConnectorError: From<L::Error>,
    {
        self.create_writable_as(Naming::Random, self.admit(local)?, options).await
    }

    /// Offers memory to be written, by metadata or by a ticket.
    pub(crate) async fn create_writable_as(
        &self,
        naming: Naming,
        local: DescriptorList,
        options: OperationOptions,
    ) -> Result<WritableOperation, ConnectorError> {
        if options.has_checksum() {
            return Err(ConnectorError::ChecksumOfWritable);
        }
        if let Some(index) = local.iter().position(|d| d.access() != Access::ReadWrite) {
            return Err(ConnectorError::ReadOnly { index });
        }
        let is_foreign =
            |d: &Descriptor| d.device().is_host() && d.region().shared_name().is_none();
        if self.shared.offers.refuse_foreign
            && let Some(index) = local.iter().position(is_foreign)
        {
            return Err(ConnectorError::ForeignMemory { index });
        }
        let connection = &self.shared.connection;
        let (spec, options) = self.offered((OperationKind::Write, naming), local, options).await?;
        // It may have waited for long.
        self.refuse_if_draining()?;
        Ok(WritableOperation::offer(connection.driver(), connection.executor(), spec, options)?)
    }

    /// Reads the memory that a peer offered into local memory. The transfer has begun when this returns.
    ///
    /// Until the operation ends, the memory can be neither read nor changed here.
    ///
    /// If the offer carries a [checksum](OperationOptions::checksum), the bytes are verified before the operation completes:
    /// it ends with [`TransportError::Corrupted`] if they are others. The owner's operation has completed by then.
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

    /// Writes local memory into the memory that a peer offered. The transfer has begun when this returns.
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
        let driver = self.shared.connection.driver();
        let (prepared, local, options) =
            self.counted(self.prepared(OperationKind::Write, local, remote, options).await)?;
        self.refuse_if_draining()?;
        self.counted(WriteOperation::begin(driver, prepared, local, options))
    }

    /// Tells the owner of an offer that this process does not use it, nor will: its operation ends with
    /// [`OperationError::Declined`](nixl_ops::OperationError::Declined) instead of waiting for its deadline. Nothing is told
    /// of an offer of Dynamo's profile, which cannot say so; this process refuses to use it all the same.
    ///
    /// Cancel safe.
    ///
    /// # Errors
    ///
    /// [`ConnectorError`]: the offer has been used by this process or has ended, or its owner cannot be reached.
    pub async fn decline(&self, remote: &RdmaMetadata) -> Result<(), ConnectorError> {
        self.check_process()?;
        let connection = &self.shared.connection;
        let key = remote.notification_key();
        let readers = remote.terms().map_or(1, |terms| terms.readers().get());
        let times = self.remembered(remote)?;
        let used = SpentKeys::of_this_process().begin(key, readers, times)?;
        match (connection.slot(remote).await?, remote.terms()) {
            (Some(slot), _) => slot.decline()?,
            (None, Some(terms)) => {
                let peer = connection.connect(remote).await?;
                connection.driver().decline(key, terms, &peer).await?;
            }
            // Dynamo's profile and version 3 have no field for it.
            (None, None) => {}
        }
        used.spend();
        SpentKeys::of_this_process().disown(key, times);
        Ok(())
    }

    /// Brings the connector to an end: from now on no operation begins ([`ConnectorError::Draining`]), and those under way go on until
    /// they end, or until the deadline. Then the offers that are left are revoked, and, if no operation is left, the peers that this
    /// connector is connected to are notified to forget it. Peers of this host learn of revoked offers by themselves.
    ///
    /// Not waited for are operations that have outlived their own deadline and drain time, and memory in quarantine:
    /// [`stats`](Self::stats) shows them.
    ///
    /// Cancel safe: if the future is dropped, the connector begins no operation all the same, and the call can be repeated.
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

    /// How the connector is now, within a second or so. Cancel safe.
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

    /// Counts an operation that fails before the driver has it.
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
            .field("stats", &self.stats())
            .finish_non_exhaustive()
    }
}
