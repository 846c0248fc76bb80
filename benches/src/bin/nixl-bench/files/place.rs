//! Places of files.

use std::fmt;

/// Where a file lies, and how it is reached.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub(super) enum Place {
    /// A disk, past the page cache.
    Disk,
    /// The page cache, which has all of the file.
    Cached,
    /// A file system in memory.
    Tmpfs,
}

impl Place {
    pub(super) const ALL: [Self; 3] = [Self::Disk, Self::Cached, Self::Tmpfs];

    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Disk => "disk",
            Self::Cached => "cached",
            Self::Tmpfs => "tmpfs",
        }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}
