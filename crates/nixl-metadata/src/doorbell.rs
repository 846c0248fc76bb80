//! How a process of the owner's host says that it is done, without the engine.

use std::fmt;

/// A place in the owner's shared memory where an initiator on the same host leaves its word that the operation is complete.
///
/// The memory is a file as that of [`ShareKind::File`](crate::ShareKind::File), of words of 8 bytes in the host's byte order,
/// which are changed atomically. Word 0 has a bit for each of words 1 to 64, those one for each place (the bit `slot % 64` of
/// word `1 + slot / 64`), and word `65 + slot` is the place itself. Whoever is done changes the place from 0 to the token, then
/// sets the two bits, the place's first. If the place is not 0, the word has to go through the engine.
///
/// A file of at least [`LENGTH`](Self::LENGTH) bytes also has a bell, two numbers of 4 bytes: number [`BELL`](Self::BELL) counts
/// the rings, and the one after it is not 0 while the owner sleeps. After the bits are set, the first is incremented, and if the
/// second is not 0, one waiter on the first is woken (`FUTEX_WAKE`, not private). Releases that know no bell have shorter files,
/// and do not ring that of a longer one: an owner does not rely on it.
///
/// It is a hint: the notification through the engine is as good. Whoever knows it can claim that the operation is complete, so
/// `Debug` shows only the place.
#[derive(Clone, Copy, PartialEq, Eq)]
#[allow(clippy::exhaustive_structs, reason = "it is what peers send")]
pub struct Doorbell {
    /// The process that has the file open.
    pub pid: u32,
    /// Its file descriptor there.
    pub fd: u32,
    /// Random, and part of the file's own name.
    pub name: [u8; 16],
    /// The number of bytes of the file.
    pub length: u64,
    /// The place.
    pub slot: u32,
    /// What nobody but the holder of the offer knows; not 0.
    pub token: u64,
}

impl Doorbell {
    /// Places that one file has.
    pub const SLOTS: u32 = 4096;

    /// The words of the file.
    pub const WORDS: usize = 65 + Self::SLOTS as usize;

    /// The number of 4 bytes that counts the rings: the first of a cache line that has no place.
    pub const BELL: usize = (8 * Self::WORDS).next_multiple_of(64) / 4;

    /// The bytes of a file with a bell.
    pub const LENGTH: usize = 4 * (Self::BELL + 2);
}

impl fmt::Debug for Doorbell {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Doorbell").field("slot", &self.slot).finish_non_exhaustive()
    }
}
