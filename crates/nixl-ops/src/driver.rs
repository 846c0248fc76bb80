//! The driver: polls operations to their end, awaited or not.

use std::collections::VecDeque;
use std::fmt;
use std::io;
use std::mem;
use std::num::NonZeroU64;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock, Weak};
use std::task::{Wake, Waker};
use std::time::{Duration, Instant};

use nixl_descriptor::BufferPool;
use nixl_device::{ForkGeneration, LeakInChild};

use crate::contained::contained;
use crate::control::{
    ClaimRoute, Claims, ControlMessage, ControlOutcome, ControlVerb, MessageClaim, Owner,
};
use crate::deadline::Deadline;
use crate::drain::Departures;
use crate::overdue::{OverdueList, OverdueTotal};
use crate::parking::{DoorbellListener, Parking};
use crate::passive::{OfferSpec, PassiveEntry, PassiveTable, QuietProof, SlotsFound};
use crate::posts::{PostHistory, PostedBy};
use crate::sync::{Mutex, lock, thread};
use crate::task::{self, ActiveCount, Count, InFlight, SlotState, Task, TaskSlot};
use crate::telemetry::EndMetrics;
use crate::typical::TypicalDurations;
use crate::unexpected::{IdleLooks, Unexpected};
use crate::wakes::WakeBatch;
use crate::{
    BlockingThread, Clock, ConnectionExecutor, DriverConfig, DriverStats, Execution, Mailboxes,
    OfferSlot, OperationError, OperationOptions, OperationStatus, PeerId, PeerService, Received,
    RemoteSlots, Transport, TransportError,
};
use nixl_metadata::{AgentMetadata, NotificationKey, OfferTerms, OperationKind, RdmaMetadata};

/// What a driver does next.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[allow(clippy::exhaustive_enums, reason = "a caller of `Reactor::turn` must handle each")]
pub enum Next {
    /// Look again at once.
    Spin,
    /// Look again after this time, or when unparked.
    Sleep(Duration),
    /// Nothing is outstanding: wait to be unparked, or for as long as the executor
    /// [checks](crate::PeerService::poll_interval) for messages.
    Park,
    /// The driver was dropped and everything has ended.
    Exit,
}

/// Handle to the driver of one connection. When the last clone of its owner drops it, the driver finishes
/// what is in flight on its own and then ends.
pub struct Driver {
    shared: LeakInChild<Arc<Shared>>,
    waker: Arc<DriverWaker>,
}

/// Wakes a driver's thread without keeping the driver.
struct DriverWaker(Weak<Shared>);

pub(crate) struct Shared {
    inbox: Mutex<Inbox>,
    active: Arc<ActiveCount>,
    overdue: Arc<OverdueTotal>,
    /// How many of the active ones wait for the others.
    pub(crate) drains: AtomicUsize,
    pub(crate) departures: Departures,
    typical: TypicalDurations,
    posts: PostHistory,
    pub(crate) metrics: EndMetrics,
    parking: Parking,
    /// It turns, or will at once.
    awake: AtomicBool,
    /// A new waiter arrived: the next turn counts as progress, so that the back-off starts anew.
    new_waiter: AtomicBool,
    closing: AtomicBool,
    pub(crate) passive: Arc<PassiveTable>,
    /// Answers claims of its offers.
    owner: OnceLock<Owner>,
    claims: Arc<Claims>,
    unexpected: Unexpected,
    /// Notes by which pages peers are answered.
    mailboxes: OnceLock<Arc<Mailboxes>>,
    /// Gets the messages that end no passive operation.
    executor: OnceLock<Arc<dyn ConnectionExecutor>>,
    /// Read for notifications; a driver of copies inside the process has none.
    transport: Option<Arc<dyn Transport>>,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) config: DriverConfig,
    generation: ForkGeneration,
}

/// What was begun and is not the reactor's yet.
#[derive(Default)]
struct Inbox {
    slots: Vec<Arc<TaskSlot>>,
    /// There is no reactor any more.
    closed: bool,
}

/// Of a driver that no reactor turns any more.
const ENDED: TransportError = TransportError::ThreadEnded { thread: Driver::THREAD };

impl Driver {
    const THREAD: &str = "nixl-driver";

