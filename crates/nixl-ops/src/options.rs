//! What a caller may ask of one operation.

use std::time::Duration;

use crate::PathPolicy;

/// Options of one operation.
///
/// ```
/// use std::time::Duration;
/// use nixl_ops::OperationOptions;
///
/// let options = OperationOptions::new().timeout(Duration::from_secs(5));
/// assert_eq!(options.deadline_after(), Some(Duration::from_secs(5)));
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct OperationOptions {
    timeout: Option<Duration>,
    /// What of it has gone before the operation began.
    spent: Duration,
    policy: PathPolicy,
}

impl OperationOptions {
    /// No deadline.
    pub fn new() -> Self {
        Self::default()
    }

    /// Ends the operation with [`TimedOut`](crate::OperationError::TimedOut) if it has not completed this
    /// long after it began.
    #[must_use]
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = Some(timeout);
        self
    }

    /// Which ways the bytes may go. For active operations: whoever begins the transfer chooses.
    #[must_use]
    pub fn policy(mut self, policy: PathPolicy) -> Self {
        self.policy = policy;
        self
    }

    /// Which ways the bytes may go.
    pub fn path_policy(&self) -> PathPolicy {
        self.policy
    }

    /// Notes that some of the time has gone.
    pub(crate) fn spending(mut self, time: Duration) -> Self {
        self.spent = self.spent.saturating_add(time);
        self
    }

    pub(crate) fn spent(&self) -> Duration {
        self.spent
    }

    /// The time the operation is given, if it is bounded.
    pub fn deadline_after(&self) -> Option<Duration> {
        self.timeout
    }
}
