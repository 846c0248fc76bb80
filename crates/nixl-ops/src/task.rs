//! A transfer in flight, shared between its waiter and the driver.

use std::mem;
use std::sync::Arc;
use std::sync::TryLockError;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::task::Poll;
use std::time::Duration;

use metrics::{Gauge, gauge};
use tracing::Span;

use crate::completion::Memory;
use crate::contained::contained;
use crate::deadline::Deadline;
use crate::outcome::{Completion, Outcome};
use crate::overdue::{CountedOverdue, OverdueTotal};
use crate::posts::PostHistory;
use crate::sync::{Mutex, MutexGuard, lock};
use crate::telemetry::{EndMetrics, GaugeShare, PerRecorder};
use crate::typical::TypicalDurations;
use crate::{Clock, CompletionCell, DriverConfig, Execution, OperationError, OperationStatus};

/// The bytes of a task that only ever times out: it is no operation, and is not counted as one.
pub(crate) const TIMER: u64 = u64::MAX;

/// Everything that must stay alive while an engine works. The execution owns the leases of its memory.
pub(crate) struct Task {
    pub(crate) execution: Box<dyn Execution>,
    pub(crate) bytes: u64,
    pub(crate) begun: Duration,
    pub(crate) count: Count,
    /// Whether the execution was polled before.
    pub(crate) posted: bool,
    /// Its steps when it was polled last.
    pub(crate) steps: u64,
    pub(crate) deadline: Option<Deadline>,
    /// Set once the result is no longer wanted: when to give up on the engine.
    pub(crate) drain_by: Option<Duration>,
    /// Below that of the caller who began it.
    pub(crate) span: Span,
}

impl Task {
    /// The error of a deadline that has passed, once.
    fn expired(&mut self, now: impl Fn() -> Duration) -> Option<OperationError> {
        let deadline = self.deadline.take_if(|deadline| now() >= deadline.at)?;
        Some(OperationError::TimedOut { after: deadline.after })
    }
}

/// Where a task is counted until it is dropped.
#[expect(dead_code, reason = "only their drop matters")]
pub(crate) enum Count {
    InFlight(InFlight),
    /// Its drain time is over.
    Overdue(CountedOverdue),
}

/// How many are in flight, also in the gauge `nixl_requests_in_flight`.
#[derive(Debug, Default)]
pub(crate) struct ActiveCount {
    count: AtomicUsize,
    gauge: PerRecorder<Option<Gauge>>,
}

impl ActiveCount {
    pub(crate) fn load(&self, ordering: Ordering) -> usize {
        self.count.load(ordering)
    }

    fn gauge(&self) -> Gauge {
        let look_up = || gauge!("nixl_requests_in_flight");
        self.gauge.with(|gauge| gauge.get_or_insert_with(look_up).clone())
    }
}

/// One of those in flight, counted until it is dropped.
pub(crate) struct InFlight {
    active: Arc<ActiveCount>,
    _gauge: GaugeShare,
}

impl InFlight {
    /// Counts one more, however many there are.
    pub(crate) fn beyond_limit(active: &Arc<ActiveCount>) -> Self {
        let gauge = GaugeShare::of(active.gauge(), 1);
        active.count.fetch_add(1, Ordering::AcqRel);
        Self { active: Arc::clone(active), _gauge: gauge }
    }

    /// Counts one more, unless there are `limit`.
    pub(crate) fn count(active: &Arc<ActiveCount>, limit: usize) -> Option<Self> {
        let gauge = GaugeShare::of(active.gauge(), 1);
        let before = active.count.fetch_add(1, Ordering::AcqRel);
        let counted = Self { active: Arc::clone(active), _gauge: gauge };
        // Dropping it on the way out takes the surplus one back.
        (before < limit).then_some(counted)
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        self.active.count.fetch_sub(1, Ordering::AcqRel);
    }
}

/// A task, polled by the thread that gets its lock.
pub(crate) struct TaskSlot {
    pub(crate) cell: Arc<CompletionCell<Outcome>>,
    task: Mutex<Option<Task>>,
    /// Served for a peer, without a waiter here.
    served: bool,
    /// Until when its waiter spins.
    caller_spins_until: AtomicInstant,
    /// When to wake its waiter, shortly before the end that is expected.
    wake_at: AtomicInstant,
    /// From when on the driver polls closely itself, since no waiter does.
    poll_closely_from: AtomicInstant,
}

