//! The connector, which makes operations.

use std::fmt;
use std::num::{NonZeroU32, NonZeroU64};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, UNIX_EPOCH};

use nixl_descriptor::{
    Access, BufferPool, Descriptor, DescriptorList, LeaseMode, Leased, Leases, Region, Registration,
};
use nixl_device::{LeakInChild, tcp_gives_up_after};
use nixl_metadata::{
    AgentMetadata, Limits, NotificationKey, OfferTerms, OperationKind, RdmaMetadata,
    SerializedDescriptor,
};
use nixl_ops::{
    ClaimDemand, Clock, EndedOffer, EngineSetting, Execution, OfferSlot, OfferSpec, OfferUse,
    OperationOptions, PathPolicy, PeerId, ReadOperation, ReadableOperation, RemoteSlot, SpentKeys,
    TransferRequest, Transport, TransportError, WritableOperation, WriteOperation, pair,
};

use crate::checksum::{self, Verification};
use crate::connection::{Connection, ConnectionStats, wants_reconnect};
use crate::offload::Offloaded;
use crate::{ConnectorBuilder, ConnectorError, Drained, Health};

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

/// How offers are made.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Offers {
    /// Host memory that the library did not allocate is not offered for writing.
    pub(crate) refuse_foreign: bool,
    pub(crate) claims: ClaimDemand,
    pub(crate) life_time: Duration,
}

impl Default for Offers {
    fn default() -> Self {
        let (claims, life_time) = (ClaimDemand::SameHost, OfferSpec::LIFE_TIME);
        Self { refuse_foreign: false, claims, life_time }
    }
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

