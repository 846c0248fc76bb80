//! Errors of transfers between files and memory.

use std::io;
use std::path::PathBuf;

use nixl_descriptor::LeaseError;
use nixl_descriptor::file::FileError;
use nixl_descriptor::layout::ChunkPairError;
use nixl_device::{Device, SharedError};
use nixl_ops::{Advice, OperationError};
use thiserror::Error;

use super::class::FileClass;
use super::io_kind::IoKind;

/// The kernel's answer to a read or a write that did not succeed. It is the source of the operation's error.
#[derive(Clone, Debug, Error, PartialEq)]
#[non_exhaustive]
pub enum FileIoError {
    /// The file ended before the range did: another process has shortened it.
    #[error(
        "{} has {size} bytes, and the read ends behind them at {offset}: the file was truncated", path.display()
    )]
    Truncated {
        /// The file.
        path: PathBuf,
        /// Where the read ended.
        offset: u64,
        /// Bytes of the file now.
        size: u64,
    },
    /// The file system has no room. How much of the range was written is not known.
    #[error("no room to write {} at {offset}: {error}", path.display())]
    NoSpace {
        /// The file.
        path: PathBuf,
        /// Where the write stopped.
        offset: u64,
        /// The system's error.
        #[source]
        error: SharedError,
    },
    /// The kernel wrote nothing and gave no reason.
    #[error("the kernel wrote no byte to {} at {offset}", path.display())]
    WroteNothing {
        /// The file.
        path: PathBuf,
        /// Where.
        offset: u64,
    },
    /// The call failed.
    #[error("the {kind} of {} at {offset} failed: {error}", path.display())]
    System {
        /// The call.
        kind: IoKind,
        /// The file.
        path: PathBuf,
        /// Where it failed.
        offset: u64,
        /// The system's error.
        #[source]
        error: SharedError,
    },
    /// The engine has ended, or a thread of it did.
    #[error("the engine of {} has ended before the operation", path.display())]
    EngineEnded {
        /// The file.
        path: PathBuf,
    },
}

impl FileIoError {
    /// The error that an operation ended with, if it came from a file.
    #[must_use]
    pub fn of(error: &OperationError) -> Option<&Self> {
        let mut source: Option<&(dyn std::error::Error + 'static)> = Some(error);
        while let Some(error) = source {
            if let Some(found) = error.downcast_ref() {
                return Some(found);
            }
            source = error.source();
        }
        None
    }

    /// The remedy: [`Advice::Retry`] where room may be made, else [`Advice::GiveUp`].
    #[must_use]
    pub fn advice(&self) -> Advice {
        match self {
            Self::NoSpace { .. } => Advice::Retry,
            Self::Truncated { .. }
            | Self::WroteNothing { .. }
            | Self::System { .. }
            | Self::EngineEnded { .. } => Advice::GiveUp,
        }
    }

    pub(crate) fn of_system(kind: IoKind, path: PathBuf, offset: u64, error: io::Error) -> Self {
        let out_of_room = [libc::ENOSPC, libc::EDQUOT, libc::EFBIG];
        match error.raw_os_error() {
            Some(code) if out_of_room.contains(&code) => {
                Self::NoSpace { path, offset, error: error.into() }
            }
            _ => Self::System { kind, path, offset, error: error.into() },
        }
    }
}

/// A transfer between a file and memory could not begin.
#[derive(Clone, Debug, Error, PartialEq)]
#[non_exhaustive]
pub enum FileTransferError {
    /// The two sides do not match.
    #[error(transparent)]
    Pairing(#[from] ChunkPairError),
    /// The file has no such bytes, or another operation uses them.
    #[error(transparent)]
    File(#[from] FileError),
    /// Another operation uses the memory.
    #[error(transparent)]
    Lease(#[from] LeaseError),
    /// The kernel cannot read and write the memory.
    #[error("memory of {device} is not the host's: copy its blocks to host memory first")]
    NotHost {
        /// Where the memory is.
        device: Device,
    },
    /// The queue of the device has no room for more of this class.
    #[error(
        "{queued} bytes of {class} wait for the device, at most {limit} may: wait for some to end"
    )]
    Busy {
        /// The class.
        class: FileClass,
        /// Bytes that wait, this operation's included.
        queued: u64,
        /// The bound.
        limit: u64,
    },
    /// The operation could not be started.
    #[error(transparent)]
    Operation(#[from] OperationError),
    /// The operating system refused a thread.
    #[error("cannot start a thread for files: {error}; check the limits on processes and memory")]
    Thread {
        /// The error of the operating system.
        #[source]
        error: SharedError,
    },
}

impl FileTransferError {
    /// The remedy, found at any depth of the chain of sources.
    #[must_use]
    pub fn advice(&self) -> Advice {
        match self {
            Self::Pairing(error) => error.advice(),
            Self::File(error) => error.advice(),
            Self::Lease(error) => error.advice(),
            Self::Operation(error) => error.advice(),
            Self::Busy { .. } | Self::Thread { .. } => Advice::Retry,
            Self::NotHost { .. } => Advice::GiveUp,
        }
    }
}
