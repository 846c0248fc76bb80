//! The deadline of an operation.

use std::time::Duration;

use crate::OperationOptions;

/// A deadline, with its duration.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Deadline {
    pub(crate) at: Duration,
    pub(crate) after: Duration,
}

impl Deadline {
    pub(crate) fn starting(now: Duration, options: &OperationOptions) -> Option<Self> {
        let after = options.deadline_after()?;
        let left = after.saturating_sub(options.spent());
        Some(Self { at: now.saturating_add(left), after })
    }
}
