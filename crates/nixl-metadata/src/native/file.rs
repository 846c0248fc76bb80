//! Encoding of a shared file.

use serde::{Deserialize, Serialize};

use crate::SharedFile;

#[derive(Serialize, Deserialize)]
pub(super) struct File {
    pid: u32,
    fd: u32,
    name: [u8; 16],
    length: u64,
}

impl File {
    pub(super) const fn new(file: &SharedFile) -> Self {
        let &SharedFile { pid, fd, name, length } = file;
        Self { pid, fd, name, length }
    }

    /// The export checks it.
    pub(super) const fn unchecked(self) -> SharedFile {
        let Self { pid, fd, name, length } = self;
        SharedFile { pid, fd, name, length }
    }
}
