//! A connection: one engine, its driver and its caches.

use std::num::NonZeroU64;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use nixl_descriptor::{
    CacheLimits, Descriptor, DescriptorList, Region, Registration, RegistrationCache,
    RendezvousState, SharedName,
};
use nixl_device::Device;
use nixl_device::locks::lock;
use nixl_metadata::{
    AgentMetadata, HostIdentity, Limits, OfferTerms, PeerInfo, RdmaMetadata, SerializedDescriptor,
    Share,
};
use nixl_ops::{
    BlockingThread as _, Clock, ConnectSpec, Connected, ConnectionContext, ConnectionExecutor,
    Driver, DriverConfig, Executor, FoundSlot, Mailbox, OperationError, OperationOptions, PeerId,
    Preparation, QuietProof, RemoteSlot, RemoteSlots, SpentKeys, SpentWords, Transport,
    TransportError, foreign_process,
};

use crate::admission::Admission;
use crate::control::ControlThread;
use crate::ended::{Leavers, PeerKnowledge, PeerProcess};
use crate::exports::Exports;
use crate::named_file::{notes_owner, page_of_file};
use crate::offer_words::OwnWords;
use crate::peers::PeerTable;
use crate::quiet::Proofs;
use crate::work_thread::WorkThread;
use crate::{ConnectionStats, ConnectorError};

/// State shared by all operations of a connector.
#[derive(Debug)]
pub(crate) struct Connection {
    transport: Arc<dyn Transport>,
    executor: Arc<dyn ConnectionExecutor>,
    driver: Arc<Driver>,
    control: ControlThread,
    /// For long lists, large checksums, and the clean-up after peers that have ended.
    work: WorkThread,
    registrations: Arc<RegistrationCache>,
    peers: Arc<PeerTable>,
    exports: Arc<Exports>,
    slots: Arc<RemoteSlots>,
    info: PeerInfo,
    clock: Arc<dyn Clock>,
    skew: Duration,
    /// The words of exports that are closed, for the next ones: peers may read them late, and no memory is to be found there instead.
    spent_words: Mutex<Vec<SpentWords>>,
    /// Those of one-shot offers.
    offer_words: OwnWords,
    admission: Arc<Admission>,
}

impl Connection {
    /// Peers with loaded metadata.
    const PEERS: usize = 1024;
    /// Regions that are registered on the caller's thread, if the engine takes microseconds for each.
    const REGISTERED_HERE: usize = 4;
    /// Compressed metadata of at most so many bytes is parsed on the caller's thread, in some microseconds.
    const INFLATED_HERE: usize = 2048;
    /// Descriptors compared with it there.
    const COMPARED_HERE: usize = 64;

    pub(crate) fn new(
        transport: Arc<dyn Transport>,
        control: ControlThread,
        executor: Arc<dyn Executor>,
        (clock, config): (Arc<dyn Clock>, DriverConfig),
        info: PeerInfo,
        admission: Arc<Admission>,
    ) -> Result<Self, ConnectorError> {
        let driver = Driver::spawn(Arc::clone(&transport), Arc::clone(&clock), config)
            .map_err(|e| ConnectorError::Thread { error: e.into() })?;
        let (driver, work) = (Arc::new(driver), WorkThread::beside(&control));
        let registrations =
            Arc::new(RegistrationCache::new(transport.registrar(), CacheLimits::default()));
        let slots = Arc::<RemoteSlots>::default();
        let proofs: Arc<dyn QuietProof> = Arc::new(Proofs::of(&*transport));
        let link = ConnectionContext::new(
            Arc::clone(&transport),
            Arc::clone(&registrations),
            Arc::new(control.clone()),
            Arc::clone(&clock),
            driver.waker(),
            driver.mailboxes(&slots),
        )
        .with_work(Arc::new(work.clone()))
        .with_proofs(Arc::clone(&proofs));
        let executor = executor.connect(link);
        driver.set_executor(Arc::clone(&executor));
        driver.set_proofs(proofs, Arc::new(control.clone()));
        let info = match executor.offers() {
            Some(offers) => offers.describe(info),
            None => info,
        };
        let peers = Arc::new(PeerTable::new(Self::PEERS));
        let of = (&transport, &executor, &driver);
        let knowledge = PeerKnowledge::new(of, &peers, &slots, (&control, &work));
        let (lost, introduced) = (knowledge.clone(), knowledge.clone());
        let exited = knowledge.clone();
        slots.set_on_exit(move |page| exited.close_soon(page));
        driver.mailboxes(&slots).set_on_introduced(move |peer, pid| {
            introduced.let_go_at_exit(peer, pid);
        });
        transport.set_on_lost(Box::new(move |peer| lost.lose_soon(peer)));
        driver.set_on_leaving(Leavers::new(knowledge));
        control.measure_from_here();
        Ok(Self {
            transport,
            executor,
            driver,
            control,
            work,
            registrations,
            peers,
            exports: Arc::default(),
            slots,
            info,
            clock,
            skew: config.max_clock_skew(),
            spent_words: Mutex::default(),
            offer_words: OwnWords::default(),
            admission,
        })
    }