    /// Starts a driver on a thread of its own.
    ///
    /// # Errors
    ///
    /// If the operating system refuses the thread.
    pub fn spawn(
        transport: Arc<dyn Transport>,
        clock: Arc<dyn Clock>,
        config: DriverConfig,
    ) -> io::Result<Self> {
        Self::start(Some(transport), clock, config)
    }

    /// Starts a driver for copies inside this process, which need no transport.
    ///
    /// # Errors
    ///
    /// If the operating system refuses the thread.
    pub fn spawn_local(clock: Arc<dyn Clock>, config: DriverConfig) -> io::Result<Self> {
        Self::start(None, clock, config)
    }

    fn start(
        transport: Option<Arc<dyn Transport>>,
        clock: Arc<dyn Clock>,
        config: DriverConfig,
    ) -> io::Result<Self> {
        let (driver, mut reactor) = Self::assemble(transport, clock, config);
        let run = move || {
            nixl_descriptor::defer_disposal_on_this_thread();
            reactor.run();
        };
        let handle = thread::Builder::new().name(Self::THREAD.to_owned()).spawn(run)?;
        // Set before any operation can begin, since `driver` has not been handed out.
        driver.shared.parking.set_thread(handle.thread().clone());
        Ok(driver)
    }

    /// A driver that only moves when its [`Reactor`] is turned: for simulation.
    pub fn manual(
        transport: Arc<dyn Transport>,
        clock: Arc<dyn Clock>,
        config: DriverConfig,
    ) -> (Self, Reactor) {
        Self::assemble(Some(transport), clock, config)
    }

    fn assemble(
        transport: Option<Arc<dyn Transport>>,
        clock: Arc<dyn Clock>,
        config: DriverConfig,
    ) -> (Self, Reactor) {
        let passive = PassiveTable::new(Arc::clone(&clock), config.drain, config.clock_skew);
        let shared = Arc::new(Shared {
            inbox: Mutex::default(),
            active: Arc::default(),
            overdue: Arc::default(),
            drains: AtomicUsize::new(0),
            departures: Departures::default(),
            typical: TypicalDurations::default(),
            posts: PostHistory::default(),
            metrics: EndMetrics::default(),
            parking: Parking::new(Arc::clone(&passive.page)),
            awake: AtomicBool::new(false),
            new_waiter: AtomicBool::new(false),
            closing: AtomicBool::new(false),
            owner: OnceLock::new(),
            claims: Arc::default(),
            unexpected: Unexpected::default(),
            mailboxes: OnceLock::new(),
            executor: OnceLock::new(),
            passive,
            transport,
            clock,
            config,
            generation: ForkGeneration::current(),
        });
        let reactor = Reactor::new(Arc::clone(&shared));
        let waker = Arc::new(DriverWaker(Arc::downgrade(&shared)));
        (Self { shared: LeakInChild::new(shared), waker }, reactor)
    }

    /// Whether this process was forked from that of the driver, which has its thread. Then its operations end with an error.
    ///
    /// # Errors
    ///
    /// [`TransportError::Forked`].
    pub fn check_process(&self) -> Result<(), TransportError> {
        match self.shared.is_inherited() {
            true => Err(TransportError::Forked),
            false => Ok(()),
        }
    }

    /// What is in hand now. Nothing, in a process that was forked from that of the driver.
    pub fn stats(&self) -> DriverStats {
        if self.check_process().is_err() {
            return DriverStats::default();
        }
        let passive = self.shared.passive.stats();
        DriverStats {
            active: self.shared.active.load(Ordering::Acquire),
            overdue: self.shared.overdue.get(),
            passive: self.shared.passive.len(),
            quarantined: passive.quarantined,
            quarantined_without_terms: passive.quarantined_without_terms,
            retained: passive.retained,
            second_completions: passive.second_completions,
            unexpected_notifications: self.shared.unexpected.notifications(),
            unexpected_bytes: self.shared.unexpected.bytes(),
            unreadable_notifications: self.shared.unexpected.unreadable(),
        }
    }

    /// Wakes the driver's thread, so that it looks at once. For executions that learn of their end elsewhere, in a
    /// callback say.
    pub fn waker(&self) -> Waker {
        Waker::from(Arc::clone(&self.waker))
    }

