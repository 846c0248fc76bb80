//! An execution together with the leases of its memory.

use std::task::{Context, Poll};
use std::time::Duration;

use nixl_descriptor::LeaseSet;

use crate::contained::contained;
use crate::{CompletionMode, Execution, PathReport, PeerMemory, TransportError};

/// Holds leases until the execution has ended. Dropped in flight, it leaks them.
pub(crate) struct Leasing {
    /// Field order: nothing reaches the memory when the leases go.
    execution: Box<dyn Execution>,
    leases: Vec<LeaseSet>,
    ended: bool,
}

impl Leasing {
    pub(crate) fn over(execution: Box<dyn Execution>, leases: Vec<LeaseSet>) -> Box<dyn Execution> {
        match leases.is_empty() {
            true => execution,
            false => Box::new(Self { execution, leases, ended: false }),
        }
    }
}

#[deny(clippy::missing_trait_methods, reason = "a wrapper forwards every method")]
impl Execution for Leasing {
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), TransportError>> {
        let polled = self.execution.poll(cx);
        self.ended |= polled.is_ready();
        polled
    }

    fn expected(&self) -> Option<Duration> {
        self.execution.expected()
    }

    fn completion_mode(&self) -> CompletionMode {
        self.execution.completion_mode()
    }

    fn awaits_notification(&self) -> bool {
        self.execution.awaits_notification()
    }

    fn abandon(&mut self) -> bool {
        self.ended || self.execution.abandon()
    }

    fn report(&self) -> PathReport {
        self.execution.report()
    }

    fn takes_turns(&self) -> bool {
        self.execution.takes_turns()
    }

    fn posts_quickly(&self) -> bool {
        self.execution.posts_quickly()
    }

    fn steps(&self) -> u64 {
        self.execution.steps()
    }

    fn target_told(&self) -> bool {
        self.execution.target_told()
    }

    fn peer_memory(&self) -> PeerMemory {
        self.execution.peer_memory()
    }
}

impl Drop for Leasing {
    fn drop(&mut self) {
        // After a panic the execution may be in flight.
        let is_quiet =
            self.ended || contained("an execution", || self.execution.abandon()) == Ok(true);
        if !is_quiet {
            self.leases.drain(..).for_each(LeaseSet::leak);
        }
    }
}
