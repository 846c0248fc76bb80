//! State shared by a driver's handle, its thread and its operations.

use std::collections::VecDeque;
use std::mem;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock, Weak};
use std::task::{Wake, Waker};

use nixl_device::ForkGeneration;

use super::Driver;
use crate::contained::contained;
use crate::control::{Claims, Owner};
use crate::drain::Departures;
use crate::grants::LayerHints;
use crate::overdue::{Overdue, OverdueTotal};
use crate::parking::Parking;
use crate::passive::PassiveTable;
use crate::posts::PostHistory;
use crate::sync::{Mutex, lock};
use crate::task::{self, ActiveCount, AtomicInstant, Count, InFlight, SlotState, Task, TaskSlot};
use crate::telemetry::EndMetrics;
use crate::typical::TypicalDurations;
use crate::unexpected::Unexpected;
use crate::{
    Clock, ConnectionExecutor, DriverConfig, Execution, Mailboxes, OperationError, Transport,
    TransportError,
};

pub(crate) struct Shared {
    /// Begun operations that the reactor has not admitted yet.
    inbox: Mutex<Vec<Arc<TaskSlot>>>,
    /// Whether the reactor has ended. Stored under the inbox's lock.
    closed: AtomicBool,
    pub(super) active: Arc<ActiveCount>,
    overdue: Arc<OverdueTotal>,
    /// The number of active ones that wait for the others.
    pub(crate) drains: AtomicUsize,
    pub(crate) departures: Departures,
    pub(super) typical: TypicalDurations,
    pub(super) posts: PostHistory,
    pub(crate) metrics: EndMetrics,
    pub(super) parking: Parking,
    /// Whether it runs, or will at once.
    pub(super) awake: AtomicBool,
    /// The time of the last post that was left to a waiter.
    pub(super) left_to_waiter: AtomicInstant,
    /// A new waiter arrived: the next turn counts as progress, so that the back-off starts anew.
    pub(super) new_waiter: AtomicBool,
    pub(super) closing: AtomicBool,
    pub(crate) passive: Arc<PassiveTable>,
    /// Answers claims of its offers.
    pub(super) owner: OnceLock<Owner>,
    pub(super) claims: Arc<Claims>,
    /// What owners say of the layers of grants.
    pub(crate) hints: Arc<LayerHints>,
    pub(super) unexpected: Unexpected,
    /// Records the pages for answers to peers.
    pub(super) mailboxes: OnceLock<Arc<Mailboxes>>,
    /// Receives messages that end no passive operation.
    pub(super) executor: OnceLock<Arc<dyn ConnectionExecutor>>,
    /// The source of notifications; a driver of copies inside the process has none.
    pub(super) transport: Option<Arc<dyn Transport>>,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) config: DriverConfig,
    /// Makes the driver's thread poll at once.
    pub(super) waker: Waker,
    pub(super) generation: ForkGeneration,
}

/// Of a driver without a reactor.
pub(super) const ENDED: TransportError = TransportError::ThreadEnded { thread: Driver::THREAD };

/// Wakes a driver's thread without keeping the driver alive.
struct DriverWaker(Weak<Shared>);

impl Shared {
    pub(super) fn new(
        transport: Option<Arc<dyn Transport>>,
        clock: Arc<dyn Clock>,
        config: DriverConfig,
    ) -> Arc<Self> {
        let passive = PassiveTable::new(Arc::clone(&clock), config.drain, config.clock_skew);
        Arc::new_cyclic(|me| Self {
            inbox: Mutex::default(),
            closed: AtomicBool::new(false),
            active: Arc::default(),
            overdue: Arc::default(),
            drains: AtomicUsize::new(0),
            departures: Departures::default(),
            typical: TypicalDurations::default(),
            posts: PostHistory::default(),
            metrics: EndMetrics::default(),
            parking: Parking::new(Arc::clone(&passive.page)),
            awake: AtomicBool::new(false),
            left_to_waiter: AtomicInstant::none(),
            new_waiter: AtomicBool::new(false),
            closing: AtomicBool::new(false),
            owner: OnceLock::new(),
            claims: Arc::default(),
            hints: Arc::default(),
            unexpected: Unexpected::default(),
            mailboxes: OnceLock::new(),
            executor: OnceLock::new(),
            passive,
            transport,
            clock,
            config,
            waker: Waker::from(Arc::new(DriverWaker(Weak::clone(me)))),
            generation: ForkGeneration::current(),
        })
    }