    /// Hands messages that end no passive operation to this executor from now on. Only the first call counts.
    pub fn set_executor(&self, executor: Arc<dyn ConnectionExecutor>) {
        let _ = self.shared.executor.set(executor);
    }

    /// The mailboxes of peers, whose pages are among `slots`, and this driver's own. Only the first call counts.
    pub fn mailboxes(&self, slots: &Arc<RemoteSlots>) -> Arc<Mailboxes> {
        let make = || Arc::new(Mailboxes::new(Arc::clone(slots), self.shared.passive.page.clone()));
        Arc::clone(self.shared.mailboxes.get_or_init(make))
    }

    /// What proves that a peer no longer touches the memory of an offer, asked on `background`. Only the first call counts;
    /// without it nothing is proven.
    /// Claims by messages are answered there, too.
    pub fn set_proofs(&self, quiet: Arc<dyn QuietProof>, background: Arc<dyn BlockingThread>) {
        if let Some(transport) = &self.shared.transport {
            let owner = Owner::new(Arc::clone(transport), Arc::clone(&background));
            let _ = self.shared.owner.set(owner);
        }
        self.shared.passive.set_proofs(quiet, background);
    }

    /// The same execution, once the offer's owner has granted the claim that its terms demand, or at once if none is
    /// `demanded` and the owner knows this side since before it made the offer: then it is asked before it takes the offer for
    /// one that is not written. `metadata` is how the owner reaches this side.
    pub fn claiming(
        &self,
        execution: Box<dyn Execution>,
        (remote, terms): (&RdmaMetadata, &OfferTerms),
        peer: &PeerId,
        metadata: &AgentMetadata,
        demanded: bool,
    ) -> Box<dyn Execution> {
        let Some(transport) = &self.shared.transport else { return execution };
        let offer = (remote.notification_key().clone(), terms.token().get());
        let route = ClaimRoute {
            transport: Arc::clone(transport),
            peer: peer.clone(),
            metadata: metadata.compressed().clone(),
        };
        let (claims, clock) = (Arc::clone(&self.shared.claims), Arc::clone(&self.shared.clock));
        let is_known = !demanded && claims.is_known(peer, terms.made_unix_millis());
        MessageClaim::before(execution, claims, clock, offer, route, is_known)
    }

    /// A slot for an offer of this key that is about to be made. `None` if all are taken, or the system gives no memory for
    /// them: then initiators complete the offer through the engine.
    pub fn arm_slot(&self, key: &NotificationKey, kind: OperationKind) -> Option<OfferSlot> {
        self.shared.passive.page.arm(key, kind)
    }

    /// Takes charge of an execution: posts it now if its caller does, and sees it through.
    pub(crate) fn begin(
        &self,
        execution: Box<dyn Execution>,
        bytes: u64,
        posted_by: PostedBy,
        options: OperationOptions,
    ) -> Result<Arc<TaskSlot>, OperationError> {
        self.check_process()?;
        let limit = self.shared.config.max_in_flight;
        let count = InFlight::count(&self.shared.active, limit);
        let count = count.ok_or(OperationError::QueueFull { limit })?;
        self.take_charge(execution, bytes, (posted_by, false), options, count)
    }

    /// Takes charge of an execution that was polled before and may be in flight: however many there are.
    pub(crate) fn resume(
        &self,
        execution: Box<dyn Execution>,
        bytes: u64,
        options: OperationOptions,
    ) -> Result<Arc<TaskSlot>, OperationError> {
        self.check_process()?;
        let count = InFlight::beyond_limit(&self.shared.active);
        self.take_charge(execution, bytes, (PostedBy::Caller, true), options, count)
    }