/// A time of the clock that several threads set and read, or none.
struct AtomicInstant(AtomicU64);

impl AtomicInstant {
    const NONE: u64 = u64::MAX;

    const fn none() -> Self {
        Self(AtomicU64::new(Self::NONE))
    }

    fn set(&self, time: Option<Duration>) {
        let nanos = time.map_or(Self::NONE, |t| u64::try_from(t.as_nanos()).unwrap_or(Self::NONE));
        self.0.store(nanos, Ordering::SeqCst);
    }

    fn get(&self) -> Option<Duration> {
        let nanos = self.0.load(Ordering::SeqCst);
        (nanos != Self::NONE).then(|| Duration::from_nanos(nanos))
    }
}

/// What polling a slot found.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum SlotState {
    /// Another thread polls it at this moment.
    Busy,
    /// The engine still works.
    Pending,
    /// It still works, and has come further.
    Stepped,
    /// Its drain time is over, and its engine still works.
    Overdue,
    /// Ended by this poll.
    Ended,
    /// Had ended before.
    Gone,
}

impl TaskSlot {
    /// How long before the expected end a waiter is woken, and how long after it the waiter looks on. Two threads take some
    /// 100 us to wake one after the other in a virtual machine; the rest is for estimates that are off.
    pub(crate) const LEAD: Duration = Duration::from_micros(200);

    pub(crate) fn new(task: Task) -> Self {
        Self::with(task, false)
    }

    pub(crate) fn serving(task: Task) -> Self {
        Self::with(task, true)
    }

    pub(crate) fn is_served(&self) -> bool {
        self.served
    }

    fn with(task: Task, served: bool) -> Self {
        let cell = CompletionCell::new();
        cell.advance(OperationStatus::Initialized);
        cell.advance(OperationStatus::InProgress);
        Self {
            cell: Arc::new(cell),
            task: Mutex::new(Some(task)),
            served,
            caller_spins_until: AtomicInstant::none(),
            wake_at: AtomicInstant::none(),
            poll_closely_from: AtomicInstant::none(),
        }
    }

    /// The waiter looks closely until then, or until it says that it does not.
    pub(crate) fn watch(&self, until: Duration) {
        self.caller_spins_until.set(Some(until));
    }

    pub(crate) fn unwatch(&self) {
        self.caller_spins_until.set(None);
    }

    /// Until when the waiter looks closely, if it does.
    pub(crate) fn caller_spins_until(&self, now: Duration) -> Option<Duration> {
        self.caller_spins_until.get().filter(|until| now < *until)
    }

    /// Whether the end is expected so long after `until` that its waiter is woken before it.
    pub(crate) fn is_far(&self, until: Duration) -> bool {
        self.wake_at.get().is_some_and(|at| at > until)
    }

    /// How long to look if the end is expected at or shortly after `until`; then the waiter need not be woken for it.
    pub(crate) fn expected_soon(&self, until: Duration) -> Option<Duration> {
        let at = self.wake_at.get().filter(|at| *at <= until)?;
        self.wake_at.set(None);
        Some(until.max(at.saturating_add(2 * Self::LEAD)))
    }

    /// Wakes the waiter if it is time to. Returns when it will be.
    pub(crate) fn wake_early(&self, now: Duration) -> Option<Duration> {
        let at = self.wake_at.get()?;
        if now < at {
            return Some(at);
        }
        self.wake_at.set(None);
        self.cell.wake_early(at.saturating_add(2 * Self::LEAD));
        None
    }

    /// From when on the driver is to look closely, unless that is over.
    pub(crate) fn poll_closely_from(&self, now: Duration) -> Option<Duration> {
        self.poll_closely_from.get().filter(|from| now < from.saturating_add(2 * Self::LEAD))
    }

