//! An execution that holds its permit.

use std::task::{Context, Poll};

use nixl_ops::{Execution, TransportError, forward_execution};

use super::Permit;

/// Returns its permit once the engine is quiet. Field order: the execution drops before the permit.
pub(crate) struct Admitted {
    execution: Box<dyn Execution>,
    _permit: Permit,
}

impl Admitted {
    pub(crate) fn with(execution: Box<dyn Execution>, permit: Permit) -> Box<dyn Execution> {
        Box::new(Self { execution, _permit: permit })
    }
}

#[deny(clippy::missing_trait_methods, reason = "a wrapper forwards every method")]
impl Execution for Admitted {
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), TransportError>> {
        self.execution.poll(cx)
    }

    forward_execution! {
        execution: abandon awaits_notification completion_mode expected peer_memory posts_quickly report steps takes_turns target_told
    }
}
