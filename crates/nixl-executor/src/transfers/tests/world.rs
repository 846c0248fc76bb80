//! Two sides on a simulated network, where nothing moves unless the test moves it.

use std::collections::VecDeque;
use std::num::NonZeroU64;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use nixl_connector::simulated::Fabric;
use nixl_descriptor::{
    CacheLimits, Descriptor, DescriptorList, LeaseMode, Leased, Leases, Region, RegistrationCache,
};
use nixl_device::Device;
use nixl_metadata::{
    AgentMetadata, HostIdentity, Limits, NotificationKey, OfferTerms, OperationKind, PeerInfo,
    RdmaMetadata, SerializedDescriptor,
};
use nixl_ops::{
    BlockingThread, CancelOutcome, Clock, ConnectionContext, ConnectionExecutor, Driver,
    DriverConfig, Execution, FoundSlot, ManualClock, OfferSpec, OfferUse, OperationOptions,
    OperationStatus, Reactor, ReadOperation, ReadableOperation, RemoteSlot, RemoteSlots,
    TicketRead, TransferRequest, Transport, TransportError, WritableOperation, WriteOperation,
};

use super::executor::StagingExecutor;
use super::gpus::{self, TestGpus};
use super::proofs::Proofs;
use crate::facts::STAGING_ON_GPU;
use crate::local::{CopyContext, CopyWorkers, Costs, GpuBackend};
use crate::pinned_slots::{SlotPools, StagingConfig};
use crate::remote_memory::ImportCache;
use crate::sessions::StagingStats;
use crate::transfers::{RemoteCopyContext, Services, StagingMode};

pub(super) const DRAIN: Duration = Duration::from_secs(60);

pub(super) struct World {
    pub(super) clock: Arc<ManualClock>,
    pub(super) fabric: Fabric,
    pub(super) sides: [Side; 2],
}

/// What blocks, until the test runs it.
#[derive(Default)]
pub(super) struct Jobs(Mutex<VecDeque<Box<dyn FnOnce() + Send>>>);

impl BlockingThread for Jobs {
    fn run(&self, job: Box<dyn FnOnce() + Send>) {
        self.0.lock().unwrap().push_back(job);
    }
}

impl std::fmt::Debug for Jobs {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Jobs")
    }
}

impl Jobs {
    pub(super) fn next(&self) -> bool {
        let job = self.0.lock().unwrap().pop_front();
        let found = job.is_some();
        job.into_iter().for_each(|job| job());
        found
    }
}

/// What carries the messages between the sides.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Messages {
    ByEngine,
    /// Once the pages are open.
    ByMailbox,
}

/// The kind of transfer, and who takes part.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Mode {
    OneSided,
    TwoSided,
    /// Both sides, through slots on the source's GPU.
    OnGpu,
    /// A remote copy.
    PeerCopies,
}

pub(super) struct Side {
    pub(super) transport: Arc<dyn Transport>,
    pub(super) driver: Arc<Driver>,
    pub(super) reactor: Reactor,
    pub(super) gpus: Arc<TestGpus>,
    pub(super) jobs: Arc<Jobs>,
    pub(super) services: Arc<Services>,
    pub(super) imports: Arc<ImportCache>,
    pools: SlotPools,
    /// The process that its offers say they are of.
    pub(super) pid: u32,
    executor: Arc<dyn ConnectionExecutor>,
    registrations: Arc<RegistrationCache>,
    slots: Arc<RemoteSlots>,
    /// Whether every peer is proven quiet.
    pub(super) quiet: Arc<AtomicBool>,
}

/// Memory of one side of an operation: descriptors in odd places of a region, in odd order.
#[derive(Clone)]
pub(super) struct Memory {
    pub(super) region: Region,
    pub(super) list: Vec<Descriptor>,
}

impl Memory {
    pub(super) fn new(device: Device, lens: &[usize], reversed: bool) -> Self {
        const GAP: usize = 3;
        let total = lens.iter().map(|len| len + GAP).sum::<usize>() + GAP;
        let region = gpus::region(device, total);
        let mut places = vec![0..0; lens.len()];
        let mut at = GAP;
        for step in 0..lens.len() {
            let index = if reversed { lens.len() - 1 - step } else { step };
            places[index] = at..at + lens[index];
            at += lens[index] + GAP;
        }
        let list = places.into_iter().map(|p| region.descriptor(p).unwrap()).collect();
        let memory = Self { region, list };
        gpus::overwrite(&memory.region, &vec![0xEE; total]);
        memory
    }

