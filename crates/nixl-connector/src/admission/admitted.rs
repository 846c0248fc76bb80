//! An execution that holds its permit.

use std::task::Poll;
use std::time::Duration;

use nixl_ops::{Execution, PathReport, PeerMemory, TransportError};

use super::Permit;

/// Gives its permit back when its engine is done. Field order: the execution goes before it.
pub(crate) struct Admitted {
    execution: Box<dyn Execution>,
    _permit: Permit,
}

impl Admitted {
    pub(crate) fn new(execution: Box<dyn Execution>, permit: Permit) -> Box<dyn Execution> {
        Box::new(Self { execution, _permit: permit })
    }
}

#[deny(clippy::missing_trait_methods, reason = "a wrapper forwards every method")]
impl Execution for Admitted {
    fn poll(&mut self) -> Poll<Result<(), TransportError>> {
        self.execution.poll()
    }

    fn expected(&self) -> Option<Duration> {
        self.execution.expected()
    }

    fn awaits_notification(&self) -> bool {
        self.execution.awaits_notification()
    }

    fn abandon(&mut self) -> bool {
        self.execution.abandon()
    }

    fn report(&self) -> PathReport {
        self.execution.report()
    }

    fn posts_quickly(&self) -> bool {
        self.execution.posts_quickly()
    }

    fn takes_turns(&self) -> bool {
        self.execution.takes_turns()
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
