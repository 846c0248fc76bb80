//! One engine, its driver and its caches.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use nixl_descriptor::{
    CacheLimits, CacheStats, DescriptorList, RegisterError, Registration, RegistrationCache,
};
use nixl_metadata::{AgentMetadata, Limits, PeerInfo, RdmaMetadata};
use nixl_ops::{
    Clock, Driver, DriverConfig, Executor, FoundSlot, Held, Link, PeerId, Preparation, RemoteSlot,
    RemoteSlots, SpentKeys, SpentStats, Transport, TransportError,
};

use crate::ConnectorError;
use crate::control::ControlThread;
use crate::peers::PeerCache;
use crate::quiet::Proofs;

/// What a connector shares between all its operations.
#[derive(Debug)]
pub(crate) struct Connection {
    transport: Arc<dyn Transport>,
    executor: Arc<dyn Executor>,
    driver: Arc<Driver>,
    control: ControlThread,
    registrations: Arc<RegistrationCache>,
    peers: Arc<PeerCache>,
    exported: Arc<Mutex<Option<Exported>>>,
    slots: Arc<RemoteSlots>,
    info: PeerInfo,
    clock: Arc<dyn Clock>,
    skew: Duration,
}

/// The engine's metadata as it was exported last.
#[derive(Debug)]
struct Exported {
    /// How many registrations the cache had made by then: a later one is not in it.
    registered: u64,
    metadata: AgentMetadata,
}

/// What a connection has in hand.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub struct ConnectionStats {
    /// Active operations whose engine is not quiet.
    pub active: usize,
    /// Passive operations that a peer may still use.
    pub passive: usize,
    /// Writable offers that were given up and that a peer may still be writing.
    pub quarantined: Held,
    /// Those of them whose peers know neither claims nor a life time, as those of Dynamo's profile.
    pub quarantined_without_terms: Held,
    /// Readable offers that were given up, whose memory is freed when their life time is over.
    pub retained: Held,
    /// Completions of offers that had ended.
    pub second_completions: u64,
    /// Notifications that ended no operation and were for nothing under way. They are dropped.
    pub unexpected_notifications: u64,
    /// Their bytes.
    pub unexpected_bytes: u64,
    /// Notifications whose sender or content the engine cannot read.
    pub unreadable_notifications: u64,
    /// The keys that this process has used.
    pub spent: SpentStats,
    /// The registration cache.
    pub registrations: CacheStats,
    /// Peers whose metadata is loaded.
    pub peers: usize,
}

impl Connection {
    /// Peers whose metadata is kept loaded.
    const PEERS: usize = 1024;

    pub(crate) fn new(
        transport: Arc<dyn Transport>,
        control: ControlThread,
        executor: Arc<dyn Executor>,
        clock: Arc<dyn Clock>,
        config: DriverConfig,
        info: PeerInfo,
    ) -> Result<Self, ConnectorError> {
        let driver = Driver::spawn(Arc::clone(&transport), Arc::clone(&clock), config)
            .map_err(|e| ConnectorError::Thread { reason: e.to_string() })?;
        let registrations =
            Arc::new(RegistrationCache::new(transport.registrar(), CacheLimits::default()));
        let link = Link::new(
            Arc::clone(&transport),
            Arc::clone(&registrations),
            Arc::new(control.clone()),
            Arc::clone(&clock),
            driver.waker(),
        );
        let executor = executor.attach(link).unwrap_or(executor);
        driver.set_executor(Arc::clone(&executor));
        driver.set_proofs(Arc::new(Proofs::of(&*transport)), Arc::new(control.clone()));
        let info = executor.describe(info);
        Ok(Self {
            transport,
            executor,
            driver: Arc::new(driver),
            control,
            registrations,
            peers: Arc::new(PeerCache::new(Self::PEERS)),
            exported: Arc::default(),
            slots: Arc::default(),
            info,
            clock,
            skew: config.clock_skew,
        })
    }

    pub(crate) fn transport(&self) -> &Arc<dyn Transport> {
        &self.transport
    }

    /// The executor as it is attached to this connection.
    pub(crate) fn executor(&self) -> &Arc<dyn Executor> {
        &self.executor
    }

    pub(crate) fn driver(&self) -> &Arc<Driver> {
        &self.driver
    }

    pub(crate) fn clock(&self) -> &Arc<dyn Clock> {
        &self.clock
    }

    pub(crate) fn skew(&self) -> Duration {
        self.skew
    }

    /// The slot of an offer whose owner is on this host. The first of an owner's is opened on the connection's thread.
    pub(crate) async fn slot(
        &self,
        remote: &RdmaMetadata,
    ) -> Result<Option<RemoteSlot>, ConnectorError> {
        match self.slots.find(remote) {
            FoundSlot::Mapped(slot) => return Ok(Some(slot)),
            FoundSlot::Unknown => {}
            _ => return Ok(None),
        }
        let Some(doorbell) = remote.doorbell().copied() else { return Ok(None) };
        let Some(peer) = remote.peer() else { return Ok(None) };
        // Metadata of version 3 means version 1 of the protocol.
        let version = if remote.terms().is_some() { peer.versions().doorbell() } else { 1 };
        if !self.info.host().same_pid_namespace(peer.host()) || version > RemoteSlots::VERSION {
            return Ok(None);
        }
        let slots = Arc::clone(&self.slots);
        self.control.run(move || slots.open(&doorbell)).await?;
        match self.slots.find(remote) {
            FoundSlot::Mapped(slot) => Ok(Some(slot)),
            _ => Ok(None),
        }
    }

