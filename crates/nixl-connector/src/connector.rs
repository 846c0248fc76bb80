//! The connector: where operations come from.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use nixl_descriptor::{Access, DescriptorList, LeaseMode, LeaseSet, Leases};
use nixl_metadata::{NotificationKey, OperationKind, RdmaMetadata, SerializedDescriptor};
use nixl_ops::{
    Execution, OfferSpec, OperationOptions, PathPolicy, ReadOperation, ReadableOperation,
    TransferRequest, WritableOperation, WriteOperation, pair,
};

use crate::connection::{Connection, ConnectionStats, wants_reconnect};
use crate::{ConnectorBuilder, ConnectorError};

/// Makes operations, and owns the connection to the engine that carries them.
///
/// Cheap to clone; all clones share one connection, which ends when the last clone and the last operation
/// are gone.
///
/// Deadlines count from the call: they bound registering memory and meeting the peer as well as the transfer.
///
/// None of its calls blocks the thread: what blocks in the engine (registering memory, meeting a peer for
/// the first time) runs on a thread of the connection's own, and once that is cached an operation begins
/// without a task switch.
#[derive(Clone)]
pub struct Connector {
    shared: Arc<Shared>,
}

struct Shared {
    connection: Connection,
    timeout: Option<Duration>,
}

impl Connector {
    /// Starts to configure a connector.
    pub fn builder() -> ConnectorBuilder {
        ConnectorBuilder::new()
    }

