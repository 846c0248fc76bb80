//! Encoding of a doorbell.

use serde::{Deserialize, Serialize};

use crate::{Doorbell as Checked, SharedFile};

#[derive(Serialize, Deserialize)]
pub(super) struct Doorbell {
    pid: u32,
    fd: u32,
    name: [u8; 16],
    length: u64,
    slot: u32,
    token: u64,
}

/// The size of the encoding.
pub(super) const ENCODED_LEN: u64 = 4 + 4 + 16 + 8 + 4 + 8;

impl Doorbell {
    pub(super) fn new(doorbell: &Checked) -> Self {
        let &Checked { file: SharedFile { pid, fd, name, length }, slot, token } = doorbell;
        Self { pid, fd, name, length, slot, token }
    }

    /// The offer checks it.
    pub(super) fn unchecked(self) -> Checked {
        let Self { pid, fd, name, length, slot, token } = self;
        Checked::new(SharedFile::new(pid, fd, name, length), slot, token)
    }
}
