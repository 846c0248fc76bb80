//! An execution with the leases of its memory.

use std::task::{Context, Poll};

use nixl_descriptor::LeaseSet;

use crate::contained::contained;
use crate::{Execution, PeerMemory, TransportError, forward_execution};

/// Holds leases until the execution has ended. Dropped in flight, it leaks them.
pub(crate) struct Leasing {
    /// Field order: no access to the memory remains when the leases drop.
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

    fn abandon(&mut self) -> bool {
        self.ended || self.execution.abandon()
    }

    fn peer_memory(&self) -> PeerMemory {
        self.execution.peer_memory()
    }

    forward_execution! { execution: awaits_notification completion_mode expected posts_quickly report steps takes_turns target_told }
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