    /// The time since 1970 by its clock, in milliseconds.
    pub(crate) fn unix_millis(&self) -> u64 {
        u64::try_from(self.clock.unix_time().as_millis()).unwrap_or(u64::MAX)
    }

    /// The pages of peers.
    pub(crate) fn slots(&self) -> &RemoteSlots {
        &self.slots
    }

    pub(crate) fn transport(&self) -> &Arc<dyn Transport> {
        &self.transport
    }

    /// The executor of this connection.
    pub(crate) fn executor(&self) -> &Arc<dyn ConnectionExecutor> {
        &self.executor
    }

    /// Access to the memory for processes of this machine, without the engine.
    pub(crate) fn shares(&self, list: &DescriptorList) -> Vec<Share> {
        self.executor.offers().map_or_else(Vec::new, |offers| offers.shares(list))
    }

    pub(crate) fn registrations(&self) -> &Arc<RegistrationCache> {
        &self.registrations
    }

    pub(crate) fn admission(&self) -> &Arc<Admission> {
        &self.admission
    }

    pub(crate) fn driver(&self) -> &Arc<Driver> {
        &self.driver
    }

    /// Keeps the words of an export that is closed for as long as the connection lives.
    pub(crate) fn keep_words(&self, words: SpentWords) {
        lock(&self.spent_words).push(words);
    }

    /// The words of one-shot offers.
    pub(crate) fn offer_words(&self) -> &OwnWords {
        &self.offer_words
    }

    /// The words of an export that is closed with the least room for so many slots. Since new ones have a power of two, there are
    /// few for each size, however many sizes of exports follow one another.
    pub(crate) fn take_words(&self, slots: u32) -> Option<SpentWords> {
        let mut spent = lock(&self.spent_words);
        let enough = spent.iter().enumerate().filter(|(_, words)| words.slots() >= slots);
        let (at, _) = enough.min_by_key(|(_, words)| words.slots())?;
        Some(spent.swap_remove(at))
    }

    /// The thread for blocking calls.
    pub(crate) fn control(&self) -> &ControlThread {
        &self.control
    }

    pub(crate) fn clock(&self) -> &Arc<dyn Clock> {
        &self.clock
    }

    pub(crate) fn skew(&self) -> Duration {
        self.skew
    }

    /// The slot of an offer whose owner is on this host. The owner's page is opened on the connection's thread at its first
    /// offer.
    pub(crate) async fn slot(
        &self,
        remote: &RdmaMetadata,
    ) -> Result<Option<RemoteSlot>, ConnectorError> {
        match self.slots.find(remote) {
            FoundSlot::Mapped(slot) => {
                if !slot.is_owned() {
                    let slots = Arc::clone(&self.slots);
                    self.control.post(move || slots.sweep());
                }
                self.meet_again(remote);
                return Ok(Some(slot));
            }
            FoundSlot::Unknown => {}
            _ => return Ok(None),
        }
        let Some(address) = remote.slot_address().copied() else { return Ok(None) };
        let Some(peer) = remote.peer() else { return Ok(None) };
        // Metadata of version 3 implies version 1 of the protocol.
        let version = if remote.terms().is_some() { peer.versions().doorbell() } else { 1 };
        let foreign = foreign_process(self.info.host(), peer.host());
        let may_map = match foreign {
            Some(process) => process.rendezvous_state() != RendezvousState::NoFolder,
            None => self.info.host().same_pid_namespace(peer.host()),
        };
        if !may_map || version > RemoteSlots::VERSION {
            return Ok(None);
        }
        let slots = Arc::clone(&self.slots);
        let open = move || {
            let file = address.file();
            let name = page_of_file(&file);
            if notes_owner(&name, foreign) {
                slots.open(&address);
            }
        };
        self.control.run(open).await?;
        match self.slots.find(remote) {
            FoundSlot::Mapped(slot) => Ok(Some(slot)),
            _ => Ok(None),
        }
    }

