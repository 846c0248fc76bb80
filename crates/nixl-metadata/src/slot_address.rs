//! The address of an offer's slot, through which a process of the owner's host completes the offer without the engine.

use std::fmt;

use crate::SharedFile;

/// A slot in the owner's shared memory, in which an initiator on the same host marks the operation as complete.
///
/// The memory is a file as that of [`ShareKind::File`](crate::ShareKind::File), of words of 8 bytes in the host's byte order,
/// which are changed atomically. Word 0 has a bit for each of words 1 to 64, those one for each slot (the bit `slot % 64` of
/// word `1 + slot / 64`), and word `65 + slot` is the slot itself. An initiator at its end changes the slot from 0 to the token,
/// then sets the two bits, the slot's first. If the slot is not 0, the notification has to go through the engine.
///
/// A file of at least [`LENGTH`](Self::LENGTH) bytes also has a doorbell, two numbers of 4 bytes: number
/// [`DOORBELL`](Self::DOORBELL) counts the rings, and the one after it is not 0 while the owner sleeps. After the bits are set,
/// the first is incremented, and if the second is not 0, one waiter on the first is woken (`FUTEX_WAKE`, not private). Releases
/// without doorbells have shorter files, and do not ring that of a longer one: an owner does not rely on it.
///
/// A file of at least [`LENGTH_WITH_MAILBOX`](Self::LENGTH_WITH_MAILBOX) bytes also has a mailbox of [`LANES`](Self::LANES) lanes.
/// Word [`MAILBOX`](Self::MAILBOX) has a bit for each lane that holds messages, lane `n` begins
/// [`LANE_WORDS`](Self::LANE_WORDS) times `n` words after word `MAILBOX + 8`. A lane is claimed by one sender at a time:
///
/// | words of a lane | content | changed by |
/// |---|---|---|
/// | 0 | 0, or the claim: the sender's process in the low 22 bits, random bits above | senders, by compare-and-swap |
/// | 1 | the number of words that were ever written to the ring, modulo 2 to the 64th | the sender |
/// | 2 to 5 | the sender's own page: process and file descriptor (4 bytes each), name (16 bytes), length; zeros if it has none | the sender |
/// | 8 | the number of words that were ever read | the owner |
/// | 16 on | the ring | the sender |
///
/// A message is one word (bytes of the payload in the low 32 bits, bytes of the name above in 16,
/// [`MESSAGE_MARK`](Self::MESSAGE_MARK) in the highest 16), the name of the sender's agent in whole words, and the payload in
/// whole words, padded with zeros. The sender writes it, adds its words to word 1, sets the lane's bit, and rings the doorbell.
/// It writes no more words than the ring has beyond word 8.
///
/// It is a hint: the notification through the engine is as good. Its holder can claim that the operation is complete, so
/// `Debug` shows only the slot.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct SlotAddress {
    pub(crate) file: SharedFile,
    pub(crate) slot: u32,
    pub(crate) token: u64,
}

impl SlotAddress {
    /// Slots of one file.
    pub const SLOTS: u32 = 4096;

    /// The words of the file.
    pub const WORDS: usize = 65 + Self::SLOTS as usize;

    /// The number of 4 bytes that counts the rings: the first of a cache line without a slot.
    pub const DOORBELL: usize = (8 * Self::WORDS).next_multiple_of(64) / 4;

    /// The bytes of a file with a doorbell.
    pub const LENGTH: usize = 4 * (Self::DOORBELL + 2);

    /// The word with a bit for each lane of the mailbox: the first of a page.
    pub const MAILBOX: usize = Self::LENGTH.next_multiple_of(4096) / 8;

    /// The lanes of the mailbox: the most senders with messages in it at a time.
    pub const LANES: usize = 64;

    /// The words of a lane: 16 KiB.
    pub const LANE_WORDS: usize = 2048;

    /// The bytes of a file with a doorbell and a mailbox.
    pub const LENGTH_WITH_MAILBOX: usize = 8 * (Self::MAILBOX + 8 + Self::LANES * Self::LANE_WORDS);

    /// The highest 16 bits of the first word of a message.
    pub const MESSAGE_MARK: u16 = 0x6c74;

    /// A slot of the file, with the secret of the offer's holders, which is not 0.
    #[must_use]
    pub const fn new(file: SharedFile, slot: u32, token: u64) -> Self {
        Self { file, slot, token }
    }

    /// The file.
    #[must_use]
    pub fn file(&self) -> SharedFile {
        self.file
    }

    /// The slot.
    #[must_use]
    pub fn slot(&self) -> u32 {
        self.slot
    }

    /// The secret of the offer's holders; not 0.
    #[must_use]
    pub fn token(&self) -> u64 {
        self.token
    }
}

impl fmt::Debug for SlotAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SlotAddress").field("slot", &self.slot).finish_non_exhaustive()
    }
}
