//! When an operation must have ended.

use std::time::Duration;

/// A deadline, and the time that was given.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Deadline {
    pub(crate) at: Duration,
    pub(crate) after: Duration,
}

impl Deadline {
    pub(crate) fn starting(now: Duration, after: Option<Duration>) -> Option<Self> {
        after.map(|after| Self { at: now.saturating_add(after), after })
    }
}