    pub(crate) fn new(connection: Connection, timeout: Option<Duration>) -> Self {
        Self { shared: Arc::new(Shared { connection, timeout }) }
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

    /// What is in hand now.
    pub fn stats(&self) -> ConnectionStats {
        self.shared.connection.stats()
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
        self.create_readable_with(local, self.options()).await
    }

    /// As [`create_readable`](Self::create_readable), with options instead of the connector's timeout.
    ///
    /// # Errors
    ///
    /// As there.
    pub async fn create_readable_with<L>(
        &self,
        local: L,
        options: OperationOptions,
    ) -> Result<ReadableOperation, ConnectorError>
    where
        L: TryInto<DescriptorList>,
        ConnectorError: From<L::Error>,
    {
        let local = local.try_into()?;
        let connection = &self.shared.connection;
        let offer = self.offer(OperationKind::Read, local);
        let (spec, options) = connection.driver().within(options, offer).await?;
        let spec = spec?;
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
        self.create_writable_with(local, self.options()).await
    }

    /// As [`create_writable`](Self::create_writable), with options instead of the connector's timeout.
    ///
    /// # Errors
    ///
    /// As there.
    pub async fn create_writable_with<L>(
        &self,
        local: L,
        options: OperationOptions,
    ) -> Result<WritableOperation, ConnectorError>
    where
        L: TryInto<DescriptorList>,
        ConnectorError: From<L::Error>,
    {
        let local = local.try_into()?;
        if let Some(index) = local.iter().position(|d| d.access() != Access::ReadWrite) {
            return Err(ConnectorError::ReadOnly { index });
        }
        let connection = &self.shared.connection;
        let offer = self.offer(OperationKind::Write, local);
        let (spec, options) = connection.driver().within(options, offer).await?;
        let spec = spec?;
        Ok(WritableOperation::offer(connection.driver(), connection.executor(), spec, options)?)
    }

    /// Reads the memory that a peer offered into local memory. The transfer has begun when this returns.
    ///
    /// Until the operation ends, the memory can be neither read nor changed here.
    ///
    /// Cancel safe: if the future is dropped, nothing is transferred or the transfer is cancelled.
    ///
    /// # Errors
    ///
    /// [`ConnectorError`]: the two sides do not pair, the memory is leased or cannot be registered, or the
    /// peer cannot be reached.
    pub async fn begin_read<L>(
        &self,
        remote: &RdmaMetadata,
        local: L,
    ) -> Result<ReadOperation, ConnectorError>
    where
        L: TryInto<DescriptorList>,
        ConnectorError: From<L::Error>,
    {
        self.begin_read_with(remote, local, self.options()).await
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
        let local = local.try_into()?;
        let driver = self.shared.connection.driver();
        let prepare = self.prepare(OperationKind::Read, &local, remote, options.path_policy());
        let (prepared, options) = driver.within(options, prepare).await?;
        let (execution, leases) = prepared?;
        Ok(ReadOperation::begin(driver, execution, local, vec![leases], options)?)
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
        self.begin_write_with(local, remote, self.options()).await
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
        let local = local.try_into()?;
        let driver = self.shared.connection.driver();
        let prepare = self.prepare(OperationKind::Write, &local, remote, options.path_policy());
        let (prepared, options) = driver.within(options, prepare).await?;
        let (execution, leases) = prepared?;
        Ok(WriteOperation::begin(driver, execution, local, vec![leases], options)?)
    }

    fn options(&self) -> OperationOptions {
        match self.shared.timeout {
            Some(timeout) => OperationOptions::new().timeout(timeout),
            None => OperationOptions::new(),
        }
    }

    async fn offer(
        &self,
        kind: OperationKind,
        local: DescriptorList,
    ) -> Result<OfferSpec, ConnectorError> {
        let connection = &self.shared.connection;
        let mode = match kind {
            OperationKind::Read => LeaseMode::Read,
            OperationKind::Write => LeaseMode::Write,
        };
        let leases = Leases::acquire(local.as_slice(), mode)?;
        connection.run(connection.executor().prepare(&local, None)).await?;
        let registrations = connection.register(&local).await?;
        let descriptors: Vec<_> = local
            .iter()
            .map(|d| SerializedDescriptor::new(d.device(), d.address(), d.len() as u64))
            .collect::<Result<_, _>>()?;
        let agent = connection.local_metadata().await?;
        let executor = connection.executor();
        let key = NotificationKey::random();
        let metadata = RdmaMetadata::new(kind, descriptors, agent, key.clone())?
            .with_peer(connection.info().clone())
            .with_shares(executor.shares(&local))?;
        // Peers may use the memory as soon as they have the metadata.
        connection.driver().ready(&local).await?;
        // The last that can fail, so that whoever gets the offer announces or withdraws it.
        let metadata = match executor.doorbell(&key) {
            Some(doorbell) => metadata.with_doorbell(doorbell)?,
            None => metadata,
        };
        Ok(OfferSpec::new(metadata, local, leases, registrations))
    }

    async fn prepare(
        &self,
        kind: OperationKind,
        local: &DescriptorList,
        remote: &RdmaMetadata,
        policy: PathPolicy,
    ) -> Result<(Box<dyn Execution>, LeaseSet), ConnectorError> {
        pair(kind, local, remote)?;
        let mode = match kind {
            OperationKind::Read => LeaseMode::Write,
            OperationKind::Write => LeaseMode::Read,
        };
        let leases = Leases::acquire(local.as_slice(), mode)?;
        let connection = &self.shared.connection;
        let executor = connection.executor();
        if executor.is_local(local, remote) {
            let request = TransferRequest::local(kind, local, remote).under(policy);
            return Ok((executor.execute(request)?, leases));
        }
        connection.run(executor.prepare(local, Some(remote))).await?;
        let peer = connection.connect(remote.agent_metadata()).await?;
        let registrations = connection.register(local).await?;
        let introduction = match executor.introduces(local, remote) {
            true => Some(connection.local_metadata().await?),
            false => None,
        };
        let transport = connection.transport();
        let request = |peer, registrations| {
            TransferRequest::remote(kind, local, remote, transport, peer, registrations)
                .introducing(introduction.clone())
                .under(policy)
        };
        let error = match executor.execute(request(&peer, registrations.clone())) {
            Ok(execution) => return Ok((execution, leases)),
            Err(error) => error,
        };
        // The cache may know a peer, or registrations, that the engine has given up since.
        if !wants_reconnect(&error) {
            return Err(error.into());
        }
        connection.forget(&peer);
        let peer = connection.reconnect(remote.agent_metadata()).await?;
        Ok((executor.execute(request(&peer, registrations))?, leases))
    }
}

impl fmt::Debug for Connector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connector")
            .field("name", &self.name())
            .field("executor", self.shared.connection.executor())
            .field("stats", &self.stats())
            .finish_non_exhaustive()
    }
}