    fn take_charge(
        &self,
        execution: Box<dyn Execution>,
        bytes: u64,
        (posted_by, posted): (PostedBy, bool),
        options: OperationOptions,
        count: InFlight,
    ) -> Result<Arc<TaskSlot>, OperationError> {
        let shared = &self.shared;
        if lock(&shared.inbox).closed {
            return Err(ENDED.into());
        }
        let begun = shared.clock.now();
        let slot = Arc::new(TaskSlot::new(Task {
            execution,
            bytes,
            begun,
            posted,
            steps: 0,
            count: Count::InFlight(count),
            deadline: Deadline::starting(begun, &options),
            drain_by: None,
            span: tracing::debug_span!(
                "operation",
                bytes,
                traceparent = options.trace().map(tracing::field::display)
            ),
        }));
        if posted_by == PostedBy::Caller && shared.poll(&slot) == SlotState::Ended {
            return Ok(slot);
        }
        if !lock(&shared.inbox).add(&slot) {
            shared.give_up(&slot, ENDED.into());
            return Err(ENDED.into());
        }
        match posted_by {
            PostedBy::Caller | PostedBy::Waiter => shared.wake(false),
            PostedBy::Driver => shared.kick(),
        }
        Ok(slot)
    }

    /// Registers a passive operation, so that its peer's notification finds it.
    pub(crate) fn offer(
        &self,
        spec: OfferSpec,
        options: OperationOptions,
    ) -> Result<Arc<PassiveEntry>, OperationError> {
        self.check_process()?;
        let limit = self.shared.config.max_in_flight;
        if self.shared.passive.len() >= limit {
            return Err(OperationError::QueueFull { limit });
        }
        let entry = self.shared.passive.insert(spec, &options);
        if lock(&self.shared.inbox).closed {
            entry.abandon(ENDED.into());
            return Err(ENDED.into());
        }
        self.shared.kick();
        Ok(entry)
    }

    pub(crate) fn shared(&self) -> &Arc<Shared> {
        &self.shared
    }
}

impl Shared {
    const SPIN_ALONE: Duration = Duration::from_micros(200);

    /// The longest copy in a post that the thread which begins it makes.
    const LONGEST_POST: Duration = Duration::from_micros(50);

    /// Which thread posts an execution.
    pub(crate) fn posted_by(&self, bytes: u64, execution: &dyn Execution) -> PostedBy {
        if execution.posts_quickly() {
            return PostedBy::Caller;
        }
        if bytes > self.config.inline_bytes {
            return PostedBy::Driver;
        }
        if !execution.takes_turns() {
            return PostedBy::Caller;
        }
        if self.posts.end_at_once() {
            // A thread that begins several need not copy them all before it goes on.
            return match self.typical.of(bytes) <= Self::LONGEST_POST {
                true => PostedBy::Caller,
                false => PostedBy::Waiter,
            };
        }
        // With many tasks the driver is awake, and alone at the engine it does more.
        let is_busy = self.awake.load(Ordering::Relaxed) && self.active.load(Ordering::Relaxed) > 0;
        if is_busy { PostedBy::Driver } else { PostedBy::Caller }
    }

    /// How long the waiter of an operation looks at first. One alone in flight is looked at for longer: most end within that,
    /// and a look that sees the end costs nothing of the thread's budget.
    pub(crate) fn spin_time(&self, bytes: u64) -> Duration {
        let alone = self.active.load(Ordering::Relaxed) <= 1 && !self.config.inline_spin.is_zero();
        match alone {
            // Twice what such ones take: a look that sees no end costs the next ones theirs.
            true => self.config.inline_spin.max(Self::SPIN_ALONE.min(self.typical.of(bytes) * 2)),
            false => self.config.inline_spin,
        }
    }

    pub(crate) fn poll(&self, slot: &TaskSlot) -> SlotState {
        slot.poll(self.context())
    }

    fn give_up(&self, slot: &TaskSlot, error: OperationError) {
        slot.give_up(error, self.context());
    }

