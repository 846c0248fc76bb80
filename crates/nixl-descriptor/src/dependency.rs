//! Dependencies: work on memory that must be done before an operation uses it, and queues of such work.

use std::any::Any;
use std::fmt;

use nixl_device::SharedError;

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

/// A queue of work on memory, for instance a CUDA stream, that calls functions of the processor in its order.
///
/// Not an unsafe trait, as [`Dependency`] is not: it is about order only.
pub trait WorkQueue: fmt::Debug + Send + Sync {
    /// Has `function` called once all that is queued now is done; what is queued later begins when it has returned. It gets the
    /// error if the work failed, or is not known to have ended.
    ///
    /// It may be called on a thread of the device's driver: it is short, and does not call the device.
    ///
    /// # Errors
    ///
    /// [`DependencyError`] if the queue does not take it: then it is dropped and never called.
    fn call(&self, function: QueuedFunction) -> Result<(), DependencyError>;
}

/// What a [`WorkQueue`] calls.
pub type QueuedFunction = Box<dyn FnOnce(Result<(), DependencyError>) + Send>;

/// Work on memory failed.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[error("{reason}")]
pub struct DependencyError {
    reason: String,
    source: Option<SharedError>,
}

impl DependencyError {
    /// Of work that failed, and whose writes may not have been made, for this reason.
    pub fn new(reason: impl Into<String>) -> Self {
        Self { reason: reason.into(), source: None }
    }

    /// Of work that failed with this error.
    pub fn caused_by(error: impl Into<SharedError>) -> Self {
        let error = error.into();
        Self { reason: error.to_string(), source: Some(error) }
    }

    /// What went wrong.
    #[must_use]
    pub fn reason(&self) -> &str {
        &self.reason
    }
}

#[cfg(test)]
mod tests {
    use std::error::Error as _;
    use std::io;

    use super::*;

    #[test]
    fn the_error_of_the_work_is_the_source() {
        let error = DependencyError::caused_by(io::Error::from_raw_os_error(5));
        let source = error.source().unwrap().downcast_ref::<io::Error>().unwrap();
        assert_eq!((source.raw_os_error(), error.reason()), (Some(5), &*source.to_string()));
        assert!(DependencyError::new("the kernel faulted").source().is_none());
    }
}
