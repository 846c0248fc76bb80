//! The steps of a task: polls of its execution, its deadlines and its end.

use std::mem;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use tracing::Span;

use super::count::Count;
use super::slot::{SlotState, TIMER, Task, TaskSlot};
use crate::completion::Memory;
use crate::contained::contained;
use crate::outcome::{Completion, Outcome};
use crate::overdue::OverdueTotal;
use crate::posts::PostHistory;
use crate::sync::{get_mut, lock, try_lock};
use crate::telemetry::EndMetrics;
use crate::typical::TypicalDurations;
use crate::{Clock, CompletionMode, DriverConfig, OperationError, OperationStatus};

/// The fallback interval of polls for an execution that wakes, which bounds the cost of a lost wake.
const LOST_WAKE: Duration = Duration::from_secs(1);

impl TaskSlot {
    /// A slot of a new task, which this thread polls before another can: what ends in its first poll takes no lock of the slot's.
    pub(crate) fn posted(
        task: Task,
        driver: Waker,
        context: DriverContext<'_>,
    ) -> (Arc<Self>, SlotState) {
        let (mut slot, mut task) = (Arc::new(Self::with(None, false, driver)), Some(task));
        let (state, ended) = slot.poll_task(&mut task, context);
        // There is another handle if the execution has kept its waker.
        match (Arc::get_mut(&mut slot), ended) {
            (Some(slot), None) => *get_mut(&mut slot.task) = task,
            (None, None) => *lock(&slot.task) = task,
            (Some(slot), Some(Ended { end: End::Done(outcome), span })) => {
                let status = match outcome {
                    Ok(_) => OperationStatus::Complete,
                    Err(_) => OperationStatus::Errored,
                };
                slot.cell.finish_alone(status, outcome);
                drop_span(span);
            }
            (_, Some(ended)) => slot.finish(ended),
        }
        (slot, state)
    }

    /// Polls the task, and applies its deadline or an abandoned one's drain deadline. A panic of its execution ends the task; a
    /// panic of a `tracing` subscriber does not.
    pub(crate) fn poll(self: &Arc<Self>, context: DriverContext<'_>) -> SlotState {
        let Some(mut guard) = try_lock(&self.task) else { return SlotState::Busy };
        let (state, ended) = self.poll_task(&mut guard, context);
        drop(guard);
        ended.into_iter().for_each(|ended| self.finish(ended));
        state
    }

    /// A task that has ended is dropped; its end is to be [finished](Self::finish).
    fn poll_task(
        self: &Arc<Self>,
        held: &mut Option<Task>,
        context: DriverContext<'_>,
    ) -> (SlotState, Option<Ended>) {
        let Some(task) = held.as_mut() else { return (SlotState::Gone, None) };
        // Not cloned, since a subscriber observes clones.
        let span = mem::replace(&mut task.span, Span::none());
        match in_span(&span, || self.poll_in_span(held, context)) {
            Some((state, Some(end))) => (state, Some(Ended { end, span })),
            Some((state, None)) => {
                if let Some(task) = held {
                    task.span = span;
                }
                (state, None)
            }
            None => (SlotState::Pending, None),
        }
    }

    fn poll_in_span(
        self: &Arc<Self>,
        held: &mut Option<Task>,
        context: DriverContext<'_>,
    ) -> (SlotState, Option<End>) {
        let Some(task) = held.as_mut() else { return (SlotState::Gone, None) };
        let step = contained("an execution", || self.step(task, context));
        let end = match step {
            Ok(Step::Stay(state)) => return (state, None),
            Ok(Step::End(end)) => end,
            Err(panicked) => match contained("an execution", || task.execution.abandon()) {
                Ok(true) => End::Failed(panicked.into(), Memory::Quiet),
                _ => End::Failed(panicked.into(), Memory::Leaked),
            },
        };
        self.note(&end, task, context);
        // The lease drops before the waiter wakes, which then finds its memory free. Dropped in flight, the task leaks memory
        // that its engine may still access.
        let _ = contained("the end of an execution", || *held = None);
        (SlotState::Ended, Some(end))
    }

    /// Wakes the waiter of a task that has ended and was dropped.
    fn finish(&self, Ended { end, span }: Ended) {
        self.end(end);
        drop_span(span);
    }