    fn context(&self) -> task::Context<'_> {
        let Self { clock, config, overdue, typical, posts, metrics, .. } = self;
        task::Context { clock: &**clock, config, overdue, typical, posts, metrics }
    }

    /// Operations that have not ended, of either side.
    pub(crate) fn in_hand(&self) -> usize {
        self.active.load(Ordering::Acquire) + self.passive.awaited()
    }

    pub(crate) fn transport(&self) -> Option<Arc<dyn Transport>> {
        self.transport.clone()
    }

    /// What serves the messages of peers.
    fn peer_service(&self) -> Option<&dyn PeerService> {
        self.executor.get().and_then(|executor| executor.peers())
    }

    /// Whether a notification or message of a peer is awaited.
    fn expects_messages(&self) -> bool {
        self.passive.awaited() > 0
            || self.passive.grants.are_awaited()
            || self.claims.are_open()
            || self.peer_service().is_some_and(|service| service.has_sessions())
    }

    /// A message about a claim. Returns whether it says something of an operation here.
    fn receive_control(&self, from: &str, payload: &[u8]) -> bool {
        let Some(message) = ControlMessage::decode(payload) else {
            tracing::debug!(
                from,
                bytes = payload.len(),
                "a message about a claim that cannot be read"
            );
            return false;
        };
        if message.verb == ControlVerb::Leaving {
            self.departures.note(from);
            return true;
        }
        if message.verb == ControlVerb::GrantDone {
            return self.passive.grants.receive(message.key);
        }
        if let ControlVerb::Notification { .. } = message.verb {
            return self.passive.grants.notified(from, &message);
        }
        let is_owner =
            self.owner.get().is_some_and(|owner| owner.receive(&self.passive, from, &message));
        match self.claims.receive(from, &message, self.clock.unix_time()) {
            ControlOutcome::Nothing => is_owner,
            ControlOutcome::Taken => true,
            ControlOutcome::Answer(answer) => {
                if let Some(transport) = &self.transport {
                    // The owner asks again if it is lost.
                    let _ = transport.notify(&PeerId::new(from), &answer);
                }
                true
            }
        }
    }

    /// How often messages are taken for offers that have ended.
    fn poll_interval(&self) -> Option<Duration> {
        let executor = self.peer_service().and_then(|service| service.poll_interval());
        executor.into_iter().chain(self.passive.poll_interval()).min()
    }

    /// A slot for what a peer has asked for.
    fn serve(&self, execution: Box<dyn Execution>) -> Arc<TaskSlot> {
        let task = Task {
            execution,
            bytes: 0,
            begun: self.clock.now(),
            posted: false,
            steps: 0,
            // The executor bounds them.
            count: Count::InFlight(InFlight::beyond_limit(&self.active)),
            deadline: None,
            drain_by: None,
            span: tracing::debug_span!("served operation"),
        };
        Arc::new(TaskSlot::serving(task))
    }

    /// Makes the driver poll at once and closely for a while, in any state of its back-off.
    pub(crate) fn kick(&self) {
        // Another that has set it nudges as well.
        if !self.new_waiter.swap(true, Ordering::SeqCst) {
            self.wake(true);
        }
    }

    /// Makes the driver look: at once if `urgent`, else within its current sleep, which is short unless it
    /// is parked.
    pub(crate) fn wake(&self, urgent: bool) {
        // A fork's child would ring at its parent's page.
        if !self.generation.is_current() {
            return;
        }
        match urgent {
            true => self.parking.wake(),
            false => self.parking.wake_if_parked(),
        }
    }
}

impl Inbox {
    /// Returns whether the reactor will find it.
    fn add(&mut self, slot: &Arc<TaskSlot>) -> bool {
        if !self.closed {
            self.slots.push(Arc::clone(slot));
        }
        !self.closed
    }
}

impl Wake for DriverWaker {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        if let Some(shared) = self.0.upgrade() {
            shared.wake(true);
        }
    }
}

impl Drop for Driver {
    fn drop(&mut self) {
        if self.check_process().is_err() {
            return;
        }
        self.shared.closing.store(true, Ordering::SeqCst);
        self.shared.wake(true);
    }
}

impl fmt::Debug for Driver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Driver")
            .field("transport", &self.shared.transport)
            .field("stats", &self.stats())
            .finish_non_exhaustive()
    }
}

/// The driver's loop body, free of threads and of real time.
pub struct Reactor {
    shared: Arc<Shared>,
    /// In the order in which they are looked at: those that waited longest come first.
    active: VecDeque<Arc<TaskSlot>>,
    overdue: OverdueList,
    last_progress: Duration,
    /// New operations are not polled by the driver before this time, since their callers usually spin on them: two threads that ask an
    /// engine at once get in each other's way.
    caller_first_until: Option<Duration>,
    /// While the waiters of all transfers spin: the earliest end of their spinning.
    callers_spin_until: Option<Duration>,
    listener: DoorbellListener,
    idle_looks: IdleLooks,
    /// When messages were taken last.
    taken: Duration,
    notifications_failed: bool,
    /// When nothing was left but memory that peers may be reading.
    closed: Option<Duration>,
    /// Turns in a row that have panicked.
    panics: u32,
}

