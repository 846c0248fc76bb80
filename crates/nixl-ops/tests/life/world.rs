//! A driver, its reactor, and engines that do what the test says.

use std::collections::VecDeque;
use std::fmt;
use std::future::Future;
use std::num::{NonZeroU32, NonZeroU64};
use std::pin::pin;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Wake, Waker};
use std::time::{Duration, UNIX_EPOCH};

use bytes::Bytes;
use nixl_descriptor::{
    Descriptor, DescriptorList, LeaseMode, LeaseSet, Leased, Leases, Region, RegionSpan,
    RegisterError, Registered, Registrar, RegistrarId, Registration, Retired, SharedName,
};
use nixl_metadata::{
    AgentMetadata, NotificationKey, OfferTerms, PeerInfo, RdmaMetadata, SerializedDescriptor, Share,
};
use nixl_ops::{
    BlockingThread, ClaimDemand, Claimant, Clock as _, CompletionMode, Connected,
    ConnectionExecutor, CopyOperation, Driver, DriverConfig, Execution, ManualClock, Offer,
    OfferRegistry, OfferSpec, OperationError, OperationKind, OperationOptions, PathKind,
    PathReport, PeerId, PeerService, QuietProof, QuietWatch, Reactor, ReadOperation,
    ReadableOperation, Received, Transfer, TransferRequest, TransferSpec, Transport,
    TransportError, WritableOperation,
};

pub(crate) use crate::blocking::block_on;

pub(crate) const DRAIN: Duration = Duration::from_secs(60);
pub(crate) const INLINE: usize = 64;

pub(crate) fn config() -> DriverConfig {
    // No head start for callers: a turn looks at everything.
    DriverConfig::default().drain(DRAIN).inline_bytes(INLINE as u64).inline_spin(Duration::ZERO)
}

/// The script of one execution, and what became of it.
#[derive(Default)]
pub(crate) struct Engine {
    steps: AtomicUsize,
    polls: AtomicUsize,
    in_flight: AtomicBool,
    dropped: AtomicBool,
    result: Mutex<Option<Result<(), TransportError>>>,
    /// Time that each poll takes.
    poll_takes: Mutex<Option<(Arc<ManualClock>, Duration)>>,
    expected: Mutex<Option<Duration>>,
    quick: AtomicBool,
    takes_turns: AtomicBool,
    told: AtomicBool,
    /// It wakes, by the waker of the latest poll.
    wakes: AtomicBool,
    waker: Mutex<Option<Waker>>,
    /// Runs inside each poll.
    aside: Mutex<Option<Aside>>,
}

type Aside = Box<dyn FnMut() + Send>;

impl fmt::Debug for Engine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Engine").field("polls", &self.polls()).finish_non_exhaustive()
    }
}

impl Engine {
    pub(crate) fn pending() -> Arc<Self> {
        Arc::new(Self::default())
    }

    pub(crate) fn ready(result: Result<(), TransportError>) -> Arc<Self> {
        let engine = Self::pending();
        engine.end(result);
        engine
    }

    pub(crate) fn slow(clock: &Arc<ManualClock>, poll_takes: Duration) -> Arc<Self> {
        let engine = Self::pending();
        *engine.poll_takes.lock().unwrap() = Some((Arc::clone(clock), poll_takes));
        engine
    }

    /// Whether it posts quickly.
    pub(crate) fn set_quick(&self, quick: bool) {
        self.quick.store(quick, Ordering::SeqCst);
    }

    /// It shares its engine's lock with others.
    pub(crate) fn take_turns(&self) {
        self.takes_turns.store(true, Ordering::SeqCst);
    }

    /// Says how long it expects to take.
    pub(crate) fn expect(&self, expected: Duration) {
        *self.expected.lock().unwrap() = Some(expected);
    }

    /// What each poll does besides.
    pub(crate) fn aside(&self, aside: impl FnMut() + Send + 'static) {
        *self.aside.lock().unwrap() = Some(Box::new(aside));
    }