    /// Moves the task on, and applies its deadline or the drain deadline of an abandoned one. A panic of its execution ends the
    /// task; one of a subscriber of `tracing` does not.
    pub(crate) fn poll(&self, context: Context<'_>) -> SlotState {
        let mut guard = match self.task.try_lock() {
            Ok(guard) => guard,
            Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
            Err(TryLockError::WouldBlock) => return SlotState::Busy,
        };
        let Some(task) = guard.as_mut() else { return SlotState::Gone };
        // Not cloned, which a subscriber learns of.
        let span = mem::replace(&mut task.span, Span::none());
        let polled = in_span(&span, || self.poll_in_span(guard, context));
        match polled {
            Some((state, Some(mut guard))) => {
                if let Some(task) = guard.as_mut() {
                    task.span = span;
                }
                state
            }
            Some((state, None)) => {
                let _ = contained("a subscriber", || drop(span));
                state
            }
            None => SlotState::Pending,
        }
    }

    /// Returns the guard with the state unless the task has ended.
    fn poll_in_span<'a>(
        &self,
        mut guard: MutexGuard<'a, Option<Task>>,
        context: Context<'_>,
    ) -> (SlotState, Option<MutexGuard<'a, Option<Task>>>) {
        let Some(task) = guard.as_mut() else { return (SlotState::Gone, None) };
        let step = contained("an execution", || self.step(task, context));
        let end = match step {
            Ok(Step::Stay(state)) => return (state, Some(guard)),
            Ok(Step::End(end)) => end,
            Err(panicked) => match contained("an execution", || task.execution.abandon()) {
                Ok(true) => End::Failed(panicked.into(), Memory::Quiet),
                _ => End::Failed(panicked.into(), Memory::Leaked),
            },
        };
        self.note(&end, task, context);
        // The lease goes before the waiter wakes, so that it finds its memory free. Dropped in flight, the task leaks what its
        // engine may still touch.
        let _ = contained("the end of an execution", || *guard = None);
        drop(guard);
        self.end(end);
        (SlotState::Ended, None)
    }

    /// Counts how the operation ended for its caller. That may have been before its engine: by a cancellation or the deadline.
    fn note(&self, end: &End, task: &Task, Context { clock, metrics, .. }: Context<'_>) {
        if self.served || task.bytes == TIMER {
            return;
        }
        // A recorder or subscriber may panic.
        let _ = contained("metrics", || {
            let before = self.cell.outcome().and_then(Result::err);
            let error = match (&before, end) {
                (Some(error), _) => error,
                (None, End::Done(Ok(completion))) => return metrics.completed(completion),
                (
                    None,
                    End::Done(Err(error)) | End::Abandoned(Some(error)) | End::Failed(error, _),
                ) => error,
                (None, End::Abandoned(None)) => &OperationError::Cancelled,
            };
            let report = matches!(end, End::Done(_)).then(|| task.execution.report());
            metrics.failed(report.as_ref(), clock.now().saturating_sub(task.begun), error);
        });
    }

    /// Gives up an execution that nothing polls any more.
    pub(crate) fn give_up(&self, error: OperationError, context: Context<'_>) {
        let task = lock(&self.task).take();
        let Some(mut task) = task else { return };
        let is_quiet = contained("an execution", || !task.posted || task.execution.abandon());
        let memory = if is_quiet == Ok(true) { Memory::Quiet } else { Memory::Leaked };
        if memory == Memory::Leaked {
            let _ = contained("a subscriber", || {
                tracing::error!(
                    bytes = task.bytes,
                    "an engine was not quiet when its driver ended; its memory is leaked"
                );
            });
        }
        let end = End::Failed(error, memory);
        self.note(&end, &task, context);
        // As above.
        let _ = contained("the end of an execution", || drop(task));
        self.end(end);
    }

    fn step(
        &self,
        task: &mut Task,
        Context { clock, config, overdue, typical, posts, .. }: Context<'_>,
    ) -> Step {
        let now = || clock.now();
        let is_post = !task.posted;
        if is_post {
            // The first poll posts, which must not happen for a result that is no longer wanted.
            let expired = task.expired(now);
            if (expired.is_some() || self.cell.status().is_terminal()) && task.execution.abandon() {
                return Step::End(End::Abandoned(expired));
            }
            if let Some(timed_out) = expired {
                self.cell.finish(OperationStatus::Errored, Err(timed_out));
            }
            task.posted = true;
            // The waiter of a short one spins until its end.
            let expected = task.execution.expected().filter(|time| *time > config.inline_spin);
            let wake_at =
                expected.map(|time| now().saturating_add(time).saturating_sub(Self::LEAD));
            self.wake_at.set(wake_at);
            self.poll_closely_from
                .set(wake_at.filter(|_| self.served || task.execution.awaits_notification()));
        }
        let polled = task.execution.poll();
        if is_post && task.execution.takes_turns() {
            posts.note(polled.is_ready());
        }
        if let Poll::Ready(result) = polled {
            let mut report = task.execution.report();
            report.elapsed = now().saturating_sub(task.begun);
            if !self.served {
                typical.note(task.bytes, report.elapsed);
            }
            let completion = |()| Completion::new(task.bytes, report.elapsed, Some(report));
            return Step::End(End::Done(result.map(completion).map_err(OperationError::from)));
        }
        let expired = task.expired(now);
        let steps = task.execution.steps();
        let has_stepped = steps != mem::replace(&mut task.steps, steps);
        if expired.is_none() && !self.cell.status().is_terminal() {
            let state = if has_stepped { SlotState::Stepped } else { SlotState::Pending };
            return Step::Stay(state);
        }
        if task.execution.abandon() {
            return Step::End(End::Abandoned(expired));
        }
        if let Some(timed_out) = expired {
            self.cell.finish(OperationStatus::Errored, Err(timed_out));
        }
        let now = now();
        let drain_by = *task.drain_by.get_or_insert(now.saturating_add(config.drain));
        if now < drain_by {
            return Step::Stay(SlotState::Pending);
        }
        if let Count::InFlight(_) = task.count {
            let _ = contained("a subscriber", || {
                tracing::error!(
                    bytes = task.bytes,
                    "the engine did not become quiet in time; its memory stays leased until it does"
                );
            });
            task.count = Count::Overdue(overdue.count(task.bytes));
            self.cell.set_leaked();
        }
        Step::Stay(if has_stepped { SlotState::Stepped } else { SlotState::Overdue })
    }

    fn end(&self, end: End) {
        match end {
            End::Done(Ok(completion)) => {
                self.cell.finish_quiet(OperationStatus::Complete, Ok(completion));
            }
            End::Done(Err(error))
            | End::Abandoned(Some(error))
            | End::Failed(error, Memory::Quiet) => {
                self.cell.finish_quiet(OperationStatus::Errored, Err(error));
            }
            End::Abandoned(None) => self.cell.set_quiet(),
            End::Failed(error, _) => {
                self.cell.finish(OperationStatus::Errored, Err(error));
                self.cell.set_leaked();
            }
        }
    }
}

/// Runs `work` in the span, or outside it if the subscriber panics when it is entered. `None` if `work` itself panics.
fn in_span<R>(span: &Span, work: impl FnOnce() -> R) -> Option<R> {
    let (mut work, mut done) = (Some(work), None);
    let _ = contained("a subscriber", || {
        span.in_scope(|| done = work.take().map(|work| work()));
    });
    done.or_else(|| work.map(|work| work()))
}

/// What polling a slot needs of its driver.
#[derive(Clone, Copy)]
pub(crate) struct Context<'a> {
    pub(crate) clock: &'a dyn Clock,
    pub(crate) config: &'a DriverConfig,
    pub(crate) overdue: &'a Arc<OverdueTotal>,
    pub(crate) typical: &'a TypicalDurations,
    pub(crate) posts: &'a PostHistory,
    pub(crate) metrics: &'a EndMetrics,
}

/// What one step of a task came to.
enum Step {
    Stay(SlotState),
    End(End),
}

/// How a task ends.
enum End {
    /// The engine is done.
    Done(Outcome),
    /// The engine has given it up, after the deadline if there is an error.
    Abandoned(Option<OperationError>),
    /// It cannot go on; its memory is quiet or leaked.
    Failed(OperationError, Memory),
}
