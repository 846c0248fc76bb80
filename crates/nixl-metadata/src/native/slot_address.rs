//! Encoding of a slot's address.

use serde::{Deserialize, Serialize};

use crate::{SharedFile, SlotAddress as Checked};

#[derive(Serialize, Deserialize)]
pub(super) struct SlotAddress {
    pid: u32,
    fd: u32,
    name: [u8; 16],
    length: u64,
    slot: u32,
    token: u64,
}

/// The size of the encoding.
pub(super) const ENCODED_LEN: u64 = 4 + 4 + 16 + 8 + 4 + 8;

impl SlotAddress {
    pub(super) fn new(slot_address: &Checked) -> Self {
        let &Checked { file: SharedFile { pid, fd, name, length }, slot, token } = slot_address;
        Self { pid, fd, name, length, slot, token }
    }

    /// The offer checks it.
    pub(super) fn unchecked(self) -> Checked {
        let Self { pid, fd, name, length, slot, token } = self;
        Checked::new(SharedFile::new(pid, fd, name, length), slot, token)
    }
}