    /// What the next poll answers.
    pub(crate) fn end(&self, result: Result<(), TransportError>) {
        *self.result.lock().unwrap() = Some(result);
    }

    /// Ends by a peer's message.
    pub(crate) fn set_told(&self, told: bool) {
        self.told.store(told, Ordering::SeqCst);
    }

    /// From now on it need not be polled.
    pub(crate) fn set_wakes(&self) {
        self.wakes.store(true, Ordering::SeqCst);
    }

    /// Calls the waker of the latest poll.
    pub(crate) fn wake(&self) {
        let waker = self.waker.lock().unwrap().clone();
        waker.unwrap().wake();
    }

    /// Comes further.
    pub(crate) fn step(&self) {
        self.steps.fetch_add(1, Ordering::SeqCst);
    }

    pub(crate) fn polls(&self) -> usize {
        self.polls.load(Ordering::SeqCst)
    }

    pub(crate) fn was_posted(&self) -> bool {
        self.polls() > 0
    }

    pub(crate) fn in_flight(&self) -> bool {
        self.in_flight.load(Ordering::SeqCst)
    }

    pub(crate) fn is_gone(&self) -> bool {
        self.dropped.load(Ordering::SeqCst)
    }

    /// An execution that touches nothing.
    pub(crate) fn execution(self: &Arc<Self>) -> Box<dyn Execution> {
        Box::new(Scripted { engine: Arc::clone(self), leased: None })
    }

    /// An execution that owns the proof of its memory's lease.
    pub(crate) fn moving(self: &Arc<Self>, leased: Leased) -> Box<dyn Execution> {
        Box::new(Scripted { engine: Arc::clone(self), leased: Some(leased) })
    }
}

struct Scripted {
    engine: Arc<Engine>,
    leased: Option<Leased>,
}

impl Execution for Scripted {
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), TransportError>> {
        let engine = &self.engine;
        engine.polls.fetch_add(1, Ordering::SeqCst);
        *engine.waker.lock().unwrap() = Some(cx.waker().clone());
        if let Some((clock, takes)) = &*engine.poll_takes.lock().unwrap() {
            clock.advance(*takes);
        }
        if let Some(aside) = &mut *engine.aside.lock().unwrap() {
            aside();
        }
        let result = engine.result.lock().unwrap().clone();
        engine.in_flight.store(result.is_none(), Ordering::SeqCst);
        result.map_or(Poll::Pending, Poll::Ready)
    }

    fn completion_mode(&self) -> CompletionMode {
        match self.engine.wakes.load(Ordering::SeqCst) {
            true => CompletionMode::Wakes,
            false => CompletionMode::Polled,
        }
    }

    fn posts_quickly(&self) -> bool {
        self.engine.quick.load(Ordering::SeqCst)
    }

    fn takes_turns(&self) -> bool {
        self.engine.takes_turns.load(Ordering::SeqCst)
    }

    fn expected(&self) -> Option<Duration> {
        *self.engine.expected.lock().unwrap()
    }

    fn awaits_notification(&self) -> bool {
        self.engine.told.load(Ordering::SeqCst)
    }

    fn abandon(&mut self) -> bool {
        !self.engine.in_flight()
    }

    fn report(&self) -> PathReport {
        PathReport::new(PathKind::Direct, "scripted", 0, 1)
    }

    fn steps(&self) -> u64 {
        self.engine.steps.load(Ordering::SeqCst) as u64
    }
}

impl Drop for Scripted {
    fn drop(&mut self) {
        if self.engine.in_flight()
            && let Some(leased) = self.leased.take()
        {
            leased.leak();
        }
        self.engine.dropped.store(true, Ordering::SeqCst);
    }
}

/// A transport whose only working part is its inbox.
#[derive(Debug, Default)]
pub(crate) struct Inbox {
    waiting: Mutex<VecDeque<Vec<u8>>>,
    broken: AtomicBool,
}

impl Inbox {
    pub(crate) fn push(&self, payload: &[u8]) {
        self.waiting.lock().unwrap().push_back(payload.to_vec());
    }

