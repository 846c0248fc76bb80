//! Active operations: begin, polls of the waiter, cancellation.

use std::future::poll_fn;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use nixl_descriptor::DescriptorList;

use super::outcomes::{CancelOutcome, Reclaimed};
use crate::blocking::block_on;
use crate::completion::Memory;
use crate::fair;
use crate::outcome::Outcome;
use crate::posts::PostedBy;
use crate::spin::SpinWindow;
use crate::task::{SlotState, TaskSlot};
use crate::{Driver, Execution, OperationError, OperationOptions, OperationStatus};

/// The core of active operations. A fork's child neither uses nor drops it.
pub(super) struct Active<M> {
    pub(super) slot: Arc<TaskSlot>,
    pub(super) driver: Arc<Driver>,
    /// The memory to give back at the end.
    memory: M,
    bytes: u64,
    /// Whether the first poll of a wait is done: it spins briefly; later ones sleep.
    spun: bool,
    /// The caller's spin time, if set.
    spin: Option<Duration>,
    /// The current spin; the wait yields between its parts.
    look: Option<SpinWindow>,
}

impl Active<()> {
    pub(super) fn beyond_limit(
        driver: &Arc<Driver>,
        execution: Box<dyn Execution>,
        options: OperationOptions,
    ) -> Result<Self, OperationError> {
        let spin = options.spin_time();
        let slot = driver.resume(execution, 0, options)?;
        let driver = Arc::clone(driver);
        Ok(Self { slot, driver, memory: (), bytes: 0, spun: false, spin, look: None })
    }
}

impl<M> Active<M> {
    /// Bound on the polls of one spin while the clock stands still, as in simulations.
    const STILL_POLLS: usize = 512;
    /// The first spin of a blocking thread.
    const BLOCKING_SPIN: Duration = Duration::from_millis(1);
    /// Engines process the list in the post: the driver posts operations with more descriptors.
    const POSTED_HERE: usize = 64;

    pub(super) fn begin(
        driver: &Arc<Driver>,
        execution: Box<dyn Execution>,
        (bytes, descriptors): (u64, usize),
        memory: M,
        options: OperationOptions,
    ) -> Result<Self, OperationError> {
        let is_short = descriptors <= Self::POSTED_HERE;
        let posted_by = match is_short {
            true => driver.shared().posted_by(bytes, &*execution),
            false => PostedBy::Driver,
        };
        let spin = options.spin_time();
        let slot = driver.begin(execution, bytes, posted_by, options)?;
        // The waiter must not post an operation that the driver posts.
        let spun = posted_by == PostedBy::Driver;
        Ok(Self { slot, driver: Arc::clone(driver), memory, bytes, spun, spin, look: None })
    }

    /// As [`begin`](Self::begin), of an execution that was polled before.
    pub(super) fn resume(
        driver: &Arc<Driver>,
        execution: Box<dyn Execution>,
        bytes: u64,
        memory: M,
        options: OperationOptions,
    ) -> Result<Self, OperationError> {
        let spin = options.spin_time();
        let slot = driver.resume(execution, bytes, options)?;
        let driver = Arc::clone(driver);
        Ok(Self { slot, driver, memory, bytes, spun: false, spin, look: None })
    }

    pub(super) fn status(&self) -> OperationStatus {
        self.slot.cell.status()
    }

    pub(super) async fn wait(&mut self) -> Outcome {
        poll_fn(|cx| self.poll_wait(cx)).await
    }

    pub(super) fn poll_wait(&mut self, cx: &mut Context<'_>) -> Poll<Outcome> {
        let polled = self.poll_once(cx);
        if polled.is_pending() {
            fair::waited(self.driver.shared().clock.now());
        }
        polled
    }

    fn poll_once(&mut self, cx: &mut Context<'_>) -> Poll<Outcome> {
        if let Err(forked) = self.driver.check_process() {
            return Poll::Ready(Err(forked.into()));
        }
        if !self.spun {
            self.spun = true;
            // An operation that ended in its begin needs no clock.
            if self.slot.cell.is_ended() {
                return self.slot.cell.poll_outcome(cx.waker());
            }
            self.look = self.first_look();
            if self.look.is_none() {
                self.driver.shared().kick();
            }
        } else {
            fair::waited(self.driver.shared().clock.now());
        }
        loop {
            if let Some(look) = self.look.take()
                && let Some(look) = self.look_on(look)
            {
                // The rest of it, after other tasks.
                self.look = Some(look);
                cx.waker().wake_by_ref();
                return Poll::Pending;
            }
            let polled = self.slot.cell.poll_outcome(cx.waker());
            if polled.is_ready() {
                return polled;
            }
            // Checked only after the waker is stored: a later note wakes it.
            let Some(until) = self.slot.cell.take_near() else { return Poll::Pending };
            self.slot.watch(until);
            self.look = Some(SpinWindow::until(until));
        }
    }

