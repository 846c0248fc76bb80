//! Kinds of calls on files.

use std::fmt;

/// A call on a file.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
#[non_exhaustive]
pub enum IoKind {
    /// From the file into memory.
    Read,
    /// From memory to the file.
    Write,
    /// What was written is to be on the disk: `fdatasync`.
    Sync,
}

impl fmt::Display for IoKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Read => "read",
            Self::Write => "write",
            Self::Sync => "sync",
        })
    }
}