    /// Active operations that are past their drain time.
    pub(super) fn overdue(&self) -> Overdue {
        self.overdue.get()
    }

    pub(crate) fn poll(&self, slot: &Arc<TaskSlot>) -> SlotState {
        slot.poll(self.context())
    }

    /// A slot of a new task, which is posted here.
    pub(super) fn post(&self, task: Task) -> (Arc<TaskSlot>, SlotState) {
        TaskSlot::posted(task, self.waker.clone(), self.context())
    }

    pub(super) fn give_up(&self, slot: &TaskSlot, error: OperationError) {
        slot.give_up(error, self.context());
    }

    fn context(&self) -> task::DriverContext<'_> {
        let Self { clock, config, overdue, typical, posts, metrics, .. } = self;
        task::DriverContext { clock: &**clock, config, overdue, typical, posts, metrics }
    }

    /// Operations that have not ended, of either side.
    pub(crate) fn in_hand(&self) -> usize {
        self.active.load(Ordering::Acquire) + self.passive.awaited()
    }

    pub(crate) fn transport(&self) -> Option<Arc<dyn Transport>> {
        self.transport.clone()
    }

    /// A slot for a peer's request.
    pub(super) fn serve(&self, execution: Box<dyn Execution>) -> Arc<TaskSlot> {
        let task = Task {
            execution,
            bytes: 0,
            begun: self.clock.now(),
            posted: false,
            unmetered: false,
            steps: 0,
            // The executor bounds them.
            count: Count::InFlight(InFlight::beyond_limit(&self.active)),
            deadline: None,
            drain_by: None,
            // It is made while others' messages are read.
            span: contained("the span of a served operation", || {
                tracing::debug_span!("served operation")
            })
            .unwrap_or_else(|_| tracing::Span::none()),
        };
        Arc::new(TaskSlot::serving(task, self.waker.clone()))
    }

    /// Passes a slot to the reactor. Returns whether a reactor is there to find it.
    pub(super) fn add(&self, slot: &Arc<TaskSlot>) -> bool {
        let mut inbox = lock(&self.inbox);
        let is_open = !self.has_ended();
        if is_open {
            inbox.push(Arc::clone(slot));
        }
        is_open
    }

    /// Whether the reactor has stopped. Takes no lock.
    pub(super) fn has_ended(&self) -> bool {
        self.closed.load(Ordering::Acquire)
    }

    /// Moves the slots that were added to the end of the queue. Returns whether there were any.
    pub(super) fn admit(&self, active: &mut VecDeque<Arc<TaskSlot>>) -> bool {
        let mut inbox = lock(&self.inbox);
        let is_new = !inbox.is_empty();
        active.extend(inbox.drain(..));
        is_new
    }

    /// Whether slots were added since they were last admitted.
    pub(super) fn has_new(&self) -> bool {
        !lock(&self.inbox).is_empty()
    }

    /// Refuses slots from now on, and returns those that were not admitted.
    pub(super) fn close(&self) -> Vec<Arc<TaskSlot>> {
        let mut inbox = lock(&self.inbox);
        self.closed.store(true, Ordering::Release);
        mem::take(&mut inbox)
    }

    /// Makes the driver poll at once and closely for a while, in any state of its back-off.
    pub(crate) fn kick(&self) {
        // The other thread that set it wakes the driver as well.
        if !self.new_waiter.swap(true, Ordering::SeqCst) {
            self.wake(true);
        }
    }

    /// Makes the driver poll: at once if `urgent`, else within its current sleep, which is short unless it is parked.
    pub(crate) fn wake(&self, urgent: bool) {
        // A fork's child would ring the parent's doorbell.
        if !self.generation.is_current() {
            return;
        }
        match urgent {
            true => self.parking.wake(),
            false => self.parking.wake_if_parked(),
        }
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
