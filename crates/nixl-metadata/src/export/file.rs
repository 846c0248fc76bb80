//! A file of the owner's that other processes of its host can open.

use std::fmt;

/// A file that a process has open, reached as that of [`ShareKind::File`](crate::ShareKind::File).
///
/// Before it is mapped, make sure that it is this file, has these bytes and cannot shrink. Its holder can open it, so `Debug`
/// shows the length only.
#[derive(Clone, Copy, PartialEq, Eq)]
#[allow(clippy::exhaustive_structs, reason = "it is what peers send")]
pub struct SharedFile {
    /// The process.
    pub pid: u32,
    /// Its file descriptor there.
    pub fd: u32,
    /// Random, and part of the file's own name.
    pub name: [u8; 16],
    /// The number of bytes of the file.
    pub length: u64,
}

impl fmt::Debug for SharedFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SharedFile").field("length", &self.length).finish_non_exhaustive()
    }
}