    pub(crate) fn set_broken(&self, broken: bool) {
        self.broken.store(broken, Ordering::SeqCst);
    }

    pub(crate) fn len(&self) -> usize {
        self.waiting.lock().unwrap().len()
    }
}

#[derive(Debug)]
struct NoRegistrar(RegistrarId);

// SAFETY: it registers nothing.
#[allow(unsafe_code, reason = "the trait is trusted with memory")]
unsafe impl Registrar for NoRegistrar {
    fn id(&self) -> RegistrarId {
        self.0
    }

    fn register(&self, span: &RegionSpan) -> Result<Box<dyn Registered>, RegisterError> {
        Err(RegisterError::Unsupported { device: span.device() })
    }

    fn retire(&self, _: Retired) {}
}

// SAFETY: it prepares no transfer and registers nothing.
#[allow(unsafe_code, reason = "the trait is trusted with memory")]
unsafe impl Transport for Inbox {
    fn name(&self) -> &'static str {
        "inbox"
    }

    fn agent_name(&self) -> &str {
        "inbox-1"
    }

    fn registrar(&self) -> Arc<dyn Registrar> {
        Arc::new(NoRegistrar(RegistrarId::new()))
    }

    fn local_metadata(&self) -> Result<Bytes, TransportError> {
        Err(TransportError::Closed)
    }

    fn connect(&self, _: &[u8]) -> Result<Connected, TransportError> {
        Err(TransportError::Closed)
    }

    fn disconnect(&self, _: &PeerId) -> Result<(), TransportError> {
        Err(TransportError::Closed)
    }

    fn prepare(&self, _: TransferSpec<'_>) -> Result<Box<dyn Transfer>, TransportError> {
        Err(TransportError::Closed)
    }

    fn notify(&self, _: &PeerId, _: &[u8]) -> Poll<Result<(), TransportError>> {
        Poll::Ready(Err(TransportError::Closed))
    }

    fn take_notifications(&self, sink: &mut dyn FnMut(&str, &[u8])) -> Result<(), TransportError> {
        let waiting = std::mem::take(&mut *self.waiting.lock().unwrap());
        for payload in waiting {
            sink("peer-1", &payload);
        }
        if self.broken.load(Ordering::SeqCst) { Err(TransportError::Closed) } else { Ok(()) }
    }
}

/// Keeps the offers that were announced and the messages that arrived, and serves those that ask for it.
#[derive(Debug, Default)]
pub(crate) struct Announced {
    pub(crate) offers: Mutex<Vec<Offer>>,
    pub(crate) messages: Mutex<Vec<Vec<u8>>>,
    pub(crate) serves: Mutex<Option<Arc<Engine>>>,
    pub(crate) listens: AtomicBool,
    pub(crate) checks_every: Mutex<Option<Duration>>,
    /// The offers that slots completed while they were claimed.
    pub(crate) by_slot: Mutex<Vec<NotificationKey>>,
}

impl ConnectionExecutor for Announced {
    fn execute(&self, _: TransferRequest<'_>) -> Result<Box<dyn Execution>, TransportError> {
        Err(TransportError::Closed)
    }

    fn offers(&self) -> Option<&dyn OfferRegistry> {
        Some(self)
    }

    fn peers(&self) -> Option<&dyn PeerService> {
        Some(self)
    }
}

impl OfferRegistry for Announced {
    fn offer_created(&self, offer: Offer) {
        self.offers.lock().unwrap().push(offer);
    }

    fn offer_ended(&self, key: &NotificationKey) {
        self.offers.lock().unwrap().retain(|offer| offer.key() != key);
    }

    fn describe(&self, info: PeerInfo) -> PeerInfo {
        info
    }

    fn shares(&self, _: &DescriptorList) -> Vec<Share> {
        Vec::new()
    }
}