    /// Counts the operation's end for its caller, which may precede its engine's: a cancellation or the deadline.
    fn note(
        &self,
        end: &End,
        task: &Task,
        DriverContext { clock, metrics, .. }: DriverContext<'_>,
    ) {
        if self.served || task.unmetered || task.bytes == TIMER {
            return;
        }
        // A recorder or subscriber may panic.
        let _ = contained("metrics", || {
            let before = if self.cell.is_ended() { self.cell.outcome() } else { None };
            let before = before.and_then(Result::err);
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

    /// Gives up an execution without a driver.
    pub(crate) fn give_up(&self, error: OperationError, context: DriverContext<'_>) {
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
        self: &Arc<Self>,
        task: &mut Task,
        DriverContext { clock, config, overdue, typical, posts, .. }: DriverContext<'_>,
    ) -> Step {
        let now = || clock.now();
        let is_post = !task.posted;
        // The first poll posts, or a later one where that had to wait. It must not happen for a discarded result, nor late.
        if is_post || task.execution.peer_memory().is_untouched() {
            let expired = task.expired(now);
            if (expired.is_some() || self.cell.is_ended()) && task.execution.abandon() {
                return Step::End(End::Abandoned(expired));
            }
            if let Some(timed_out) = expired {
                self.cell.finish(OperationStatus::Errored, Err(timed_out));
            }
        }
        if is_post {
            task.posted = true;
            // The waiter of a short one spins until its end.
            let expected = task.execution.expected().filter(|time| *time > config.inline_spin);
            let wake_at =
                expected.map(|time| now().saturating_add(time).saturating_sub(Self::LEAD));
            self.expect_end(wake_at, self.served || task.execution.awaits_notification());
        }
        self.begin_poll();
        let waker = Waker::from(Arc::clone(self));
        let polled = task.execution.poll(&mut Context::from_waker(&waker));
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
        if expired.is_none() && !self.cell.is_ended() {
            self.note_look_by(task, now);
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
        self.note_look_by(task, || now);
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

    /// A task whose execution wakes is still polled by its deadline, or at the fallback interval.
    fn note_look_by(&self, task: &Task, now: impl Fn() -> Duration) {
        let by = (task.execution.completion_mode() == CompletionMode::Wakes).then(|| {
            let deadlines = task.deadline.map(|deadline| deadline.at).into_iter();
            let late = now().saturating_add(LOST_WAKE);
            deadlines.chain(task.drain_by).fold(late, Duration::min)
        });
        self.set_look_by(by);
    }

    fn end(&self, end: End) {
        // The driver finds it ended.
        self.set_look_by(None);
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

/// A span's end is a subscriber's code.
fn drop_span(span: Span) {
    let _ = contained("a subscriber", || drop(span));
}

/// Runs `work` in the span, or outside it if the subscriber panics when it is entered. `None` if `work` itself panics.
fn in_span<R>(span: &Span, work: impl FnOnce() -> R) -> Option<R> {
    let (mut work, mut done) = (Some(work), None);
    let _ = contained("a subscriber", || {
        span.in_scope(|| done = work.take().map(|work| work()));
    });
    done.or_else(|| work.map(|work| work()))
}

/// The driver's context of a poll.
#[derive(Clone, Copy)]
pub(crate) struct DriverContext<'a> {
    pub(crate) clock: &'a dyn Clock,
    pub(crate) config: &'a DriverConfig,
    pub(crate) overdue: &'a Arc<OverdueTotal>,
    pub(crate) typical: &'a TypicalDurations,
    pub(crate) posts: &'a PostHistory,
    pub(crate) metrics: &'a EndMetrics,
}

/// Result of one step of a task.
enum Step {
    Stay(SlotState),
    End(End),
}

/// A task that has ended, before its waiter wakes.
struct Ended {
    end: End,
    span: Span,
}

/// The end of a task.
enum End {
    /// The engine is done.
    Done(Outcome),
    /// The engine has given it up, after the deadline if there is an error.
    Abandoned(Option<OperationError>),
    /// It cannot continue; its memory is quiet or leaked.
    Failed(OperationError, Memory),
}