    /// Has an owner in another PID namespace met again, if the connection to it was lost: it may have been stopped for a while.
    fn meet_again(&self, remote: &RdmaMetadata) {
        let foreign = remote.peer().and_then(|peer| foreign_process(self.info.host(), peer.host()));
        if let Some(process) = foreign.filter(|process| process.may_be_met()) {
            // Without it the engine carries the bytes.
            let _ = self.control.run_for_peer(Box::new(move || drop(process.meet())));
        }
    }

    /// The mailbox on a page of another process of this host, opened on the connection's thread at first use. `None` if that
    /// fails, or no lane is free.
    pub(crate) async fn mailbox(
        &self,
        page: &SharedName,
    ) -> Result<Option<Mailbox>, ConnectorError> {
        let mailboxes = self.driver.mailboxes(&self.slots);
        if !mailboxes.knows(page) {
            let (opener, page) = (Arc::clone(&mailboxes), *page);
            self.control.run(move || opener.open(&page)).await?;
        }
        Ok(mailboxes.get(page))
    }

    pub(crate) fn info(&self) -> &PeerInfo {
        &self.info
    }

    pub(crate) fn stats(&self) -> ConnectionStats {
        let control = self.control.stats();
        ConnectionStats {
            driver: self.driver.stats(),
            spent: SpentKeys::of_this_process().stats(),
            registrations: self.registrations.stats(),
            peers: self.peers.len(),
            blocking_calls: control.waiting,
            longest_blocking_call: control.longest,
            refused_blocking_calls: control.refused,
        }
    }

    /// The worker thread for lists that are too long for an async thread.
    ///
    /// # Errors
    ///
    /// [`ConnectorError::Thread`] if the operating system refuses it.
    pub(crate) fn work(&self) -> Result<&ControlThread, ConnectorError> {
        self.work.get()
    }

    /// Waits for the executor's preparation, if any.
    pub(crate) async fn run(&self, preparation: Option<Preparation>) -> Result<(), ConnectorError> {
        match preparation {
            Some(job) => Ok(self.control.run(job).await??),
            None => Ok(()),
        }
    }

    /// Registers the regions of `list`; a cached one costs a look-up.
    pub(crate) async fn register(
        &self,
        list: &DescriptorList,
    ) -> Result<Arc<[Registration]>, ConnectorError> {
        match self.registered(list) {
            Some(held) => Ok(held),
            None => self.control.run(self.registering(list)).await?,
        }
    }

    /// This agent's metadata, which covers memory that is registered.
    pub(crate) async fn export_of(
        &self,
        list: &DescriptorList,
        held: &[Registration],
    ) -> Result<AgentMetadata, ConnectorError> {
        // Initiators reach host memory alone; that of GPUs through other memory of this process, too.
        if list.iter().all(|d| d.device().is_host())
            && let Some(metadata) = self.exports.of(&*self.transport, &self.registrations, held)
        {
            return Ok(metadata);
        }
        self.local_metadata().await
    }

    /// The registrations of the regions of `list`, if all are cached or take microseconds.
    fn registered(&self, list: &DescriptorList) -> Option<Arc<[Registration]>> {
        let mut made = 0;
        let mut held = regions(list).map(|(_, region)| match self.registrations.get(region) {
            Some(registration) => Some(registration),
            None if made == Self::REGISTERED_HERE => None,
            None => {
                made += 1;
                // A failure here repeats on the control thread, and is an error there.
                self.registrations.get_or_register_quickly(region)?.ok()
            }
        });
        let first = held.next()??;
        match held.next() {
            // Most lists have one region; this makes one allocation.
            None => Some(Arc::from([first])),
            Some(second) => [Some(first), second].into_iter().chain(held).collect(),
        }
    }