    pub(crate) fn info(&self) -> &PeerInfo {
        &self.info
    }

    pub(crate) fn stats(&self) -> ConnectionStats {
        let driver = self.driver.stats();
        ConnectionStats {
            active: driver.active,
            passive: driver.passive,
            quarantined: driver.quarantined,
            quarantined_without_terms: driver.quarantined_without_terms,
            retained: driver.retained,
            second_completions: driver.second_completions,
            unexpected_notifications: driver.unexpected_notifications,
            unexpected_bytes: driver.unexpected_bytes,
            unreadable_notifications: driver.unreadable_notifications,
            spent: SpentKeys::of_this_process().stats(),
            registrations: self.registrations.stats(),
            peers: self.peers.len(),
        }
    }

    /// Does what must be done first, if anything.
    pub(crate) async fn run(&self, preparation: Option<Preparation>) -> Result<(), ConnectorError> {
        match preparation {
            Some(job) => Ok(self.control.run(job).await??),
            None => Ok(()),
        }
    }

    /// Registers the regions under `list`; those in the cache cost a look-up each.
    pub(crate) async fn register(
        &self,
        list: &DescriptorList,
    ) -> Result<Vec<Registration>, ConnectorError> {
        let mut held: Vec<Registration> = Vec::with_capacity(1);
        let mut last = None;
        for descriptor in list.iter() {
            let region = descriptor.region();
            // Lists usually walk one region; a region seen earlier is a cache hit.
            if last.replace(region.id()) == Some(region.id()) {
                continue;
            }
            let registration = match self.registrations.get(region) {
                Some(registration) => registration,
                None => {
                    let (cache, region) = (Arc::clone(&self.registrations), region.clone());
                    let register = move || -> Result<Registration, RegisterError> {
                        cache.get_or_register(&region)
                    };
                    match self.control.run(register).await? {
                        Ok(registration) => registration,
                        Err(error) if self.executor.reaches(descriptor.device()) => {
                            tracing::debug!(%error, "memory that only the executor will reach");
                            continue;
                        }
                        Err(error) => return Err(error.into()),
                    }
                }
            };
            held.push(registration);
        }
        Ok(held)
    }

    /// This agent's metadata, covering everything registered before the call.
    pub(crate) async fn local_metadata(&self) -> Result<AgentMetadata, ConnectorError> {
        let registered = self.registrations.stats().misses;
        if let Some(exported) = lock(&self.exported).as_ref()
            && exported.registered == registered
        {
            return Ok(exported.metadata.clone());
        }
        let (transport, registrations) =
            (Arc::clone(&self.transport), Arc::clone(&self.registrations));
        let slot = Arc::clone(&self.exported);
        let export = move || -> Result<AgentMetadata, ConnectorError> {
            // Registrations are made on this thread too, so none comes between these two lines.
            let registered = registrations.stats().misses;
            let metadata = AgentMetadata::compress(&transport.local_metadata()?)?;
            *lock(&slot) = Some(Exported { registered, metadata: metadata.clone() });
            Ok(metadata)
        };
        self.control.run(export).await?
    }

    /// Makes the owner of an offer reachable.
    pub(crate) async fn connect(&self, remote: &RdmaMetadata) -> Result<PeerId, ConnectorError> {
        match self.peers.get(remote.agent_metadata()) {
            Some(peer) => Ok(peer),
            None => self.reconnect(remote).await,
        }
    }

    /// As [`connect`](Self::connect), whatever the cache says.
    pub(crate) async fn reconnect(&self, remote: &RdmaMetadata) -> Result<PeerId, ConnectorError> {
        let (transport, peers) = (Arc::clone(&self.transport), Arc::clone(&self.peers));
        let metadata = remote.agent_metadata().clone();
        let is_foreign = remote.peer().is_none();
        let load = move || -> Result<PeerId, ConnectorError> {
            let blob = metadata.inflate(&Limits::default())?;
            let connected = match is_foreign {
                true => transport.connect_foreign(&blob)?,
                false => transport.connect(&blob)?,
            };
            if let Some(evicted) = peers.insert(metadata, &connected) {
                // A busy peer stays loaded; it is found again when it is next named.
                let _ = transport.disconnect(&evicted);
            }
            Ok(connected.peer)
        };
        self.control.run(load).await?
    }

    /// Drops what the cache says about a peer that the engine has given up.
    pub(crate) fn forget(&self, peer: &PeerId) {
        self.peers.remove(peer);
    }
}

/// Locks, ignoring poison: the critical sections leave their data consistent.
fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Whether an engine's refusal means that the peer must be connected anew.
pub(crate) fn wants_reconnect(error: &TransportError) -> bool {
    matches!(
        error,
        TransportError::UnknownPeer { .. }
            | TransportError::PeerGone { .. }
            | TransportError::NotRegistered { .. }
    )
}
