//! Errors of stores.

use std::path::PathBuf;

use nixl_device::SharedError;
use nixl_ops::{Advice, OperationError};
use thiserror::Error;

use super::super::error::FileTransferError;
use super::key::BlockKey;
use nixl_descriptor::file::{FileError, FileLayoutError};

/// A store cannot be opened, or a block not be put or read.
#[derive(Clone, Debug, Error, PartialEq)]
#[non_exhaustive]
pub enum StoreError {
    /// The file cannot be opened.
    #[error(transparent)]
    File(#[from] FileError),
    /// The blocks cannot lie in a file so.
    #[error(transparent)]
    Layout(#[from] FileLayoutError),
    /// A transfer could not begin.
    #[error(transparent)]
    Transfer(#[from] FileTransferError),
    /// A transfer failed.
    #[error(transparent)]
    Operation(#[from] OperationError),
    /// Another store, of this or another process, has the folder open.
    #[error("{} is in use by another store: a folder has one owner at a time", folder.display())]
    InUse {
        /// The folder.
        folder: PathBuf,
    },
    /// The system refuses to lock the file by which a store owns its folder.
    #[error(
        "{} cannot be locked: {error}; use a file system with locks, such as that of a local disk", path.display()
    )]
    NoLock {
        /// The file.
        path: PathBuf,
        /// The system's error.
        #[source]
        error: SharedError,
    },
    /// The file is that of no store of this version, or its first page is damaged.
    #[error("{} is no store of this version, or its first page is damaged: remove it", path.display())]
    NoStore {
        /// The file.
        path: PathBuf,
    },
    /// The file holds blocks of another shape or namespace, or was made for another number of them.
    #[error(
        "{} holds blocks of another shape or namespace, or another number of them: use another folder", path.display()
    )]
    OtherBlocks {
        /// The file.
        path: PathBuf,
    },
    /// No block can give way: all are being read or written, or lie where the disk has damaged one.
    #[error(
        "all {capacity} blocks of the store are being read or written, or damaged: wait for some to end"
    )]
    Full {
        /// The capacity of the store.
        capacity: u32,
    },
    /// The bytes of the block are not those that were put. The block is no longer found, and its memory has undefined content.
    #[error("block {key} of the store is damaged: it is dropped")]
    Damaged {
        /// Which block.
        key: BlockKey,
    },
    /// A removed block is found no more, but a read or a write of it has not ended, so its record is still there.
    #[error(
        "block {key} of the store is being read or written: remove it again after that, or it may be found after a restart"
    )]
    StillUsed {
        /// Which block.
        key: BlockKey,
    },
    /// What was written since the last sync may be lost, and the system states that once. Nothing is put or removed any more.
    #[error("a sync of the store has failed: {error}; drop the store and open it again")]
    NotSynced {
        /// The error of the sync.
        #[source]
        error: FileTransferError,
    },
    /// There is no memory for records.
    #[error("no memory for the records of the store: {reason}")]
    Memory {
        /// The error of the memory.
        reason: String,
    },
}

impl StoreError {
    /// The remedy, found at any depth of the chain of sources.
    #[must_use]
    pub fn advice(&self) -> Advice {
        match self {
            Self::File(error) => error.advice(),
            Self::Layout(error) => error.advice(),
            Self::Transfer(error) => error.advice(),
            Self::Operation(error) => error.advice(),
            Self::StillUsed { .. }
            | Self::Full { .. }
            | Self::InUse { .. }
            | Self::Memory { .. } => Advice::Retry,
            Self::NotSynced { .. }
            | Self::NoLock { .. }
            | Self::NoStore { .. }
            | Self::OtherBlocks { .. }
            | Self::Damaged { .. } => Advice::GiveUp,
        }
    }
}