    /// A job that registers the regions of `list`, except memory that only the executor reaches.
    fn registering(
        &self,
        list: &DescriptorList,
    ) -> impl FnOnce() -> Result<Arc<[Registration]>, ConnectorError> + Send + 'static {
        let (cache, executor) = (Arc::clone(&self.registrations), Arc::clone(&self.executor));
        let regions: Vec<_> = regions(list).map(|(device, r)| (device, r.clone())).collect();
        move || {
            let mut held = Vec::with_capacity(regions.len());
            for (device, region) in &regions {
                match cache.get_or_register(region) {
                    Ok(registration) => held.push(registration),
                    Err(error) if executor.can_access(*device) => {
                        tracing::debug!(%error, "memory that only the executor will reach");
                    }
                    Err(error) => return Err(error.into()),
                }
            }
            Ok(held.into())
        }
    }

    /// This agent's metadata, covering everything registered before the call.
    pub(crate) async fn local_metadata(&self) -> Result<AgentMetadata, ConnectorError> {
        if let Some(metadata) = self.exports.all(&self.registrations) {
            return Ok(metadata);
        }
        let (transport, registrations) =
            (Arc::clone(&self.transport), Arc::clone(&self.registrations));
        let exports = Arc::clone(&self.exports);
        self.control.run(move || exports.export_all(&*transport, &registrations)).await?
    }

    /// Connects to the owner of an offer, and loads the offered memory.
    pub(crate) async fn connect(&self, remote: &RdmaMetadata) -> Result<PeerId, ConnectorError> {
        self.watch_again();
        // An export may cover more than the loaded part.
        match self.peers.get(remote.agent_metadata(), needed(remote)) {
            Some(peer) => Ok(peer),
            None => self.reconnect(remote).await,
        }
    }

    /// As [`connect`](Self::connect), without the cache. Waits until a peer to reload has no transfer in flight.
    pub(crate) async fn reconnect(&self, remote: &RdmaMetadata) -> Result<PeerId, ConnectorError> {
        let short = remote.agent_metadata().compressed().len() <= Self::INFLATED_HERE
            && remote.descriptors().len() <= Self::COMPARED_HERE;
        if short && let Some(peer) = self.connect_known(remote)? {
            return Ok(peer);
        }
        // Keeps others from posting until the peer is loaded.
        let mut _idle = None;
        let remote = Arc::new(remote.clone());
        loop {
            match self.load(Arc::clone(&remote)).await {
                Err(ConnectorError::Transport(TransportError::PeerBusy { name })) => {
                    _idle = Some(self.transport.until_idle(&PeerId::new(name)).await);
                }
                loaded => return loaded,
            }
        }
    }

    /// The peer, if its metadata has nothing new for the engine.
    fn connect_known(&self, remote: &RdmaMetadata) -> Result<Option<PeerId>, ConnectorError> {
        let metadata = remote.agent_metadata();
        let blob = metadata.inflate(&Limits::default())?;
        let connected = self.transport.connect_known(&spec(&blob, remote));
        // A new peer, or one that has ended meanwhile, needs a watch.
        let is_known = |c: &Connected| self.peers.insert_if_known(metadata.clone(), c);
        Ok(connected.filter(is_known).map(Connected::into_peer))
    }

    fn knowledge(&self) -> PeerKnowledge {
        let of = (&self.transport, &self.executor, &self.driver);
        PeerKnowledge::new(of, &self.peers, &self.slots, (&self.control, &self.work))
    }

    /// Has a peer's process watched that could not be watched before.
    fn watch_again(&self) {
        if let Some((peer, pid)) = self.peers.due_watch(|| self.clock.now()) {
            self.knowledge().forget_at_exit(&peer, PeerProcess::Here(pid));
        }
    }

    async fn load(&self, remote: Arc<RdmaMetadata>) -> Result<PeerId, ConnectorError> {
        let (transport, peers) = (Arc::clone(&self.transport), Arc::clone(&self.peers));
        let knowledge = self.knowledge();
        let here = self.info.host().clone();
        let load = move || -> Result<PeerId, ConnectorError> {
            let metadata = remote.agent_metadata();
            let blob = metadata.inflate(&Limits::default())?;
            let connected = transport.connect_for(&spec(&blob, &remote))?;
            let is_new = peers.insert(metadata.clone(), &connected);
            if is_new {
                tracing::info!(peer = %connected.peer(), "peer connected");
            }
            let process = remote.peer().and_then(|peer| process_of(&here, peer.host()));
            if is_new && let Some(process) = process {
                knowledge.forget_at_exit(connected.peer(), process);
            }
            peers.make_room(|unused| transport.disconnect(unused).is_ok());
            Ok(connected.into_peer())
        };
        self.control.run(load).await?
    }

    /// The problems of the engine and of the control thread.
    pub(crate) async fn problems(&self) -> (Vec<TransportError>, bool) {
        const PATIENCE: Duration = Duration::from_secs(1);
        let transport = Arc::clone(&self.transport);
        let look = self.control.run(move || transport.problems());
        let options = OperationOptions::new().timeout(PATIENCE);
        match self.driver.with_timeout(options, look).await {
            Ok((Ok(problems), _)) => (problems, false),
            Ok((Err(error), _)) => (vec![error], false),
            Err(OperationError::Transport(error)) => (vec![error], false),
            Err(_) => (Vec::new(), true),
        }
    }

    /// Notifies the connected peers of this side's end. Waits at most a second.
    pub(crate) async fn tell_leaving(&self) {
        const PATIENCE: Duration = Duration::from_secs(1);
        let (driver, peers) = (Arc::clone(&self.driver), self.peers.all());
        let tell = self.control.run(move || driver.tell_leaving(&peers));
        let options = OperationOptions::new().timeout(PATIENCE);
        // Notifications that are still queued are sent if the process lives.
        let _ = self.driver.with_timeout(options, tell).await;
    }

    /// Drops the cache entry of a peer that the engine has forgotten.
    pub(crate) fn forget(&self, peer: &PeerId) {
        self.peers.remove(peer);
    }
}

