//! An execution with its permit, and with a check before its post.

use std::task::{Context, Poll};

use nixl_ops::{Execution, TransportError, forward_execution};

/// Returns what it holds once the engine is quiet. Field order: the execution drops before that.
pub(crate) struct Admitted<C, H> {
    execution: Box<dyn Execution>,
    /// Whether it may be posted.
    check: C,
    _held: H,
}

impl<H: Send + 'static> Admitted<fn() -> Result<(), TransportError>, H> {
    pub(crate) fn with(execution: Box<dyn Execution>, held: H) -> Box<dyn Execution> {
        let check: fn() -> _ = || Ok(());
        Self::checked(execution, held, check)
    }
}

impl<C, H> Admitted<C, H>
where
    C: Fn() -> Result<(), TransportError> + Send + 'static,
    H: Send + 'static,
{
    /// `check` is made directly before each poll that may post. If it fails, nothing is posted, and its error is the execution's.
    pub(crate) fn checked(execution: Box<dyn Execution>, held: H, check: C) -> Box<dyn Execution> {
        Box::new(Self { execution, check, _held: held })
    }
}

#[deny(clippy::missing_trait_methods, reason = "a wrapper forwards every method")]
impl<C, H> Execution for Admitted<C, H>
where
    C: Fn() -> Result<(), TransportError> + Send,
    H: Send,
{
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), TransportError>> {
        // What has to wait is polled more than once before its post.
        if self.execution.peer_memory().is_untouched() {
            (self.check)()?;
        }
        self.execution.poll(cx)
    }

    forward_execution! {
        execution: abandon awaits_notification completion_mode expected peer_memory posts_quickly report steps takes_turns target_told
    }
}