impl PeerService for Announced {
    fn receive(&self, from: &str, payload: &[u8]) -> Received {
        assert_eq!(from, "peer-1");
        if payload == b"serve" {
            return match self.serves.lock().unwrap().take() {
                Some(engine) => Received::Serve(engine.execution()),
                None => Received::Ignored,
            };
        }
        self.messages.lock().unwrap().push(payload.to_vec());
        Received::Taken
    }

    fn has_sessions(&self) -> bool {
        self.listens.load(Ordering::SeqCst)
    }

    fn poll_interval(&self) -> Option<Duration> {
        *self.checks_every.lock().unwrap()
    }

    fn completed_by_slot(&self, key: &NotificationKey) {
        self.by_slot.lock().unwrap().push(key.clone());
    }

    fn peer_ended(&self, _: &PeerId) {}
}

/// Jobs of the connection's blocking thread, until the test runs them.
#[derive(Default)]
pub(crate) struct Jobs(Mutex<Vec<Box<dyn FnOnce() + Send>>>);

impl Jobs {
    /// Runs those that are there.
    pub(crate) fn run_all(&self) {
        let jobs = std::mem::take(&mut *self.0.lock().unwrap());
        jobs.into_iter().for_each(|job| job());
    }
}

impl fmt::Debug for Jobs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Jobs").field(&self.0.lock().unwrap().len()).finish()
    }
}

impl BlockingThread for Jobs {
    fn run(&self, job: Box<dyn FnOnce() + Send>) {
        self.0.lock().unwrap().push(job);
    }
}

/// Says of every peer what the test says.
#[derive(Clone, Debug, Default)]
pub(crate) struct Proofs {
    pub(crate) quiet: Arc<AtomicBool>,
    /// The peers that were watched.
    pub(crate) watched: Arc<Mutex<Vec<Claimant>>>,
    pub(crate) asked: Arc<AtomicUsize>,
    /// The times since the ends of offers whose reads were watched.
    pub(crate) reads: Arc<Mutex<Vec<Duration>>>,
}

// SAFETY: no peer accesses any memory in these tests.
#[allow(unsafe_code, reason = "the trait is trusted with memory")]
unsafe impl QuietProof for Proofs {
    fn watch(&self, peer: &Claimant, _: &[Descriptor], _: Duration) -> Box<dyn QuietWatch> {
        self.watched.lock().unwrap().push(peer.clone());
        Box::new(self.clone())
    }

    fn holders(&self, _: &[SharedName], _: bool) -> Box<dyn QuietWatch> {
        Box::new(self.clone())
    }

    fn reads(&self, ago: Duration) -> Box<dyn QuietWatch> {
        self.reads.lock().unwrap().push(ago);
        Box::new(self.clone())
    }
}

// SAFETY: as above.
#[allow(unsafe_code, reason = "the trait is trusted with memory")]
unsafe impl QuietWatch for Proofs {
    fn is_quiet(&mut self) -> bool {
        self.asked.fetch_add(1, Ordering::SeqCst);
        self.quiet.load(Ordering::SeqCst)
    }
}

pub(crate) struct World {
    pub(crate) clock: Arc<ManualClock>,
    pub(crate) inbox: Arc<Inbox>,
    pub(crate) announced: Arc<Announced>,
    pub(crate) driver: Arc<Driver>,
    pub(crate) reactor: Reactor,
}

impl World {
    pub(crate) fn new() -> Self {
        Self::with(config())
    }

    pub(crate) fn with(config: DriverConfig) -> Self {
        let clock = Arc::new(ManualClock::new());
        let inbox = Arc::new(Inbox::default());
        let (driver, reactor) = Driver::manual(inbox.clone(), clock.clone(), config);
        let announced = Arc::new(Announced::default());
        driver.set_executor(announced.clone());
        Self { clock, inbox, announced, driver: Arc::new(driver), reactor }
    }

    /// Has it ask for proofs.
    pub(crate) fn proving(&self) -> (Proofs, Arc<Jobs>) {
        let (proofs, jobs) = (Proofs::default(), Arc::<Jobs>::default());
        self.driver.set_proofs(Arc::new(proofs.clone()), jobs.clone());
        (proofs, jobs)
    }

