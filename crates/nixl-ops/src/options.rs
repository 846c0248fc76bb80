//! What a caller may ask of one operation.

use std::time::Duration;

/// Options of one operation.
///
/// ```
/// use std::time::Duration;
/// use nixl_ops::OperationOptions;
///
/// let options = OperationOptions::new().timeout(Duration::from_secs(5));
/// assert_eq!(options.deadline_after(), Some(Duration::from_secs(5)));
/// ```
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct OperationOptions {
    timeout: Option<Duration>,
    /// What of it has gone before the operation began.
    spent: Duration,
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
