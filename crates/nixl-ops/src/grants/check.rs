//! The reader's side of a sequence lock over granted blocks.

use std::sync::atomic::Ordering;

use nixl_descriptor::ReadOnlyWords;

use super::words::{DIGEST, GrantWords, LAYERS, RENEWED, WORD, Words, place};
use crate::sync::fence;

/// What the words of a grant's slot must be for bytes to count that were read under its ticket.
///
/// Each thread that copies has ended, or the request of the engine has, before the words are looked at. Through the engine they
/// are a request of their own, posted after the one for the bytes was seen to end: parts of one request arrive in any order.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct WordCheck {
    pub(crate) slot: u32,
    pub(crate) generation: u64,
    pub(crate) digest: u64,
}

/// Why bytes that were read do not count.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum StaleRead {
    /// The grant has ended.
    #[error(
        "the grant has ended: the bytes that were read may be of its owner's next use; discard them and ask for a new ticket"
    )]
    Stale,
    /// The grant is another one than the ticket says.
    #[error(
        "the ticket is not the one that was granted (their digests differ): its blocks, layers or rights were altered; discard \
         what was read and ask its owner for the ticket again"
    )]
    NotGranted,
    /// The owner's words have no such slot.
    #[error(
        "the owner's words have no slot {slot}: the ticket is of another export or forged; discard what was read"
    )]
    NoSlot {
        /// The slot asked for.
        slot: u32,
    },
}

impl WordCheck {
    /// The words of this slot are those of a live grant if they are this generation and the digest of what was granted.
    #[must_use]
    pub fn new(slot: u32, generation: u64, digest: u64) -> Self {
        Self { slot, generation, digest }
    }

    /// Compares words that were read through the engine: the first two of the slot.
    ///
    /// # Errors
    ///
    /// [`StaleRead`]
    pub fn compare(&self, word: u64, digest: u64) -> Result<(), StaleRead> {
        if word != self.generation {
            return Err(StaleRead::Stale);
        }
        if digest != self.digest {
            return Err(StaleRead::NotGranted);
        }
        Ok(())
    }

    /// Looks at the words where they are mapped: after the bytes were copied by loads of this thread, or of threads that it has
    /// joined. Before the copy it tells a ticket that has ended from one that may be alive.
    ///
    /// # Errors
    ///
    /// [`StaleRead`]
    pub fn check_mapped(&self, words: &ReadOnlyWords) -> Result<(), StaleRead> {
        self.check(words)
    }

    /// How many layers of the blocks are ready. What is read of those afterwards is what the owner has written.
    ///
    /// # Errors
    ///
    /// [`StaleRead`]
    pub fn layers_ready(&self, words: &ReadOnlyWords) -> Result<u64, StaleRead> {
        self.layers(words)
    }

    /// Until when a grant lives that was renewed, in milliseconds since 1970; 0 if it was not. `slots` is how many the owner has.
    ///
    /// # Errors
    ///
    /// [`StaleRead`]
    pub fn renewed_until(&self, words: &ReadOnlyWords, slots: u32) -> Result<u64, StaleRead> {
        self.renewed(words, slots)
    }

    pub(super) fn renewed(&self, words: &impl Words, slots: u32) -> Result<u64, StaleRead> {
        self.check(words)?;
        fence(Ordering::Acquire);
        let until = words.load(place(GrantWords::renewed_slot(self.slot, slots), RENEWED));
        // Not that of a grant that has the slot now.
        self.check(words)?;
        Ok(until.unwrap_or(0))
    }

    pub(super) fn check(&self, words: &impl Words) -> Result<(), StaleRead> {
        let load = |word| words.load(place(self.slot, word));
        let load = |word| load(word).ok_or(StaleRead::NoSlot { slot: self.slot });
        let word = load(WORD)?;
        // The bytes were loaded before what follows is, and the digest is no older than the word.
        fence(Ordering::Acquire);
        let digest = load(DIGEST)?;
        // Nor is the word, if the slot was granted anew in between, older than that digest.
        fence(Ordering::Acquire);
        if load(WORD)? != word {
            return Err(StaleRead::Stale);
        }
        self.compare(word, digest)
    }

    pub(super) fn layers(&self, words: &impl Words) -> Result<u64, StaleRead> {
        // Not the number of a grant that had the slot before.
        self.check(words)?;
        fence(Ordering::Acquire);
        let layers = words.load(place(self.slot, LAYERS));
        // Nor of one that has it now.
        self.check(words)?;
        layers.ok_or(StaleRead::NoSlot { slot: self.slot })
    }

    /// The slot.
    #[must_use]
    pub fn slot(&self) -> u32 {
        self.slot
    }

    /// What its word is while the grant is alive.
    #[must_use]
    pub fn generation(&self) -> u64 {
        self.generation
    }

    /// The digest of the ticket.
    #[must_use]
    pub fn digest(&self) -> u64 {
        self.digest
    }
}
