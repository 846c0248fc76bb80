//! Time-outs for the steps before an operation: registering memory, connecting to a peer.

use std::future::{Future, poll_fn};
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use crate::fair;
use crate::posts::PostedBy;
use crate::task::{SlotState, TIMER, TaskSlot};
use crate::{
    CompletionMode, Driver, Execution, OperationError, OperationOptions, OperationStatus, PathKind,
    PathReport, TransportError,
};

impl Driver {
    /// Yields to the other tasks of this thread. Cancel safe.
    pub async fn yield_now(&self) {
        fair::yield_once(&*self.shared().clock).await;
    }

    /// Awaits `future` within the time of `options`, and returns the options for the following operation, with the remaining
    /// time. A future that is ready at once costs nothing, except an occasional yield to other tasks.
    ///
    /// As cancel safe as `future`.
    ///
    /// # Errors
    ///
    /// [`OperationError::TimedOut`]; work that the future began continues without it.
    pub async fn with_timeout<T>(
        &self,
        options: OperationOptions,
        future: impl Future<Output = T>,
    ) -> Result<(T, OperationOptions), OperationError> {
        self.check_process()?;
        fair::give_way(&*self.shared().clock).await;
        let mut future = pin!(future);
        if let Poll::Ready(output) = future.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
            return Ok((output, options));
        }
        let Some(after) = options.deadline_after() else {
            let output = poll_fn(|cx| match self.check_process() {
                Ok(()) => future.as_mut().poll(cx).map(Ok),
                Err(forked) => Poll::Ready(Err(forked)),
            });
            return Ok((output.await?, options));
        };
        let begun = self.shared().clock.now();
        let slot = self.begin(Box::new(Never), TIMER, PostedBy::Driver, options)?;
        let timer = Timer { slot, driver: self };
        let output = poll_fn(|cx| {
            if self.check_process().is_err() {
                return Poll::Ready(Err(None));
            }
            match future.as_mut().poll(cx) {
                Poll::Ready(output) => Poll::Ready(Ok(output)),
                Poll::Pending => timer.slot.cell.poll_outcome(cx.waker()).map(Some).map(Err),
            }
        });
        match output.await {
            Ok(output) => {
                let spent = self.shared().clock.now().saturating_sub(begun);
                Ok((output, options.spending(spent)))
            }
            Err(None) => Err(TransportError::Forked.into()),
            // The timer ends in no other way.
            Err(Some(_)) => Err(OperationError::TimedOut { after }),
        }
    }
}

/// A timer task of the driver, which the driver polls at its deadline.
struct Timer<'a> {
    slot: Arc<TaskSlot>,
    driver: &'a Driver,
}

impl Drop for Timer<'_> {
    fn drop(&mut self) {
        if self.driver.check_process().is_err() {
            return;
        }
        self.slot.cell.finish(OperationStatus::Cancelled, Err(OperationError::Cancelled));
        if self.driver.shared().poll(&self.slot) == SlotState::Busy {
            // The driver may have polled it before it was over, and looks again only once it wakes.
            Waker::from(Arc::clone(&self.slot)).wake();
        }
    }
}

struct Never;

impl Execution for Never {
    fn poll(&mut self, _: &mut Context<'_>) -> Poll<Result<(), TransportError>> {
        Poll::Pending
    }

    /// It has nothing to look at but its deadline.
    fn completion_mode(&self) -> CompletionMode {
        CompletionMode::Wakes
    }

    fn abandon(&mut self) -> bool {
        true
    }

    fn report(&self) -> PathReport {
        PathReport::new(PathKind::Direct, "timer", 0, 0)
    }
}
