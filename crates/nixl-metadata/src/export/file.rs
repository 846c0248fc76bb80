//! A file of the owner's that other processes of its host can open.

use std::fmt;

/// A file that a process has open, reached as that of [`ShareKind::File`](crate::ShareKind::File).
///
/// Before it is mapped, make sure that it is this file, has these bytes and cannot shrink. Its holder can open it, so `Debug`
/// shows the length only.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct SharedFile {
    pub(crate) pid: u32,
    pub(crate) fd: u32,
    pub(crate) name: [u8; 16],
    pub(crate) length: u64,
}

impl SharedFile {
    /// A file of `length` bytes that process `pid` has open as descriptor `fd`, with `name` as part of the file's own name.
    #[must_use]
    pub const fn new(pid: u32, fd: u32, name: [u8; 16], length: u64) -> Self {
        Self { pid, fd, name, length }
    }

    /// The process.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// Its file descriptor there.
    #[must_use]
    pub fn fd(&self) -> u32 {
        self.fd
    }

    /// Random, and part of the file's own name.
    #[must_use]
    pub fn name(&self) -> [u8; 16] {
        self.name
    }

    /// The number of bytes of the file.
    #[must_use]
    pub fn length(&self) -> u64 {
        self.length
    }
}

impl fmt::Debug for SharedFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SharedFile").field("length", &self.length).finish_non_exhaustive()
    }
}