    pub(crate) fn read(
        &self,
        engine: &Arc<Engine>,
        memory: &Memory,
        options: OperationOptions,
    ) -> Result<ReadOperation, OperationError> {
        let leased = memory.leased();
        ReadOperation::begin(&self.driver, engine.moving(leased), memory.list(), options)
    }

    pub(crate) fn copy(
        &self,
        engine: &Arc<Engine>,
        memory: &Memory,
    ) -> Result<CopyOperation, OperationError> {
        let (leases, bytes) = (memory.leases(), memory.list().total_bytes());
        let (execution, options) = (engine.execution(), OperationOptions::new());
        CopyOperation::begin(&self.driver, execution, bytes, vec![leases], options)
    }

    pub(crate) fn writable(
        &self,
        memory: &Memory,
        options: OperationOptions,
    ) -> Result<WritableOperation, OperationError> {
        let spec = self.spec(Offering::writable(), memory);
        let executor: Arc<dyn ConnectionExecutor> = self.announced.clone();
        WritableOperation::offer(&self.driver, &executor, spec, options)
    }

    /// A writable offer, without a deadline.
    pub(crate) fn offer(&self, offering: Offering, memory: &Memory) -> WritableOperation {
        self.offer_for(offering, memory, OperationOptions::new())
    }

    pub(crate) fn offer_for(
        &self,
        offering: Offering,
        memory: &Memory,
        options: OperationOptions,
    ) -> WritableOperation {
        let (spec, executor): (_, Arc<dyn ConnectionExecutor>) =
            (self.spec(offering, memory), self.announced.clone());
        WritableOperation::offer(&self.driver, &executor, spec, options).unwrap()
    }

    /// A readable offer, without a deadline.
    pub(crate) fn readable(&self, offering: Offering, memory: &Memory) -> ReadableOperation {
        self.readable_for(offering, memory, OperationOptions::new())
    }

    pub(crate) fn readable_for(
        &self,
        offering: Offering,
        memory: &Memory,
        options: OperationOptions,
    ) -> ReadableOperation {
        let (spec, executor): (_, Arc<dyn ConnectionExecutor>) =
            (self.spec(offering, memory), self.announced.clone());
        ReadableOperation::offer(&self.driver, &executor, spec, options).unwrap()
    }

    fn spec(&self, offering: Offering, memory: &Memory) -> OfferSpec {
        let (list, kind) = (memory.list(), offering.kind);
        let descriptors = list
            .iter()
            .map(|d| SerializedDescriptor::new(d.device(), d.address(), d.len() as u64).unwrap())
            .collect();
        let (agent, key) = (AgentMetadata::compress(b"inbox").unwrap(), NotificationKey::random());
        let slot = offering.slot.then(|| self.driver.arm_slot(&key, kind).unwrap());
        let mut metadata = RdmaMetadata::new(kind, descriptors, agent, key).unwrap();
        if let Some(slot) = &slot {
            metadata = metadata.with_slot_address(slot.address()).unwrap();
        }
        if let Some((claims, readers)) = offering.terms {
            let expires = UNIX_EPOCH + self.clock.unix_time() + offering.life_time;
            let terms = OfferTerms::new(expires, NonZeroU64::new(TOKEN).unwrap()).unwrap();
            let terms = terms.with_claims(claims).with_readers(readers);
            metadata = metadata.with_terms(terms).unwrap();
        }
        let leased = match kind {
            OperationKind::Read => memory.leased_to_read(),
            OperationKind::Write => memory.leased(),
        };
        let spec = OfferSpec::new(metadata, list, leased, offering.registrations);
        spec.with_slot(slot).with_life_time(offering.life_time)
    }
}

/// The token of all offers with terms.
pub(crate) const TOKEN: u64 = 0x5eed;

/// What an offer is to be like.
#[derive(Debug)]
pub(crate) struct Offering {
    kind: OperationKind,
    slot: bool,
    terms: Option<(ClaimDemand, NonZeroU32)>,
    registrations: Vec<Registration>,
    life_time: Duration,
}