/// The process of a peer, if it runs on this host.
fn process_of(here: &HostIdentity, there: &HostIdentity) -> Option<PeerProcess> {
    match here.same_pid_namespace(there) {
        true => Some(PeerProcess::Here(there.pid())),
        false => foreign_process(here, there).map(PeerProcess::Foreign),
    }
}

/// The peer's memory that an offer's initiator must reach. `None` if it exceeds the offer, as with the owner's staging slots
/// for GPU memory.
fn needed(remote: &RdmaMetadata) -> Option<&[SerializedDescriptor]> {
    let descriptors = remote.descriptors();
    descriptors.iter().all(|d| d.device().is_host()).then_some(descriptors)
}

fn spec<'a>(blob: &'a [u8], remote: &'a RdmaMetadata) -> ConnectSpec<'a> {
    let spec = ConnectSpec::new(blob).foreign(remote.peer().is_none());
    match needed(remote) {
        Some(needed) => {
            let made = remote.terms().map(OfferTerms::made_unix_millis);
            spec.needing(needed).made(made.and_then(NonZeroU64::new))
        }
        None => spec,
    }
}

/// The regions under a list, without repetitions in a row, and the device of each.
fn regions(list: &DescriptorList) -> impl Iterator<Item = (Device, &Region)> {
    let mut last = None;
    // Lists usually walk one region; a region seen earlier is a cache hit.
    let is_next = move |d: &&Descriptor| last.replace(d.region().id()) != Some(d.region().id());
    list.iter().filter(is_next).map(|d| (d.device(), d.region()))
}

/// Whether an engine's refusal requires a new connection to the peer.
pub(crate) fn wants_reconnect(error: &TransportError) -> bool {
    matches!(
        error,
        TransportError::UnknownPeer { .. }
            | TransportError::PeerGone { .. }
            | TransportError::NotRegistered { .. }
    )
}

#[cfg(test)]
mod tests;