    /// `None` if the end is not near: such a spin would only use up the budget.
    fn first_look(&self) -> Option<SpinWindow> {
        let shared = self.driver.shared();
        let now = shared.clock.now();
        if let Some(spin) = self.spin {
            let until = now.saturating_add(spin);
            self.slot.watch(until);
            return Some(SpinWindow::asked_for(until));
        }
        let until = now.saturating_add(shared.spin_time(self.bytes));
        if self.slot.is_far(until) {
            return None;
        }
        // An end soon after is not worth a sleep.
        let until = self.slot.expected_soon(until).unwrap_or(until);
        self.slot.watch(until);
        Some(SpinWindow::until(until))
    }

    /// Spins for as long as one poll may, while the driver leaves the engine alone. Returns the rest of the spin, if any.
    fn look_on(&self, mut look: SpinWindow) -> Option<SpinWindow> {
        let clock = &self.driver.shared().clock;
        let begun = clock.now();
        if let Some(until) = look.next(begun) {
            let (ended, moves) = self.spin(until);
            let now = clock.now();
            if ended {
                look.hit(now);
                self.slot.unwatch();
                return None;
            }
            look.missed(begun, now);
            if moves && look.next(now).is_some() {
                return Some(look);
            }
        }
        self.slot.unwatch();
        // An end in between may have woken a driver that does not poll: one more poll. From here on the driver, which may be
        // asleep, is waited for.
        if !self.poll() {
            self.driver.shared().kick();
        }
        None
    }

    /// Whether the operation has ended by then, and whether the clock moves.
    fn spin(&self, until: Duration) -> (bool, bool) {
        let clock = &self.driver.shared().clock;
        let (mut last, mut still) = (clock.now(), 0);
        while last < until && still < Self::STILL_POLLS {
            if self.poll() {
                return (true, true);
            }
            std::hint::spin_loop();
            let now = clock.now();
            still = if now == last { still + 1 } else { 0 };
            last = now;
        }
        (false, still < Self::STILL_POLLS)
    }

    pub(super) fn wait_blocking(&mut self) -> Outcome {
        if !self.spun {
            self.spin = self.spin.or(Some(Self::BLOCKING_SPIN));
        }
        block_on(self.wait())
    }

    /// Returns whether the operation has ended.
    fn poll(&self) -> bool {
        matches!(self.driver.shared().poll(&self.slot), SlotState::Ended | SlotState::Gone)
    }

    pub(super) fn cancel(&self) -> CancelOutcome {
        cancel(&self.slot, Some(&self.driver))
    }

    /// Waits for the end, and for the memory after it.
    pub(super) async fn settle(&mut self) -> (Outcome, Memory) {
        let outcome = self.wait().await;
        let memory = poll_fn(|cx| match self.driver.check_process() {
            Ok(()) => self.slot.cell.poll_memory(cx.waker()),
            Err(_) => Poll::Ready(Memory::Leaked),
        });
        (outcome, memory.await)
    }
}

impl Active<DescriptorList> {
    pub(super) async fn reclaim(&mut self) -> Reclaimed {
        let (outcome, memory) = self.settle().await;
        Reclaimed::of(outcome, memory, &self.memory)
    }
}

/// Cancels the task in `slot` unless it has ended. Its driver lives until then.
pub(super) fn cancel(slot: &Arc<TaskSlot>, driver: Option<&Driver>) -> CancelOutcome {
    let cancelled = Err(OperationError::Cancelled);
    if !slot.cell.finish(OperationStatus::Cancelled, cancelled) {
        return CancelOutcome::AlreadyEnded(slot.cell.status());
    }
    if let Some(driver) = driver {
        // An unposted task is released here; the driver releases others.
        slot.look_soon();
        driver.shared().poll(slot);
        driver.shared().wake(true);
    }
    CancelOutcome::Cancelled
}

impl<M> Drop for Active<M> {
    fn drop(&mut self) {
        self.cancel();
    }
}
