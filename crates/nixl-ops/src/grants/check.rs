//! The reader's side of a sequence lock over granted blocks.

use std::sync::atomic::Ordering;

use nixl_descriptor::ReadOnlyWords;

use super::words::{DIGEST, GrantWords, LAYERS, RENEWED, WORD, Words, place};
use crate::sync::fence;

/// The expected words of a grant's slot, against which a read under its ticket is checked.
///
/// The words are loaded after the end of every copying thread, or of the engine's request. Through the engine they are a
/// separate request, posted after the end of the one for the bytes: parts of one request arrive in any order.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct WordCheck {
    pub(crate) slot: u32,
    pub(crate) generation: u64,
    pub(crate) digest: u64,
    /// The layers below this one have to be ready.
    pub(crate) layers: u64,
}

/// A read that does not count.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum StaleRead {
    /// The grant has ended.
    #[error(
        "the grant has ended: the bytes that were read may be of its owner's next use; discard them and ask for a new ticket"
    )]
    Stale,
    /// The grant differs from the ticket.
    #[error(
        "the ticket is not the one that was granted (their digests differ): its blocks, layers or rights were altered; discard \
         what was read and ask its owner for the ticket again"
    )]
    NotGranted,
    /// The owner has not filled all layers of the read.
    #[error(
        "the layers below {ready} are ready, and those below {asked} are requested: discard the bytes and request them later"
    )]
    NotReady {
        /// The layers below this one are ready.
        ready: u64,
        /// The end of the layers of the read.
        asked: u64,
    },
    /// The owner's words have no such slot.
    #[error(
        "the owner's words have no slot {slot}: the ticket is of another export or forged; discard the bytes"
    )]
    NoSlot {
        /// The requested slot.
        slot: u32,
    },
}

impl WordCheck {
    /// The words of this slot belong to a live grant if they are this generation and this digest of the grant's terms.
    #[must_use]
    pub fn new(slot: u32, generation: u64, digest: u64) -> Self {
        Self { slot, generation, digest, layers: 0 }
    }

    /// Also refuses a read of layers below this one that are not ready.
    #[must_use]
    pub fn of_layers_below(self, layers: u64) -> Self {
        Self { layers, ..self }
    }

    /// Compares words read through the engine: the first three of the slot.
    ///
    /// # Errors
    ///
    /// [`StaleRead`]
    pub fn compare(&self, [word, digest, ready]: [u64; 3]) -> Result<(), StaleRead> {
        if word != self.generation {
            return Err(StaleRead::Stale);
        }
        if digest != self.digest {
            return Err(StaleRead::NotGranted);
        }
        if ready < self.layers {
            return Err(StaleRead::NotReady { ready, asked: self.layers });
        }
        Ok(())
    }

    /// Checks mapped words, after copies by loads of this thread or of threads that it has joined. Before the copy, it detects
    /// an ended ticket early.
    ///
    /// # Errors
    ///
    /// [`StaleRead`]
    pub fn check_mapped(&self, words: &ReadOnlyWords) -> Result<(), StaleRead> {
        self.check(words)
    }

    /// The number of ready layers of the blocks. Later reads of these layers see the owner's writes.
    ///
    /// # Errors
    ///
    /// [`StaleRead`]
    pub fn layers_ready(&self, words: &ReadOnlyWords) -> Result<u64, StaleRead> {
        self.ready(words)
    }

    /// How many layers are ready, by the first three words of the slot; `None` while the grant is still to become valid. For waits:
    /// the values of an export's words only rise, so the word of a grant that has ended is above its generation.
    ///
    /// # Errors
    ///
    /// [`StaleRead`]
    pub fn stage(&self, words: [u64; 3]) -> Result<Option<u64>, StaleRead> {
        let [word, _, ready] = words;
        if word < self.generation {
            return Ok(None);
        }
        self.compare(words).map(|()| Some(ready))
    }

    /// As [`stage`](Self::stage), by mapped words.
    ///
    /// # Errors
    ///
    /// [`StaleRead`]
    pub fn stage_mapped(&self, words: &ReadOnlyWords) -> Result<Option<u64>, StaleRead> {
        self.stage_of(words)
    }

    pub(super) fn stage_of(&self, words: &impl Words) -> Result<Option<u64>, StaleRead> {
        let word = words.load(place(self.slot, WORD));
        if word.ok_or(StaleRead::NoSlot { slot: self.slot })? < self.generation {
            return Ok(None);
        }
        self.ready(words).map(Some)
    }

    /// The expiry of a renewed grant, in milliseconds since 1970; 0 if it was not renewed. `slots` is the owner's number of
    /// slots.
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
        // Not the number of a later grant in the slot.
        self.check(words)?;
        Ok(until.unwrap_or(0))
    }

    pub(super) fn check(&self, words: &impl Words) -> Result<(), StaleRead> {
        let load = |word| words.load(place(self.slot, word));
        let load = |word| load(word).ok_or(StaleRead::NoSlot { slot: self.slot });
        let word = load(WORD)?;
        // The bytes were loaded before the following loads, and the digest and the layers are no older than the word.
        fence(Ordering::Acquire);
        let (digest, ready) = (load(DIGEST)?, load(LAYERS)?);
        // Nor is the word, if the slot was granted anew in between, older than those.
        fence(Ordering::Acquire);
        if load(WORD)? != word {
            return Err(StaleRead::Stale);
        }
        self.compare([word, digest, ready])
    }

    pub(super) fn ready(&self, words: &impl Words) -> Result<u64, StaleRead> {
        // Not the number of an earlier grant in the slot.
        self.check(words)?;
        fence(Ordering::Acquire);
        let layers = words.load(place(self.slot, LAYERS));
        // Nor of a later one.
        self.check(words)?;
        layers.ok_or(StaleRead::NoSlot { slot: self.slot })
    }

    /// The slot.
    #[must_use]
    pub fn slot(&self) -> u32 {
        self.slot
    }

    /// Its word while the grant is alive.
    #[must_use]
    pub fn generation(&self) -> u64 {
        self.generation
    }

    /// The end of the layers of the read; 0 if none have to be ready.
    #[must_use]
    pub fn layers(&self) -> u64 {
        self.layers
    }

    /// The digest of the ticket.
    #[must_use]
    pub fn digest(&self) -> u64 {
        self.digest
    }
}