    /// The region's bytes, if its descriptors held `stream` and all else were untouched.
    pub(super) fn image(&self, stream: &[u8]) -> Vec<u8> {
        let mut image = vec![0xEE; self.region.len()];
        let mut at = 0;
        for d in &self.list {
            image[d.offset()..d.offset() + d.len()].copy_from_slice(&stream[at..at + d.len()]);
            at += d.len();
        }
        image
    }

    /// Whether bytes between the descriptors have changed.
    pub(super) fn guards_hold(&self) -> bool {
        let image = gpus::look(&self.region);
        let mut inside = vec![false; image.len()];
        for d in &self.list {
            inside[d.offset()..d.offset() + d.len()].fill(true);
        }
        image.iter().zip(inside).all(|(byte, inside)| inside || *byte == 0xEE)
    }

    pub(super) fn is_leased(&self) -> bool {
        Leases::acquire(&[self.region.whole()], LeaseMode::Write).is_err()
    }

    pub(super) fn descriptors(&self) -> DescriptorList {
        DescriptorList::try_from(self.list.clone()).unwrap()
    }
}

pub(super) enum Passive {
    Readable(ReadableOperation),
    Writable(WritableOperation),
}

pub(super) enum Active {
    Read(ReadOperation),
    Write(WriteOperation),
}

impl Passive {
    pub(super) fn metadata(&self) -> RdmaMetadata {
        match self {
            Self::Readable(operation) => operation.metadata().clone(),
            Self::Writable(operation) => operation.metadata().clone(),
        }
    }

    pub(super) fn status(&self) -> OperationStatus {
        match self {
            Self::Readable(operation) => operation.status(),
            Self::Writable(operation) => operation.status(),
        }
    }
}

impl Active {
    pub(super) fn status(&self) -> OperationStatus {
        match self {
            Self::Read(operation) => operation.status(),
            Self::Write(operation) => operation.status(),
        }
    }

    pub(super) fn cancel(&mut self) -> CancelOutcome {
        match self {
            Self::Read(operation) => operation.cancel(),
            Self::Write(operation) => operation.cancel(),
        }
    }
}

impl World {
    /// Two sides whose messages the engine carries.
    pub(super) fn new(configs: [StagingConfig; 2]) -> Self {
        Self::with_messages(configs, Messages::ByEngine)
    }

    pub(super) fn with_messages(configs: [StagingConfig; 2], messages: Messages) -> Self {
        let clock = Arc::new(ManualClock::new());
        let fabric = Fabric::new(clock.clone());
        let sides = [("a", configs[0]), ("b", configs[1])]
            .map(|(name, config)| Side::new(&clock, &fabric, name, config, messages));
        Self { clock, fabric, sides }
    }

    /// Turns everything once, each with as much as it has to do.
    pub(super) fn turn(&mut self) {
        for side in &mut self.sides {
            while side.jobs.next() {}
            side.gpus.run(usize::MAX);
            side.reactor.turn();
        }
    }

    /// Takes what has arrived at a side, in its place.
    pub(super) fn messages(&self, side: usize) -> Vec<(String, Vec<u8>)> {
        let mut messages = Vec::new();
        let mut take =
            |from: &str, payload: &[u8]| messages.push((from.to_owned(), payload.to_vec()));
        self.sides[side].transport.take_notifications(&mut take).unwrap();
        messages
    }

    pub(super) fn is_idle(&self) -> bool {
        self.sides.iter().all(|side| {
            let driver = side.driver.stats();
            // What is overdue waits for a message that may never come, and keeps its session.
            driver.active() == 0
                && side.stats().sessions <= driver.overdue().operations()
                && side.gpus.is_idle()
        })
    }

    /// Offers `target`, and begins to read or write it from the other side.
    pub(super) fn begin(
        &self,
        kind: OperationKind,
        initiator: usize,
        (local, target): (&Memory, &Memory),
        mode: Mode,
        (options, offer_options): (OperationOptions, OperationOptions),
    ) -> (Passive, Result<Active, TransportError>) {
        let passive = self.sides[1 - initiator].offer(kind, target, offer_options);
        let active =
            self.sides[initiator].transfer(kind, &passive.metadata(), local, mode, options);
        (passive, active)
    }
}

