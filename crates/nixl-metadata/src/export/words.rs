//! The place of the words by which readers check their grants.

use std::fmt;

use super::SharedFile;
use crate::MetadataError;

/// Where the owner publishes the state of its grants: [`SLOT_BYTES`](Self::SLOT_BYTES) for each slot, in host memory that peers
/// only read. Words have 8 bytes and are in the owner's byte order.
///
/// `Debug` does not show the address.
#[derive(Clone, Copy, PartialEq, Eq)]
#[allow(clippy::exhaustive_structs, reason = "it is what peers send")]
pub struct WordsLocation {
    /// The address of slot 0 in the owner's address space, for reads through the engine. A multiple of 8.
    pub address: u64,
    /// The number of slots.
    pub slots: u32,
    /// The same memory as a file, whose first byte is that of slot 0. None if other processes cannot open it.
    pub file: Option<SharedFile>,
}

impl WordsLocation {
    /// The bytes of a slot: four words, of which the first is compared with the ticket's generation and the second with its
    /// digest.
    pub const SLOT_BYTES: u64 = 32;

    /// The bytes of all slots.
    #[must_use]
    pub const fn bytes(&self) -> u64 {
        Self::SLOT_BYTES * self.slots as u64
    }

    pub(super) fn check(&self) -> Result<(), MetadataError> {
        let bytes = self.bytes();
        let reason = if self.slots == 0 {
            "there is no slot"
        } else if self.address == 0 || !self.address.is_multiple_of(8) {
            "the address is not that of a word"
        } else if self.address.checked_add(bytes).is_none() {
            "the slots wrap around the end of the address space"
        } else if self.file.is_some_and(|file| file.length < bytes) {
            "the file is shorter than the slots"
        } else {
            return Ok(());
        };
        Err(MetadataError::BadWords { reason })
    }
}

impl fmt::Debug for WordsLocation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WordsLocation")
            .field("slots", &self.slots)
            .field("file", &self.file)
            .finish_non_exhaustive()
    }
}
