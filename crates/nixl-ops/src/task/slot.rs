//! The slot of a task, shared by its waiter and the driver.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Wake, Waker};
use std::time::Duration;

use tracing::Span;

use super::count::Count;
use super::instant::AtomicInstant;
use crate::deadline::Deadline;
use crate::outcome::Outcome;
use crate::sync::Mutex;
use crate::{CompletionCell, Execution, OperationError, OperationStatus};

/// The bytes of a timer task, which is no operation and is not counted as one.
pub(crate) const TIMER: u64 = u64::MAX;

/// State that must stay alive while an engine works. The execution owns the leases of its memory.
pub(crate) struct Task {
    pub(crate) execution: Box<dyn Execution>,
    pub(crate) bytes: u64,
    pub(crate) begun: Duration,
    pub(crate) count: Count,
    /// Whether the execution was polled before.
    pub(crate) posted: bool,
    /// Whether its end is not counted: it is a connector's own.
    pub(crate) unmetered: bool,
    /// Its steps at the last poll.
    pub(crate) steps: u64,
    pub(crate) deadline: Option<Deadline>,
    /// The drain deadline, set once the result is discarded.
    pub(crate) drain_by: Option<Duration>,
    /// Its span, a child of the caller's.
    pub(crate) span: Span,
}

impl Task {
    /// Takes the error of a passed deadline.
    pub(super) fn expired(&mut self, now: impl Fn() -> Duration) -> Option<OperationError> {
        let deadline = self.deadline.take_if(|deadline| now() >= deadline.at)?;
        Some(OperationError::TimedOut { after: deadline.after })
    }
}

/// A task, polled by the thread that gets its lock, and the waker of its execution.
pub(crate) struct TaskSlot {
    pub(crate) cell: CompletionCell<Outcome>,
    pub(super) task: Mutex<Option<Task>>,
    /// Makes the driver's thread poll at once.
    driver: Waker,
    /// Served for a peer, without a waiter here.
    pub(super) served: bool,
    /// The end of its waiter's spin.
    caller_spins_until: AtomicInstant,
    /// The time to wake its waiter, shortly before the expected end.
    wake_at: AtomicInstant,
    /// The start of the driver's close polling, since no waiter polls.
    poll_closely_from: AtomicInstant,
    /// The driver's latest next poll, while its execution wakes. None while it must be polled.
    look_by: AtomicInstant,
    /// Its execution, or its cancellation, has woken since the last poll began.
    woken: AtomicBool,
}

/// Result of polling a slot.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum SlotState {
    /// Another thread is polling it.
    Busy,
    /// The engine still works.
    Pending,
    /// It still works, and has progressed.
    Stepped,
    /// Its drain time is over, and its engine still works.
    Overdue,
    /// Ended by this poll.
    Ended,
    /// Had ended before.
    Gone,
}

impl TaskSlot {
    /// The lead of a waiter's wake-up before the expected end, and its spin after it. Two wake-ups in sequence take some 100 us
    /// in a virtual machine; the rest covers inexact estimates.
    pub(crate) const LEAD: Duration = Duration::from_micros(200);

    pub(crate) fn new(task: Task, driver: Waker) -> Self {
        Self::with(Some(task), false, driver)
    }

    pub(crate) fn serving(task: Task, driver: Waker) -> Self {
        Self::with(Some(task), true, driver)
    }

    pub(crate) fn is_served(&self) -> bool {
        self.served
    }

    pub(super) fn with(task: Option<Task>, served: bool, driver: Waker) -> Self {
        Self {
            cell: CompletionCell::at(OperationStatus::InProgress),
            task: Mutex::new(task),
            driver,
            served,
            caller_spins_until: AtomicInstant::none(),
            wake_at: AtomicInstant::none(),
            poll_closely_from: AtomicInstant::none(),
            look_by: AtomicInstant::none(),
            woken: AtomicBool::new(false),
        }
    }

    /// Records that the waiter spins until then, unless it stops earlier.
    pub(crate) fn watch(&self, until: Duration) {
        self.caller_spins_until.set(Some(until));
    }

    pub(crate) fn unwatch(&self) {
        self.caller_spins_until.set(None);
    }

    /// The end of the waiter's spin, if any.
    pub(crate) fn caller_spins_until(&self, now: Duration) -> Option<Duration> {
        self.caller_spins_until.get().filter(|until| now < *until)
    }

    /// Whether the end is expected so long after `until` that its waiter is woken before it.
    pub(crate) fn is_far(&self, until: Duration) -> bool {
        self.wake_at.get().is_some_and(|at| at > until)
    }

    /// The spin if the end is expected at or shortly after `until`; the waiter then needs no wake-up.
    pub(crate) fn expected_soon(&self, until: Duration) -> Option<Duration> {
        let at = self.wake_at.get().filter(|at| *at <= until)?;
        self.wake_at.set(None);
        Some(until.max(at.saturating_add(2 * Self::LEAD)))
    }

    /// Wakes the waiter if due. Returns the due time otherwise.
    pub(crate) fn wake_early(&self, now: Duration) -> Option<Duration> {
        let at = self.wake_at.get()?;
        if now < at {
            return Some(at);
        }
        self.wake_at.set(None);
        self.cell.wake_early(at.saturating_add(2 * Self::LEAD));
        None
    }

    /// The start of the driver's close polling, unless that is over.
    pub(crate) fn poll_closely_from(&self, now: Duration) -> Option<Duration> {
        self.poll_closely_from.get().filter(|from| now < from.saturating_add(2 * Self::LEAD))
    }

    /// The latest time of its next poll; `None` for now, since its execution does not wake or has woken.
    pub(crate) fn look_by(&self) -> Option<Duration> {
        self.look_by.get().filter(|_| !self.is_woken())
    }

    /// Whether its execution has woken since the last poll.
    pub(crate) fn is_woken(&self) -> bool {
        self.woken.load(Ordering::SeqCst)
    }

    /// Makes the driver poll it in its next turn.
    pub(crate) fn look_soon(&self) {
        self.woken.store(true, Ordering::SeqCst);
    }

    /// Called at a poll's begin: a later wake may be for progress that the poll does not see.
    pub(super) fn begin_poll(&self) {
        if self.is_woken() {
            self.woken.store(false, Ordering::SeqCst);
        }
    }

    /// Records a pending execution; one with a fallback time for its next poll wakes.
    pub(super) fn set_look_by(&self, by: Option<Duration>) {
        if self.look_by.get() != by {
            self.look_by.set(by);
        }
    }

    /// Sets the expected end, before the post.
    pub(super) fn expect_end(&self, wake_at: Option<Duration>, driver_polls_closely: bool) {
        self.wake_at.set(wake_at);
        self.poll_closely_from.set(wake_at.filter(|_| driver_polls_closely));
    }
}

impl Wake for TaskSlot {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.look_soon();
        self.driver.wake_by_ref();
    }
}
