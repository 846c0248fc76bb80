//! The outcome of an operation.

use std::time::Duration;

use crate::{OperationError, PathReport};

pub(crate) type Outcome = Result<Completion, OperationError>;

/// A completed operation: the bytes are in the destination.
#[derive(Clone, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub struct Completion {
    bytes: u64,
    elapsed: Duration,
    path: Option<PathReport>,
}

impl Completion {
    pub(crate) fn new(bytes: u64, elapsed: Duration, path: Option<PathReport>) -> Self {
        Self { bytes, elapsed, path }
    }

    /// Makes the completion of a copy without the driver.
    #[must_use]
    pub fn of_copy(report: PathReport, elapsed: Duration) -> Self {
        Self::new(report.bytes, elapsed, Some(report))
    }

    /// The moved bytes.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// From the begin of the operation to its observed end.
    pub fn elapsed(&self) -> Duration {
        self.elapsed
    }

    /// The path the bytes took. Known to the side that moved them, so `None` for passive operations.
    pub fn path(&self) -> Option<&PathReport> {
        self.path.as_ref()
    }
}