impl Side {
    fn new(
        clock: &Arc<ManualClock>,
        fabric: &Fabric,
        name: &str,
        config: StagingConfig,
        messages: Messages,
    ) -> Self {
        let transport = fabric.transport(name);
        // No head start for callers: a turn looks at everything.
        let driving = DriverConfig::default().drain(DRAIN).inline_spin(Duration::ZERO);
        let (driver, reactor) = Driver::manual(transport.clone(), clock.clone(), driving);
        let registrations =
            Arc::new(RegistrationCache::new(transport.registrar(), CacheLimits::default()));
        let jobs = Arc::new(Jobs::default());
        let (slots, none) = (Arc::new(RemoteSlots::default()), Arc::default());
        // Where its pages are not open, the engine carries the messages.
        let pages = if messages == Messages::ByMailbox { &slots } else { &none };
        let link = ConnectionContext::new(
            transport.clone(),
            registrations.clone(),
            jobs.clone(),
            clock.clone(),
            driver.waker(),
            driver.mailboxes(pages),
        );
        let quiet = Arc::<AtomicBool>::default();
        let link = link.with_proofs(Arc::new(Proofs(quiet.clone())));
        let gpus = TestGpus::new();
        let dynamic: Arc<dyn GpuBackend> = gpus.clone();
        let time: Arc<dyn Clock> = clock.clone();
        let context = CopyContext {
            gpus: Arc::clone(&dynamic),
            threads: CopyWorkers::new(&time).unwrap(),
            costs: Costs::default(),
            waker: link.waker().clone(),
        };
        let imports = ImportCache::new(Arc::clone(&dynamic), jobs.clone());
        let facts = Arc::default();
        let remote_copies = RemoteCopyContext { imports: Arc::clone(&imports), context, facts };
        let pools = SlotPools::within(config, &Arc::default());
        let services =
            Arc::new(Services::new(remote_copies, link, Arc::default(), (config, &pools)));
        let executor: Arc<dyn ConnectionExecutor> =
            Arc::new(StagingExecutor { services: services.clone(), gpus: dynamic });
        driver.set_executor(executor.clone());
        let driver = Arc::new(driver);
        let pid = std::process::id();
        Self {
            transport,
            driver,
            reactor,
            gpus,
            jobs,
            services,
            imports,
            pools,
            pid,
            executor,
            registrations,
            slots,
            quiet,
        }
    }

    pub(super) fn stats(&self) -> StagingStats {
        StagingStats::of(&self.pools, std::iter::once(&*self.services.sessions))
    }

    pub(super) fn agent_metadata(&self) -> AgentMetadata {
        AgentMetadata::compress(&self.transport.local_metadata().unwrap()).unwrap()
    }

    pub(super) fn offer(
        &self,
        kind: OperationKind,
        memory: &Memory,
        options: OperationOptions,
    ) -> Passive {
        let list = memory.descriptors();
        let mode = match kind {
            OperationKind::Read => LeaseMode::Read,
            OperationKind::Write => LeaseMode::Write,
        };
        let leased = Leased::from(Leases::acquire(list.as_slice(), mode).unwrap());
        self.executor.prepare(&list, None).into_iter().for_each(|job| job().unwrap());
        let registered: Vec<_> =
            self.registrations.get_or_register(&memory.region).into_iter().collect();
        let descriptors = list
            .iter()
            .map(|d| SerializedDescriptor::new(d.device(), d.address(), d.len() as u64).unwrap());
        let agent = self.agent_metadata();
        let key = NotificationKey::random();
        let metadata = RdmaMetadata::new(kind, descriptors.collect(), agent, key).unwrap();
        let host = HostIdentity::new("host", "", self.pid).unwrap();
        let peer = PeerInfo::new(self.transport.agent_name(), 1, host).unwrap();
        let terms = OfferTerms::new(SystemTime::now(), NonZeroU64::MIN).unwrap();
        let metadata = metadata.with_peer(peer).with_terms(terms).unwrap();
        let slot = self.driver.arm_slot(metadata.notification_key(), kind).unwrap();
        let metadata = metadata.with_slot_address(slot.address()).unwrap();
        let spec = OfferSpec::new(metadata, list, leased, registered).with_slot(Some(slot));
        let (driver, executor) = (&self.driver, &self.executor);
        match kind {
            OperationKind::Read => Passive::Readable(
                ReadableOperation::offer(driver, executor, spec, options).unwrap(),
            ),
            OperationKind::Write => Passive::Writable(
                WritableOperation::offer(driver, executor, spec, options).unwrap(),
            ),
        }
    }

    pub(super) fn transfer(
        &self,
        kind: OperationKind,
        remote: &RdmaMetadata,
        memory: &Memory,
        mode: Mode,
        options: OperationOptions,
    ) -> Result<Active, TransportError> {
        let slot = self.slot(remote);
        let execution = self.execution(kind, remote, memory, mode)?;
        let execution = OfferUse::of(execution, slot, None);
        let list = memory.descriptors();
        let driver = &self.driver;
        Ok(match kind {
            OperationKind::Read => {
                Active::Read(ReadOperation::begin(driver, execution, list, options).unwrap())
            }
            OperationKind::Write => {
                Active::Write(WriteOperation::begin(driver, execution, list, options).unwrap())
            }
        })
    }