impl Reactor {
    /// How often readers' words are looked for once the driver was dropped.
    const CLOSING: Duration = Duration::from_millis(10);

    /// A turn stops polling transfers after this long, to look at notifications and deadlines.
    const TURN: Duration = Duration::from_millis(1);
    /// Those whose operations have ended are woken together, and wait for it no longer than this.
    const BATCH: Duration = Duration::from_micros(100);
    /// Sleeps rather than parks this long after the last operation ended, since another usually follows, and need then
    /// not wake it. An operation that is not awaited is posted, but polled to its end only then.
    const SLEEP_BEFORE_PARK: Duration = Duration::from_millis(1);

    fn new(shared: Arc<Shared>) -> Self {
        let last_progress = shared.clock.now();
        Self {
            shared,
            active: VecDeque::new(),
            overdue: OverdueList::default(),
            last_progress,
            caller_first_until: None,
            callers_spin_until: None,
            listener: DoorbellListener::new(),
            idle_looks: IdleLooks::new(),
            taken: last_progress,
            notifications_failed: false,
            closed: None,
            panics: 0,
        }
    }

    /// Looks once at everything outstanding.
    pub fn turn(&mut self) -> Next {
        let started = self.shared.clock.now();
        self.listener.listen(&self.shared.parking);
        let idle = self.active.is_empty();
        let new_waiter = self.shared.new_waiter.swap(false, Ordering::SeqCst);
        let mut progress = self.admit() | new_waiter;
        if progress {
            self.idle_looks.begin();
        }
        if self.shared.closing.load(Ordering::SeqCst) {
            self.dismiss();
        }
        if new_waiter {
            self.caller_first_until = None;
        } else if idle && progress {
            self.caller_first_until = Some(started.saturating_add(self.shared.config.inline_spin));
        }
        if self.caller_first_until.is_none_or(|until| started >= until) {
            progress |= self.caller_first_until.take().is_some();
            progress |= self.poll_active(started);
        } else {
            self.callers_spin_until = None;
        }
        progress |= self.poll_passive();
        let now = self.shared.clock.now();
        let shared = &self.shared;
        self.overdue.poll(now, |slot| shared.poll(slot));
        if self.shared.passive.expire(now)
            && let Some(owner) = self.shared.owner.get()
        {
            owner.query(&self.shared.passive);
        }
        if progress {
            self.last_progress = now;
        }
        let early = self.active.iter().filter_map(|slot| slot.wake_early(now)).min();
        let near = self.active.iter().filter_map(|slot| slot.poll_closely_from(now)).min();
        match (self.next(now), early.into_iter().chain(near).min()) {
            (Next::Sleep(_), Some(at)) if at <= now => Next::Spin,
            (Next::Sleep(sleep), Some(at)) => Next::Sleep(sleep.min(at.saturating_sub(now))),
            (next, _) => next,
        }
    }

    /// Ends the executions served for peers, once the driver's owner has dropped it.
    fn dismiss(&self) {
        for slot in self.active.iter().filter(|slot| slot.is_served()) {
            slot.cell.finish(OperationStatus::Cancelled, Err(OperationError::Cancelled));
        }
    }

    fn admit(&mut self) -> bool {
        let mut inbox = lock(&self.shared.inbox);
        let admitted = !inbox.slots.is_empty();
        self.active.extend(inbox.slots.drain(..));
        admitted
    }

