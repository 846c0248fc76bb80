//! The steps of a task: polls of its execution, its deadlines and its end.

use std::mem;
use std::sync::{Arc, TryLockError};
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
use crate::sync::{MutexGuard, lock};
use crate::telemetry::EndMetrics;
use crate::typical::TypicalDurations;
use crate::{Clock, CompletionMode, DriverConfig, OperationError, OperationStatus};

/// The fallback interval of polls for an execution that wakes, which bounds the cost of a lost wake.
const LOST_WAKE: Duration = Duration::from_secs(1);

impl TaskSlot {
    /// Polls the task, and applies its deadline or an abandoned one's drain deadline. A panic of its execution ends the task; a
    /// panic of a `tracing` subscriber does not.
    pub(crate) fn poll(self: &Arc<Self>, context: DriverContext<'_>) -> SlotState {
        let mut guard = match self.task.try_lock() {
            Ok(guard) => guard,
            Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
            Err(TryLockError::WouldBlock) => return SlotState::Busy,
        };
        let Some(task) = guard.as_mut() else { return SlotState::Gone };
        // Not cloned, since a subscriber observes clones.
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
        self: &'a Arc<Self>,
        mut guard: MutexGuard<'a, Option<Task>>,
        context: DriverContext<'_>,
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
        // The lease drops before the waiter wakes, which then finds its memory free. Dropped in flight, the task leaks memory
        // that its engine may still access.
        let _ = contained("the end of an execution", || *guard = None);
        drop(guard);
        self.end(end);
        (SlotState::Ended, None)
    }

    /// Counts the operation's end for its caller, which may precede its engine's: a cancellation or the deadline.
    fn note(
        &self,
        end: &End,
        task: &Task,
        DriverContext { clock, metrics, .. }: DriverContext<'_>,
    ) {
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
        if is_post {
            // The first poll posts, which must not happen for a discarded result.
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
        if expired.is_none() && !self.cell.status().is_terminal() {
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

/// The end of a task.
enum End {
    /// The engine is done.
    Done(Outcome),
    /// The engine has given it up, after the deadline if there is an error.
    Abandoned(Option<OperationError>),
    /// It cannot continue; its memory is quiet or leaked.
    Failed(OperationError, Memory),
}
