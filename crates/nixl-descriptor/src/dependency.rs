//! Dependencies: work on memory that must be done before an operation uses it.

use std::any::Any;
use std::fmt;

/// Work that must be done before an operation uses the memory: a kernel that fills it, a copy that still reads it.
///
/// A [`DescriptorList`](crate::DescriptorList) [carries it](crate::DescriptorList::after) to the operation.
///
/// Not an unsafe trait: safe code cannot begin work that touches the memory of a region behind its back. Code that begins
/// such work by an unsafe call answers for the order in which the memory is used, and so for its own implementation of
/// this trait.
pub trait Dependency: Any + fmt::Debug + Send + Sync {
    /// Whether it is done. Takes microseconds and never waits; once it is, it stays so.
    ///
    /// # Errors
    ///
    /// [`DependencyError`] if it failed. The memory may hold anything then.
    fn is_done(&self) -> Result<bool, DependencyError>;
}

/// Work on memory failed.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[error("{reason}")]
pub struct DependencyError {
    pub(crate) reason: String,
}

impl DependencyError {
    /// Of work that failed, and whose writes may not have been made, for this reason.
    pub fn new(reason: impl Into<String>) -> Self {
        Self { reason: reason.into() }
    }

    /// What went wrong.
    #[must_use]
    pub fn reason(&self) -> &str {
        &self.reason
    }
}