    /// Begins to read blocks of the owner's, which takes part.
    pub(super) fn read_by_ticket(
        &self,
        owner: &Self,
        read: &TicketRead,
        (local, remote): (Vec<Descriptor>, Vec<SerializedDescriptor>),
        mode: StagingMode,
    ) -> Result<ReadOperation, TransportError> {
        let list = DescriptorList::try_from(local).unwrap();
        let (agent, key) = (owner.agent_metadata(), NotificationKey::random());
        let remote = RdmaMetadata::new(OperationKind::Read, remote, agent, key).unwrap();
        let host = HostIdentity::new("host", "", owner.pid).unwrap();
        let info = PeerInfo::new(owner.transport.agent_name(), 1, host).unwrap();
        let remote = remote.with_peer(info);
        self.executor.prepare(&list, Some(&remote)).into_iter().for_each(|job| job().unwrap());
        let blob = remote.agent_metadata().inflate(&Limits::default()).unwrap();
        let peer = self.transport.connect(&blob)?.into_peer();
        let regions = list.iter().map(|d| self.registrations.get_or_register(d.region()));
        let registered: Vec<_> = regions.flatten().collect();
        let leased = Leases::acquire_list(list.clone(), LeaseMode::Write).unwrap();
        let request = TransferRequest::inter_process(
            OperationKind::Read,
            (&list, &leased),
            &remote,
            &self.transport,
            &peer,
            registered,
        )
        .with_initiator_metadata(Some(self.agent_metadata()))
        .without_notification()
        .by_ticket(Some(read));
        let execution = self.services.staging.begin(&request, mode)?;
        let options = OperationOptions::new();
        Ok(ReadOperation::begin(&self.driver, execution, list, options).unwrap())
    }

    fn slot(&self, remote: &RdmaMetadata) -> Option<RemoteSlot> {
        self.slots.open(remote.slot_address()?);
        match self.slots.find(remote) {
            FoundSlot::Mapped(slot) => Some(slot),
            _ => None,
        }
    }

    /// What moves a transfer on.
    pub(super) fn execution(
        &self,
        kind: OperationKind,
        remote: &RdmaMetadata,
        memory: &Memory,
        mode: Mode,
    ) -> Result<Box<dyn Execution>, TransportError> {
        let list = memory.descriptors();
        let spoken = match mode {
            Mode::OnGpu => speaking(remote, STAGING_ON_GPU),
            _ => remote.clone(),
        };
        let remote = &spoken;
        self.executor.prepare(&list, Some(remote)).into_iter().for_each(|job| job().unwrap());
        let blob = remote.agent_metadata().inflate(&Limits::default()).unwrap();
        let peer = self.transport.connect(&blob)?.into_peer();
        let registered: Vec<_> =
            self.registrations.get_or_register(&memory.region).into_iter().collect();
        let lease = match kind {
            OperationKind::Read => LeaseMode::Write,
            OperationKind::Write => LeaseMode::Read,
        };
        let leased = Leases::acquire_list(list.clone(), lease).unwrap();
        let memory = (&list, &leased);
        let slot = self.slot(remote);
        let initiator_metadata = (mode != Mode::OneSided).then(|| self.agent_metadata());
        let request = TransferRequest::inter_process(
            kind,
            memory,
            remote,
            &self.transport,
            &peer,
            registered,
        )
        .with_initiator_metadata(initiator_metadata)
        .with_slot(slot.as_ref());
        match mode {
            Mode::OneSided => self.services.staging.begin(&request, StagingMode::OneSided),
            Mode::TwoSided => self.services.staging.begin(&request, StagingMode::TwoSided),
            Mode::OnGpu => self.services.staging.begin(&request, StagingMode::OnGpu),
            Mode::PeerCopies => self.services.remote_copies.begin(&request),
        }
    }
}

/// The same offer of a peer that speaks this version of staging messages.
fn speaking(remote: &RdmaMetadata, staging: u16) -> RdmaMetadata {
    let peer = remote.peer().unwrap().clone();
    let versions = peer.versions().with_staging(staging);
    remote.clone().with_peer(peer.with_versions(versions))
}

/// Small slots, so that little data has many chunks.
pub(super) fn config(slots: usize, window: usize) -> StagingConfig {
    let mut config = StagingConfig::default();
    (config.slot_bytes, config.slots, config.window) = (64, slots, window);
    (config.gpu_slot_bytes, config.gpu_slots) = (64, slots);
    config
}

/// Bytes that depend on the seed and on their place.
pub(super) fn pattern(seed: u64, len: usize) -> Vec<u8> {
    (0..len as u64)
        .map(|at| {
            let mixed = (seed ^ at.rotate_left(32)).wrapping_mul(0x9E37_79B9_7F4A_7C15);
            (mixed >> 40) as u8
        })
        .collect()
}