    fn poll_active(&mut self, started: Duration) -> bool {
        let mut progress = false;
        let (mut spinning_until, mut all_spin) = (None, true);
        let (wakes, mut flushed) = (WakeBatch::begin(), started);
        // Each goes to the end of the queue: those that a turn does not reach come first in the next.
        for _ in 0..self.active.len() {
            let Some(slot) = self.active.pop_front() else { break };
            if let Some(until) = slot.caller_spins_until(started) {
                spinning_until =
                    Some(spinning_until.map_or(until, |first: Duration| first.min(until)));
                self.active.push_back(slot);
                continue;
            }
            all_spin = false;
            let state = self.shared.poll(&slot);
            progress |= matches!(state, SlotState::Ended | SlotState::Stepped);
            match state {
                // The last handle may be this one, and drops a waker.
                SlotState::Ended | SlotState::Gone => {
                    let _ = contained("a waker", || drop(slot));
                }
                SlotState::Overdue => self.overdue.add(slot, self.shared.clock.now()),
                SlotState::Busy | SlotState::Pending | SlotState::Stepped => {
                    self.active.push_back(slot);
                }
            }
            let now = self.shared.clock.now();
            if now.saturating_sub(started) > Self::TURN {
                break;
            }
            if now.saturating_sub(flushed) > Self::BATCH {
                wakes.flush();
                flushed = now;
            }
        }
        self.callers_spin_until = spinning_until.filter(|_| all_spin);
        progress
    }

    fn poll_passive(&mut self) -> bool {
        let shared = &self.shared;
        let Some(transport) = &shared.transport else { return false };
        let now = shared.clock.now();
        let is_due = |every| now.saturating_sub(self.taken) >= every;
        let closing = self.closed.is_some();
        if !shared.expects_messages() && !closing && !self.poll_interval().is_some_and(is_due) {
            return false;
        }
        self.taken = now;
        let service = shared.peer_service();
        let found = shared.passive.poll_slots(&mut |key| {
            if let Some(service) = service {
                service.completed_by_slot(key);
            }
        });
        let mut delivered = found == SlotsFound::End;
        let active = &mut self.active;
        let mut bytes = 0;
        let mut receive = |from: &str, payload: &[u8]| {
            bytes += payload.len() as u64;
            // A message that cannot be taken costs no other.
            let taken = contained("the receipt of a message", || {
                if ControlMessage::is_one(payload) {
                    return match shared.receive_control(from, payload) {
                        true => Received::Taken,
                        false => Received::Ignored,
                    };
                }
                match shared.passive.deliver(payload) {
                    true => Received::Taken,
                    false => service.map_or(Received::Ignored, |s| s.receive(from, payload)),
                }
            });
            match taken.unwrap_or(Received::Ignored) {
                Received::Serve(execution) => {
                    active.push_back(shared.serve(execution));
                    delivered = true;
                }
                Received::Taken => delivered = true,
                Received::Ignored => {
                    tracing::debug!(from, bytes = payload.len(), "notification for no operation");
                    shared.unexpected.note(payload.len());
                }
            }
        };
        let mail = shared.passive.page.take_mail(&mut |letter| {
            if let (Some(reply), Some(mailboxes)) = (letter.reply, shared.mailboxes.get()) {
                mailboxes.note(letter.from, reply);
            }
            receive(letter.from, letter.payload);
        });
        let result = transport.take_notifications(&mut receive);
        delivered |= mail;
        self.listener.looked(mail || found != SlotsFound::Nothing);
        let unreadable = shared.passive.page.unreadable_mail();
        shared.unexpected.note_unreadable(transport.unreadable_notifications() + unreadable);
        self.idle_looks.took(bytes);
        if let Err(error) = &result
            && !self.notifications_failed
        {
            tracing::warn!(%error, "notifications cannot be read; passive operations will time out");
        }
        self.notifications_failed = result.is_err();
        delivered
    }

    /// How often messages are taken that are not awaited.
    fn poll_interval(&self) -> Option<Duration> {
        self.shared.poll_interval().into_iter().chain(self.idle_looks.every()).min()
    }

