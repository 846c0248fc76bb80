//! An execution that holds its permit, and other things that last as long.

use std::task::{Context, Poll};

use nixl_ops::{Execution, TransportError, forward_execution};

/// Returns what it holds once the engine is quiet. Field order: the execution drops before that.
pub(crate) struct Admitted<H> {
    execution: Box<dyn Execution>,
    _held: H,
}

impl<H: Send + 'static> Admitted<H> {
    pub(crate) fn with(execution: Box<dyn Execution>, held: H) -> Box<dyn Execution> {
        Box::new(Self { execution, _held: held })
    }
}

#[deny(clippy::missing_trait_methods, reason = "a wrapper forwards every method")]
impl<H: Send> Execution for Admitted<H> {
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), TransportError>> {
        self.execution.poll(cx)
    }

    forward_execution! {
        execution: abandon awaits_notification completion_mode expected peer_memory posts_quickly report steps takes_turns target_told
    }
}
