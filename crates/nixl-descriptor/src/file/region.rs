//! Regions of files.

use std::collections::HashMap;
use std::fmt;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, Weak};

use nixl_device::locks::lock;
use nixl_device::{FileIdentity, PerProcess};
use rustix::fs::fstat;

use super::alignment::FileAlignment;
use super::error::FileError;
use crate::access::Access;
use crate::range_locks::RangeLocks;

/// Names a file region; unique in this process and never reused.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct FileRegionId(u64);

/// A handle to one regular file, whose descriptor it owns. Cheap to clone.
///
/// Made by [`open`](Self::open) and [`from_descriptor`](Self::from_descriptor). Operations hold handles, so the descriptor stays
/// open until the last of them has ended.
#[derive(Clone)]
pub struct FileRegion(Arc<Inner>);

/// A file that was opened and checked.
pub(super) struct Opened {
    pub(super) file: OwnedFd,
    /// The same file past the page cache.
    pub(super) direct: Option<OwnedFd>,
    pub(super) path: PathBuf,
    pub(super) identity: FileIdentity,
    pub(super) alignment: FileAlignment,
    pub(super) access: Access,
}

struct Inner {
    id: FileRegionId,
    opened: Opened,
    range_locks: Arc<RangeLocks>,
}

impl FileRegion {
    pub(super) fn new(opened: Opened) -> Self {
        static LAST: AtomicU64 = AtomicU64::new(0);
        let id = FileRegionId(LAST.fetch_add(1, Ordering::Relaxed) + 1);
        let range_locks = range_locks_of(opened.identity);
        Self(Arc::new(Inner { id, opened, range_locks }))
    }

    /// This region's name in this process.
    #[must_use]
    pub fn id(&self) -> FileRegionId {
        self.0.id
    }

    /// The file: its device and its inode. While the region lives, no other file has it.
    #[must_use]
    pub fn identity(&self) -> FileIdentity {
        self.0.opened.identity
    }

    /// The name that it was opened by, for messages.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.0.opened.path
    }

    /// What operations may do with the file.
    #[must_use]
    pub fn access(&self) -> Access {
        self.0.opened.access
    }

    /// What I/O past the page cache demands; one each if the file was opened without.
    #[must_use]
    pub fn alignment(&self) -> FileAlignment {
        self.0.opened.alignment
    }

    /// The descriptor of I/O through the page cache, open as long as the region lives.
    #[must_use]
    pub fn descriptor(&self) -> BorrowedFd<'_> {
        self.0.opened.file.as_fd()
    }

    /// The descriptor of I/O past the page cache, if the file was opened so.
    #[must_use]
    pub fn direct_descriptor(&self) -> Option<BorrowedFd<'_>> {
        self.0.opened.direct.as_ref().map(AsFd::as_fd)
    }

    /// Bytes of the file now: other processes may change it.
    ///
    /// Asks the file system, whose answer is in the kernel's memory for local ones. Panics: never.
    ///
    /// # Errors
    /// [`FileError::System`]; [`FileError::Replaced`] if other code of the process has closed the descriptor.
    #[expect(clippy::len_without_is_empty, reason = "it asks the file system")]
    pub fn len(&self) -> Result<u64, FileError> {
        let path = self.path();
        let stat =
            fstat(&self.0.opened.file).map_err(|errno| FileError::of(errno, "fstat", path, 0))?;
        if FileIdentity::new(stat.st_dev, stat.st_ino) != self.identity() {
            return Err(FileError::Replaced { path: path.to_owned() });
        }
        // A size is never negative.
        Ok(u64::try_from(stat.st_size).unwrap_or(0))
    }

    pub(super) fn range_locks(&self) -> &RangeLocks {
        &self.0.range_locks
    }
}

/// The leases of a file are those of the file, however often this process has opened it.
fn range_locks_of(identity: FileIdentity) -> Arc<RangeLocks> {
    static FILES: PerProcess<Mutex<HashMap<FileIdentity, Weak<RangeLocks>>>> =
        PerProcess::new(Mutex::default);
    let mut files = lock(FILES.get());
    if let Some(locks) = files.get(&identity).and_then(Weak::upgrade) {
        return locks;
    }
    // Files are opened seldom.
    files.retain(|_, locks| locks.strong_count() > 0);
    let locks = Arc::new(RangeLocks::default());
    files.insert(identity, Arc::downgrade(&locks));
    locks
}

impl fmt::Debug for FileRegion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FileRegion")
            .field("id", &self.id().0)
            .field("path", &self.path())
            .field("access", &self.access())
            .field("alignment", &self.alignment())
            .field("direct", &self.direct_descriptor().is_some())
            .finish()
    }
}