    fn next(&mut self, now: Duration) -> Next {
        let idle = now.saturating_sub(self.last_progress);
        // In this order: nothing is added once it closes, and what was added since this turn began is still to be admitted.
        let over = self.shared.closing.load(Ordering::SeqCst)
            && self.active.is_empty()
            && lock(&self.shared.inbox).slots.is_empty()
            && self.shared.passive.awaited() == 0;
        if over {
            self.dismiss_overdue();
            // What is in quarantine, or retained, beyond the drain time is leaked.
            let closed = *self.closed.get_or_insert(now);
            let waited = now.saturating_sub(closed) >= self.shared.config.drain;
            return match self.shared.passive.retains() && !waited {
                true => Next::Sleep(Self::CLOSING),
                false => Next::Exit,
            };
        }
        let config = &self.shared.config;
        if !self.active.is_empty() || self.shared.expects_messages() {
            let rest = self
                .caller_first_until
                .or(self.callers_spin_until)
                .map(|until| until.saturating_sub(now));
            return match (config.backoff.sleep_after(idle), rest) {
                (None, Some(rest)) if !self.shared.expects_messages() => Next::Sleep(rest),
                (None, _) => Next::Spin,
                (Some(sleep), rest) => Next::Sleep(rest.map_or(sleep, |rest| rest.min(sleep))),
            };
        }
        match Self::SLEEP_BEFORE_PARK.checked_sub(idle) {
            // One sleep, not ticks: the waiter of an operation polls it, and wakes the driver only if that
            // does not help.
            Some(rest) if !rest.is_zero() => Next::Sleep(rest),
            _ => {
                // The end of the park.
                if let Some(due) = self.overdue.due() {
                    self.shared.passive.wake_by(due);
                }
                Next::Park
            }
        }
    }

    /// Leaks what is overdue and not quiet now, once nothing else is left to wait for: its drain time is over.
    fn dismiss_overdue(&mut self) {
        for slot in self.overdue.take() {
            if !matches!(self.shared.poll(&slot), SlotState::Ended | SlotState::Gone) {
                self.shared.give_up(&slot, OperationError::Cancelled);
            }
        }
    }

    /// A panic that is not contained where it arises costs a turn, and after several in a row some time.
    fn contained_turn(&mut self) -> Next {
        self.shared.awake.store(true, Ordering::Relaxed);
        match contained("a turn of the driver", || self.turn()) {
            Ok(next) => {
                self.panics = 0;
                self.shared.awake.store(next == Next::Spin, Ordering::Relaxed);
                next
            }
            Err(_) => {
                self.panics = self.panics.saturating_add(1);
                Next::Sleep(Duration::from_millis(1).saturating_mul(1 << self.panics.min(10)))
            }
        }
    }

    /// Turns until the driver is dropped and everything has ended.
    fn run(&mut self) {
        // The default slack of 50 us would double the shortest sleeps. Failing to set it costs only that.
        let _ = rustix::thread::set_current_timer_slack(NonZeroU64::new(1));
        let shared = Arc::clone(&self.shared);
        let clock = &*shared.clock;
        loop {
            match self.contained_turn() {
                Next::Spin => std::hint::spin_loop(),
                Next::Sleep(time) => {
                    let is_awaited = shared.expects_messages();
                    shared.parking.sleep(clock, time, &mut self.listener, is_awaited);
                }
                Next::Park => {
                    shared.parking.park(clock, || self.has_work(), || self.rest(clock));
                    self.last_progress = clock.now();
                }
                Next::Exit => return,
            }
        }
    }

    /// How long there is nothing to do while no work is added.
    fn rest(&self, clock: &dyn Clock) -> Option<Duration> {
        let expiry = self.shared.passive.next_expiry();
        let expiry = expiry.map(|at| at.saturating_sub(clock.now()));
        // Free memory of the pool goes back to the system while the connection is idle.
        let now = Instant::now();
        let trim = BufferPool::global().trim(now);
        let trim = trim.map(|at| at.saturating_duration_since(now));
        [expiry, trim, self.poll_interval()].into_iter().flatten().min()
    }

    fn has_work(&self) -> bool {
        !lock(&self.shared.inbox).slots.is_empty()
            || self.shared.expects_messages()
            || self.shared.closing.load(Ordering::SeqCst)
    }
}

impl Drop for Reactor {
    /// Nothing turns it any more. After a regular exit nothing is left; else all waiters are told at once.
    fn drop(&mut self) {
        let slots = {
            let mut inbox = lock(&self.shared.inbox);
            inbox.closed = true;
            mem::take(&mut inbox.slots)
        };
        let active = mem::take(&mut self.active);
        for slot in active.into_iter().chain(slots).chain(self.overdue.take()) {
            self.shared.give_up(&slot, ENDED.into());
        }
        self.shared.passive.abandon_all(&ENDED.into());
    }
}

impl fmt::Debug for Reactor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reactor").field("active", &self.active.len()).finish_non_exhaustive()
    }
}
