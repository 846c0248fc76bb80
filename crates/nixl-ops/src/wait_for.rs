//! Executions that begin after work on their memory.

use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use nixl_descriptor::{Dependency, DependencyError, DescriptorList};

use crate::{
    CompletionMode, CopyOperation, Driver, Execution, OperationError, OperationOptions, PathKind,
    PathReport, PeerMemory, TransportError, forward_execution,
};

/// An execution that begins after work on its memory, for executions that cannot wait by themselves.
#[allow(missing_debug_implementations, reason = "executions have none")]
pub struct WaitFor {
    pending: Vec<Arc<dyn Dependency>>,
    execution: Box<dyn Execution>,
}

impl WaitFor {
    /// The execution, wrapped if any work is pending.
    pub fn before(
        execution: Box<dyn Execution>,
        pending: &[Arc<dyn Dependency>],
    ) -> Box<dyn Execution> {
        match pending {
            [] => execution,
            _ => Box::new(Self { pending: pending.to_vec(), execution }),
        }
    }

    /// Whether all of the work is done.
    ///
    /// # Errors
    ///
    /// [`TransportError::MemoryNotReady`] if any of it failed.
    pub fn is_open(pending: &[Arc<dyn Dependency>]) -> Result<bool, TransportError> {
        for work in pending {
            let done = work.is_done();
            let failed = |error: DependencyError| TransportError::MemoryNotReady { error };
            if !done.map_err(failed)? {
                return Ok(false);
            }
        }
        Ok(true)
    }
}

impl Driver {
    /// Waits for the pending work on the memory.
    ///
    /// Cancel safe.
    ///
    /// # Errors
    ///
    /// [`TransportError::MemoryNotReady`] if it failed, or [`OperationError::QueueFull`].
    pub async fn ready(self: &Arc<Self>, list: &DescriptorList) -> Result<(), OperationError> {
        if WaitFor::is_open(list.pending())? {
            return Ok(());
        }
        let gate = WaitFor::before(Box::new(NoWait), list.pending());
        let mut wait = CopyOperation::begin(self, gate, 0, Vec::new(), OperationOptions::new())?;
        wait.wait_for_completion().await.map(drop)
    }
}

/// A stand-in for the execution, in a wait without one.
struct NoWait;

impl Execution for NoWait {
    fn poll(&mut self, _: &mut Context<'_>) -> Poll<Result<(), TransportError>> {
        Poll::Ready(Ok(()))
    }

    fn abandon(&mut self) -> bool {
        true
    }

    fn report(&self) -> PathReport {
        PathReport::new(PathKind::Local("wait"), "wait", 0, 0)
    }
}

#[deny(clippy::missing_trait_methods, reason = "a wrapper forwards every method")]
impl Execution for WaitFor {
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), TransportError>> {
        if !Self::is_open(&self.pending)? {
            return Poll::Pending;
        }
        self.pending.clear();
        self.execution.poll(cx)
    }

    fn abandon(&mut self) -> bool {
        // An execution that has not begun can always be given up.
        !self.pending.is_empty() || self.execution.abandon()
    }

    fn steps(&self) -> u64 {
        self.execution.steps() + u64::from(self.pending.is_empty())
    }

    fn completion_mode(&self) -> CompletionMode {
        match self.pending.is_empty() {
            true => self.execution.completion_mode(),
            false => CompletionMode::Polled,
        }
    }

    fn expected(&self) -> Option<Duration> {
        // The wait for the work comes first, for an unknown time.
        None
    }

    fn posts_quickly(&self) -> bool {
        false
    }

    fn peer_memory(&self) -> PeerMemory {
        match self.pending.is_empty() {
            true => self.execution.peer_memory(),
            false => PeerMemory::UNTOUCHED,
        }
    }

    forward_execution! { execution: awaits_notification report takes_turns target_told }
}
