//! Errors of files.

use std::io;
use std::path::{Path, PathBuf};

use nixl_device::SharedError;
use rustix::io::Errno;

use super::kind::FileKind;
use crate::lease::LeaseMode;

/// Why a file cannot be opened, or a range of it not be used.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum FileError {
    /// There is no such file, or its folder does not exist.
    #[error("{} does not exist", path.display())]
    NotFound {
        /// The file or the folder.
        path: PathBuf,
    },
    /// There is a file of the name of one to be created.
    #[error("{} exists already: open it, or remove it first", path.display())]
    Exists {
        /// The file.
        path: PathBuf,
    },
    /// The name, or a folder on the way to it, is a symbolic link.
    #[error(
        "{} leads over a symbolic link, which is not followed: give the name that the link leads to", path.display()
    )]
    Symlink {
        /// The file.
        path: PathBuf,
    },
    /// The name leads out of the folder.
    #[error("{} leads out of its folder: give a relative name without `..`", path.display())]
    Outside {
        /// The name.
        path: PathBuf,
    },
    /// The name is that of something else than a regular file.
    #[error("{} is {kind}: only regular files hold blocks", path.display())]
    NotRegular {
        /// The file.
        path: PathBuf,
        /// What it is.
        kind: FileKind,
    },
    /// The file belongs to another user.
    #[error(
        "{} belongs to user {owner}, and this process runs as user {user}: open it as a file of any owner if that user is trusted \
         with its content", path.display()
    )]
    ForeignOwner {
        /// The file.
        path: PathBuf,
        /// Its owner.
        owner: u32,
        /// The user of this process.
        user: u32,
    },
    /// The system denies the access.
    #[error("{} cannot be opened so: {error}; check its rights and those of its folders", path.display())]
    Denied {
        /// The file.
        path: PathBuf,
        /// The system's error.
        #[source]
        error: SharedError,
    },
    /// The file system has no room, or the user's quota is used up. A file that was to be created is removed again.
    #[error("no room for {len} bytes in {}: {error}", path.display())]
    NoSpace {
        /// The file.
        path: PathBuf,
        /// Requested bytes.
        len: u64,
        /// The system's error.
        #[source]
        error: SharedError,
    },
    /// The file system cannot reserve room in advance.
    #[error(
        "the file system of {} cannot reserve room for a file (fallocate): use a folder on another one", path.display()
    )]
    NoPreallocation {
        /// The file.
        path: PathBuf,
    },
    /// The file system does not bypass the page cache.
    #[error("the file system of {} has no direct I/O: open the file without", path.display())]
    NoDirectIo {
        /// The file.
        path: PathBuf,
    },
    /// The descriptor cannot be used for reads and writes at offsets.
    #[error("the descriptor of {} cannot be used: {reason}", path.display())]
    Descriptor {
        /// The file.
        path: PathBuf,
        /// What is in the way, and the remedy.
        reason: &'static str,
    },
    /// Another call of the system failed.
    #[error("{call} of {} failed: {error}", path.display())]
    System {
        /// The file.
        path: PathBuf,
        /// The call.
        call: &'static str,
        /// The system's error.
        #[source]
        error: SharedError,
    },
    /// The descriptor's number is that of another file by now: other code of the process has closed it.
    #[error("the descriptor of {} was closed by other code of this process, and is another file's", path.display())]
    Replaced {
        /// The file that it was of.
        path: PathBuf,
    },
    /// The range is not inside the file.
    #[error("bytes {start}..{end} are not inside the {size} bytes of {}", path.display())]
    OutOfBounds {
        /// The file.
        path: PathBuf,
        /// First byte.
        start: u64,
        /// One past the last byte.
        end: u64,
        /// Bytes of the file now.
        size: u64,
    },
    /// The range has no bytes, or there is none.
    #[error("the ranges of {} are empty: give ranges with at least one byte", path.display())]
    Empty {
        /// The file.
        path: PathBuf,
    },
    /// Two ranges to be written share bytes.
    #[error("two of the ranges of {} to be written overlap: make them disjoint", path.display())]
    Overlap {
        /// The file.
        path: PathBuf,
    },
    /// The file was opened for reading.
    #[error("{} is open for reading only", path.display())]
    ReadOnly {
        /// The file.
        path: PathBuf,
    },
    /// An operation in flight uses some of the bytes.
    #[error("an operation in flight holds a {held} lease on bytes of {}: wait for it to complete", path.display())]
    InUse {
        /// The file.
        path: PathBuf,
        /// What the other operation may do.
        held: LeaseMode,
    },
}

impl FileError {
    /// The system's refusal to open a file, or to make it `len` bytes long.
    pub(super) fn of(errno: Errno, call: &'static str, path: &Path, len: u64) -> Self {
        let path = path.to_owned();
        let error = || SharedError::from(io::Error::from(errno));
        match errno {
            Errno::NOENT | Errno::NOTDIR => Self::NotFound { path },
            Errno::EXIST => Self::Exists { path },
            Errno::LOOP => Self::Symlink { path },
            Errno::XDEV => Self::Outside { path },
            Errno::ISDIR => Self::NotRegular { path, kind: FileKind::Directory },
            Errno::ACCESS | Errno::PERM | Errno::ROFS => Self::Denied { path, error: error() },
            Errno::NOSPC | Errno::DQUOT | Errno::FBIG => {
                Self::NoSpace { path, len, error: error() }
            }
            _ => Self::System { path, call, error: error() },
        }
    }
}