    /// What is in hand now. Nothing, in a process that was forked from that of the connector.
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
            self.prepared(OperationKind::Read, local, remote, options).await?;
        self.refuse_if_draining()?;
        Ok(ReadOperation::begin(driver, prepared, local, options)?)
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
            self.prepared(OperationKind::Write, local, remote, options).await?;
        self.refuse_if_draining()?;
        Ok(WriteOperation::begin(driver, prepared, local, options)?)
    }

    /// Brings the connector to an end: from now on no operation begins ([`ConnectorError::Draining`]), and those in hand go on until
    /// they end, or until the deadline. Then the offers that are left are revoked, and the peers that this connector is connected to are
    /// notified to forget it. Peers of this host learn of revoked offers by themselves.
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
            false => Drained::new(connection.driver().awaited_offers(), self.stats().active),
        };
        connection.driver().revoke_offers();
        connection.tell_leaving().await;
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

    pub(crate) fn refuse_if_draining(&self) -> Result<(), ConnectorError> {
        match self.shared.draining.load(Ordering::SeqCst) {
            true => Err(ConnectorError::Draining),
            false => Ok(()),
        }
    }

    /// [`offer`](Self::offer) within the deadline, off this thread if the list is long.
    async fn offered(
        &self,
        kind: (OperationKind, Naming),
        local: DescriptorList,
        options: OperationOptions,
    ) -> Result<(OfferSpec, OperationOptions), ConnectorError> {
        let connection = &self.shared.connection;
        if local.len() <= Self::WALKED_HERE {
            let offer = self.offer(kind, local, options);
            let (spec, options) = connection.driver().with_timeout(options, offer).await?;
            return Ok((spec?, options));
        }
        let me = self.clone();
        let work = async move { me.offer(kind, local, options).await };
        let offloaded = Offloaded::new(connection.work()?, work);
        let (spec, options) = connection.driver().with_timeout(options, offloaded).await?;
        Ok((spec??, options))
    }

    /// [`prepare`](Self::prepare) within the deadline, off this thread if one of the lists is long.
    async fn prepared(
        &self,
        kind: OperationKind,
        local: DescriptorList,
        remote: &RdmaMetadata,
        options: OperationOptions,
    ) -> Result<(Box<dyn Execution>, DescriptorList, OperationOptions), ConnectorError> {
        let connection = &self.shared.connection;
        let policy = options.path_policy();
        if local.len().max(remote.descriptors().len()) <= Self::WALKED_HERE {
            let prepare = self.prepare(kind, &local, remote, policy);
            let (execution, options) = connection.driver().with_timeout(options, prepare).await?;
            return Ok((execution?, local, options));
        }
        let (me, remote) = (self.clone(), remote.clone());
        let work = async move {
            let execution = me.prepare(kind, &local, &remote, policy).await?;
            Ok::<_, ConnectorError>((execution, local))
        };
        let offloaded = Offloaded::new(connection.work()?, work);
        let (prepared, options) = connection.driver().with_timeout(options, offloaded).await?;
        let (execution, local) = prepared??;
        Ok((execution, local, options))
    }

    async fn offer(
        &self,
        (kind, naming): (OperationKind, Naming),
        local: DescriptorList,
        options: OperationOptions,
    ) -> Result<OfferSpec, ConnectorError> {
        let connection = &self.shared.connection;
        let mode = match kind {
            OperationKind::Read => LeaseMode::Read,
            OperationKind::Write => LeaseMode::Write,
        };
        if options.has_checksum() {
            checksum::check_source(&local)?;
        }
        let leased = Leased::from(Leases::acquire(local.as_slice(), mode)?);
        connection.run(connection.executor().prepare(&local, None)).await?;
        let (registrations, agent) = connection.register_and_export(&local).await?;
        let descriptors: Vec<_> = local
            .iter()
            .map(|d| SerializedDescriptor::new(d.device(), d.address(), d.len() as u64))
            .collect::<Result<_, _>>()?;
        let key = NotificationKey::random();
        let token = naming.token(&key);
        // Peers may use the memory as soon as they have the metadata, and not before its work is done.
        connection.driver().ready(&local).await?;
        let checksum = match options.has_checksum() {
            true => Some(checksum::of(&local, &leased, connection).await?),
            false => None,
        };
        let defaults = &self.shared.offers;
        let life_time = options.offer_life_time().unwrap_or(defaults.life_time);
        let readers = match kind {
            OperationKind::Read => options.reader_count(),
            OperationKind::Write => NonZeroU32::MIN,
        };
        let claims = options.claim_demand().unwrap_or(defaults.claims);
        // A late access meets memory of the pool that is still mapped.
        let late = connection.skew().saturating_add(self.shared.arrival);
        BufferPool::global().retain_for(life_time.saturating_add(late));
        let metadata = RdmaMetadata::new(kind, descriptors, agent, key.clone())?
            .with_peer(connection.info().clone())
            .with_shares(connection.shares(&local))?
            .with_terms(terms(&**connection.clock(), life_time, claims, (readers, token))?)?;
        let metadata = match checksum {
            Some(checksum) => metadata.with_checksum(checksum)?,
            None => metadata,
        };
        let slot = match readers.get() <= OfferSlot::MAX_READERS {
            true => connection.driver().arm_slot(&key, kind),
            false => None,
        };
        let metadata = match &slot {
            Some(slot) => metadata.with_doorbell(slot.doorbell())?,
            None => metadata,
        };
        // No peer with default limits could read more.
        Limits::default().check(&metadata)?;
        Ok(OfferSpec::new(metadata, local, leased, registrations.to_vec())
            .with_slot(slot)
            .with_life_time(life_time))
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

    /// The time, and until when the key of an offer is remembered: until no initiator begins any more, and the last has ended.
    /// Both since 1970.
    ///
    /// # Errors
    ///
    /// [`TransportError::OfferEnded`] if the life time of the offer is over by this host's clock.
    fn remembered(&self, remote: &RdmaMetadata) -> Result<(Duration, Duration), TransportError> {
        let now = self.shared.connection.clock().unix_time();
        let expires = match remote.terms() {
            Some(terms) => Duration::from_millis(terms.expires_unix_millis().get()),
            None => now.saturating_add(OfferSpec::LIFE_TIME),
        };
        if now >= expires {
            return Err(TransportError::OfferEnded { why: EndedOffer::Expired });
        }
        let deadline = self.shared.timeout.unwrap_or_default();
        let more = deadline.saturating_add(self.shared.connection.skew());
        Ok((now, expires.saturating_add(more)))
    }

    async fn prepare(
        &self,
        kind: OperationKind,
        local: &DescriptorList,
        remote: &RdmaMetadata,
        policy: PathPolicy,
    ) -> Result<Box<dyn Execution>, ConnectorError> {
        pair(kind, local, remote)?;
        let mode = match kind {
            OperationKind::Read => LeaseMode::Write,
            OperationKind::Write => LeaseMode::Read,
        };
        let leased = Leased::from(Leases::acquire(local.as_slice(), mode)?);
        let connection = &self.shared.connection;
        let executor = connection.executor();
        let memory = (local, &leased);
        let verification = match remote.checksum() {
            Some(checksum) => Some(Verification::new(checksum, memory, connection)?),
            None => None,
        };
        if executor.is_local(local, remote) {
            let request = TransferRequest::intra_process(kind, memory, remote).under(policy);
            return Ok(Verification::after(executor.execute(request)?, verification));
        }
        let times = self.remembered(remote)?;
        let slot = connection.slot(remote).await?;
        let used = match &slot {
            // The slot refuses a second use itself, whichever process it comes from.
            Some(slot) if slot.refuses_reuse() => None,
            _ => {
                let readers = remote.terms().map_or(1, |terms| terms.readers().get());
                let keys = SpentKeys::of_this_process();
                Some(keys.begin(remote.notification_key(), readers, times)?)
            }
        };
        connection.run(executor.prepare(local, Some(remote))).await?;
        let peer = connection.connect(remote).await?;
        let registrations = connection.register(local).await?;
        let initiator_metadata = match executor.needs_local_metadata(local, remote) {
            true => Some(connection.local_metadata().await?),
            false => None,
        };
        let to = ToPeer { kind, memory, remote, policy, slot: slot.as_ref(), notifies: true };
        let (execution, peer) =
            self.execute(&to, (peer, registrations), initiator_metadata).await?;
        let execution = self.claiming(execution, remote, &peer, slot.is_some()).await?;
        Ok(Verification::after(OfferUse::of(execution, slot, used), verification))
    }

    /// Prepares a read of a peer's memory, of which the peer is not told, and says which peer it is: `known` if that was met and
    /// all of the memory was reached then.
    pub(crate) async fn prepare_silently(
        &self,
        memory: (&DescriptorList, &Leased),
        remote: &RdmaMetadata,
        policy: PathPolicy,
        known: Option<&PeerId>,
    ) -> Result<(Box<dyn Execution>, PeerId), ConnectorError> {
        let connection = &self.shared.connection;
        connection.run(connection.executor().prepare(memory.0, Some(remote))).await?;
        let peer = match known {
            // If the engine has given it up, the executor says so.
            Some(peer) => peer.clone(),
            None => connection.connect(remote).await?,
        };
        let registrations = connection.register(memory.0).await?;
        let kind = OperationKind::Read;
        let to = ToPeer { kind, memory, remote, policy, slot: None, notifies: false };
        self.execute(&to, (peer, registrations), None).await
    }

    /// Has the executor prepare it; again after a reconnect if the engine has dropped the peer or registrations, which other
    /// operations' reconnects may cause meanwhile.
    async fn execute(
        &self,
        to: &ToPeer<'_>,
        (mut peer, registrations): (PeerId, Arc<[Registration]>),
        initiator_metadata: Option<AgentMetadata>,
    ) -> Result<(Box<dyn Execution>, PeerId), ConnectorError> {
        const RECONNECTS: u32 = 4;
        let connection = &self.shared.connection;
        let executor = connection.executor();
        let mut reconnects = 0;
        loop {
            let prepared = (registrations.clone(), initiator_metadata.clone());
            let request = to.request(connection.transport(), &peer, prepared.0, prepared.1);
            let error = match executor.execute(request) {
                Ok(execution) => return Ok((execution, peer)),
                Err(error) => error,
            };
            if reconnects == RECONNECTS || !wants_reconnect(&error) {
                return Err(error.into());
            }
            reconnects += 1;
            connection.forget(&peer);
            peer = connection.reconnect(to.remote).await?;
        }
    }

    /// The execution, behind a claim by a message if the offer's terms demand one that its slot does not give.
    async fn claiming(
        &self,
        execution: Box<dyn Execution>,
        remote: &RdmaMetadata,
        peer: &PeerId,
        is_mapped: bool,
    ) -> Result<Box<dyn Execution>, ConnectorError> {
        let connection = &self.shared.connection;
        let Some(terms) = remote.terms() else { return Ok(execution) };
        let same_host =
            || remote.peer().is_some_and(|peer| peer.host().same_host(connection.info().host()));
        let driver = connection.driver();
        let demanded = match terms.claims() {
            ClaimDemand::WhereMapped => false,
            ClaimDemand::SameHost => same_host(),
            // What a later release demands is at least this.
            _ => true,
        };
        if is_mapped || remote.operation_kind() == OperationKind::Read {
            return Ok(execution);
        }
        let metadata = connection.local_metadata().await?;
        Ok(driver.claiming(execution, (remote, terms), peer, &metadata, demanded))
    }
}