impl Offering {
    fn of(kind: OperationKind) -> Self {
        let (registrations, life_time) = (Vec::new(), OfferSpec::LIFE_TIME);
        Self { kind, slot: false, terms: None, registrations, life_time }
    }

    /// As Dynamo's: without terms and without a slot.
    pub(crate) fn writable() -> Self {
        Self::of(OperationKind::Write)
    }

    pub(crate) fn readable() -> Self {
        Self::of(OperationKind::Read)
    }

    pub(crate) fn with_slot(mut self) -> Self {
        self.slot = true;
        self
    }

    pub(crate) fn claims(mut self, claims: ClaimDemand) -> Self {
        self.terms = Some((claims, NonZeroU32::MIN));
        self
    }

    pub(crate) fn life_time(mut self, life_time: Duration) -> Self {
        self.life_time = life_time;
        self
    }

    pub(crate) fn registered(mut self, registration: Registration) -> Self {
        self.registrations.push(registration);
        self
    }

    pub(crate) fn readers(mut self, readers: u32) -> Self {
        self.terms = Some((ClaimDemand::SameHost, NonZeroU32::new(readers).unwrap()));
        self
    }
}

/// One destination.
pub(crate) struct Memory(DescriptorList);

impl Memory {
    /// Posted on the caller's thread.
    pub(crate) fn small() -> Self {
        Self::of(INLINE)
    }

    /// Posted by the driver.
    pub(crate) fn large() -> Self {
        Self::of(INLINE + 1)
    }

    pub(crate) fn from(region: Region) -> Self {
        Self(region.into())
    }

    /// Over a region that the test may take back.
    pub(crate) fn over(bytes: Vec<u8>) -> (Self, Region) {
        let region = Region::try_from(bytes).unwrap();
        (Self(region.clone().into()), region)
    }

    pub(crate) fn of(len: usize) -> Self {
        Self(Region::try_from(vec![0; len]).unwrap().into())
    }

    pub(crate) fn list(&self) -> DescriptorList {
        self.0.clone()
    }

    fn leases(&self) -> LeaseSet {
        Leases::acquire(self.0.as_slice(), LeaseMode::Write).unwrap()
    }

    pub(crate) fn leased(&self) -> Leased {
        self.leases().into()
    }

    pub(crate) fn leased_to_read(&self) -> Leased {
        Leases::acquire(self.0.as_slice(), LeaseMode::Read).unwrap().into()
    }

    pub(crate) fn is_leased(&self) -> bool {
        Leases::acquire(self.0.as_slice(), LeaseMode::Write).is_err()
    }
}

pub(crate) fn timeout(after: Duration) -> OperationOptions {
    OperationOptions::new().timeout(after)
}

pub(crate) fn broken() -> TransportError {
    TransportError::PeerGone { name: "peer-1".into() }
}

/// Counts wake-ups.
#[derive(Debug, Default)]
pub(crate) struct Wakes(AtomicUsize);

impl Wakes {
    pub(crate) fn count(&self) -> usize {
        self.0.load(Ordering::SeqCst)
    }
}

impl Wake for Wakes {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}

/// Polls `future` once with `wakes`.
pub(crate) fn poll<F: Future + Unpin>(future: &mut F, wakes: &Arc<Wakes>) -> Poll<F::Output> {
    let waker = Waker::from(Arc::clone(wakes));
    pin!(future).poll(&mut Context::from_waker(&waker))
}

/// The output of a future that is ready at its first poll.
pub(crate) fn now<F: Future<Output: fmt::Debug>>(future: F) -> F::Output {
    match pin!(future).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(output) => output,
        Poll::Pending => panic!("still pending"),
    }
}

/// Whether a future is pending at its first poll.
pub(crate) fn is_pending<F: Future>(future: F) -> bool {
    pin!(future).poll(&mut Context::from_waker(Waker::noop())).is_pending()
}
