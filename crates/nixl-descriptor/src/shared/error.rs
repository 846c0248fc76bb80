//! Errors of opening memory of other processes.

use nixl_device::SharedError;

/// Why memory that a process shares could not be mapped.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum SharedMemoryError {
    /// The operating system refused.
    #[error(
        "cannot {call} memory that another process shares: {error}. Both need one PID namespace and one user, or this \
         one the right to trace the other"
    )]
    Refused {
        /// What was tried.
        call: &'static str,
        /// The error of the system.
        #[source]
        error: SharedError,
    },
    /// The system is short of something: files, memory or mappings.
    #[error("cannot {call} memory that another process shares: {message}")]
    Exhausted {
        /// What was tried.
        call: &'static str,
        /// The system's error, and the remedy.
        message: String,
        /// The error of the system.
        #[source]
        error: SharedError,
    },
    /// The owner, in another PID namespace, has not answered.
    #[error(
        "the owner of the memory does not answer in the rendezvous folder: it is stopped, or has left the folder; try again"
    )]
    Unanswered,
    /// The file is not the memory of that name: its owner has released it, or never had it.
    #[error("the memory that another process shared is not there: its owner has released it")]
    Gone,
    /// It could become shorter under the mapping, or already is.
    #[error("the memory that another process shares is shorter than it stated, or may become so")]
    MayShrink,
    /// Processes other than the owner could write the words that it publishes.
    #[error(
        "the words that another process publishes can be written by others: it is no file of published words, or its owner \
         runs another version"
    )]
    MayBeWritten,
}