/// By what initiators find an offer.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Naming {
    /// Metadata: a key, and a token that is known to none but its holders.
    Random,
    /// A ticket, which has room for the key: the token is part of it, and both are as secret.
    Ticket,
}

impl Naming {
    fn token(self, key: &NotificationKey) -> NonZeroU64 {
        match self {
            Self::Random => low_half(uuid::Uuid::new_v4()),
            Self::Ticket => token_of_ticket(key),
        }
    }
}

/// The token of an offer whose key is in a ticket.
pub(crate) fn token_of_ticket(key: &NotificationKey) -> NonZeroU64 {
    low_half(uuid::Uuid::parse_str(key.as_str()).unwrap_or_default())
}

fn low_half(uuid: uuid::Uuid) -> NonZeroU64 {
    NonZeroU64::new(uuid.as_u128() as u64).unwrap_or(NonZeroU64::MIN)
}

/// A transfer to or from a peer's memory.
struct ToPeer<'a> {
    kind: OperationKind,
    memory: (&'a DescriptorList, &'a Leased),
    remote: &'a RdmaMetadata,
    policy: PathPolicy,
    slot: Option<&'a RemoteSlot>,
    notifies: bool,
}

impl<'a> ToPeer<'a> {
    fn request(
        &self,
        transport: &'a Arc<dyn Transport>,
        peer: &'a PeerId,
        registrations: Arc<[Registration]>,
        initiator_metadata: Option<AgentMetadata>,
    ) -> TransferRequest<'a> {
        let &Self { kind, memory, remote, policy, slot, notifies } = self;
        let request =
            TransferRequest::inter_process(kind, memory, remote, transport, peer, registrations)
                .with_initiator_metadata(initiator_metadata)
                .with_slot(slot)
                .under(policy);
        match notifies {
            true => request,
            false => request.without_notification(),
        }
    }
}

/// The terms of an offer that is made now.
fn terms(
    clock: &dyn Clock,
    life_time: Duration,
    claims: ClaimDemand,
    (readers, token): (NonZeroU32, NonZeroU64),
) -> Result<OfferTerms, ConnectorError> {
    let now = clock.unix_time();
    let expires = UNIX_EPOCH + now.saturating_add(life_time);
    let made = u64::try_from(now.as_millis()).unwrap_or(u64::MAX);
    let terms = OfferTerms::new(expires, token)?.with_made_unix_millis(made);
    Ok(terms.with_claims(claims).with_readers(readers))
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
