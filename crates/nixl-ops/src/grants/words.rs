//! The published words of grants.
//!
//! | word of a slot | content |
//! |---|---|
//! | 0 | the generation of the grant that has the slot, or a value that is no generation |
//! | 1 | the digest of that grant's ticket |
//! | 2 | the number of ready layers; 0 between two grants |
//! | 3 | the expiry of a renewed grant, in milliseconds since 1970, else 0. Slot 0 has the number of the export here while the export is open, else 0; its expiry is in the slot behind the last |

use std::sync::atomic::Ordering;

use nixl_descriptor::{PublishedWords, ReadOnlyWords, Region, RegionError, SharedName};

use super::check::{StaleRead, WordCheck};
use crate::sync::fence;

/// The published words of an export's grants, on the owner's side. Peers of this host map them ([`PublishedWords::open`]),
/// others read them through the engine ([`region`](Self::region)).
#[derive(Debug)]
pub struct GrantWords {
    words: PublishedWords,
    slots: u32,
}

impl GrantWords {
    /// Words of a slot.
    pub const SLOT_WORDS: usize = 4;
    /// Bytes of a slot, which are aligned to as many.
    pub const SLOT_BYTES: usize = Self::SLOT_WORDS * size_of::<u64>();

    pub(super) fn new(slots: u32) -> Result<Self, RegionError> {
        // One more slot, for the expiry of slot 0.
        let words = PublishedWords::new((slots as usize + 1) * Self::SLOT_WORDS)?;
        Ok(Self { words, slots })
    }

    /// Number of slots.
    pub fn slots(&self) -> u32 {
        self.slots
    }

    /// The name by which processes of this host open them.
    pub fn name(&self) -> SharedName {
        self.words.name()
    }

    /// The words as memory for an engine to read.
    pub fn region(&self) -> &Region {
        self.words.region()
    }

    /// The offset of a slot's words, in bytes.
    pub const fn offset(slot: u32) -> usize {
        slot as usize * Self::SLOT_BYTES
    }

    /// The bytes of so many slots, and of one more for the expiry of slot 0.
    #[must_use]
    pub const fn bytes(slots: u32) -> u64 {
        (slots as u64 + 1) * Self::SLOT_BYTES as u64
    }

    /// The slot whose fourth word has the expiry of a renewed grant.
    #[must_use]
    pub const fn renewed_slot(slot: u32, slots: u32) -> u32 {
        if slot == 0 { slots } else { slot }
    }

    /// As [`WordCheck::renewed_until`], for a reader in the owner's process.
    ///
    /// # Errors
    ///
    /// [`StaleRead`]
    pub fn renewed_until(&self, check: &WordCheck) -> Result<u64, StaleRead> {
        check.renewed(&self.words, self.slots)
    }

    /// As [`WordCheck::layers_ready`], for a reader in the owner's process.
    ///
    /// # Errors
    ///
    /// [`StaleRead`]
    pub fn layers_ready(&self, check: &WordCheck) -> Result<u64, StaleRead> {
        check.ready(&self.words)
    }

    /// As [`WordCheck::check_mapped`], for a copy by the owner.
    pub(super) fn check(&self, check: &WordCheck) -> Result<(), StaleRead> {
        check.check(&self.words)
    }

    /// As [`WordCheck::stage`], for a reader in the owner's process.
    ///
    /// # Errors
    ///
    /// [`StaleRead`]
    pub fn stage(&self, check: &WordCheck) -> Result<Option<u64>, StaleRead> {
        check.stage_of(&self.words)
    }

    /// Publishes the number of the open export, or 0 for a closed one.
    pub(super) fn set_export(&self, export: u64) {
        self.words.store(place(0, EXPORT), export, Ordering::Release);
    }

    /// Makes a grant valid.
    pub(super) fn publish(&self, slot: u32, generation: u64, digest: u64, layers: u64) {
        self.renew(slot, 0);
        publish(&self.words, slot, generation, digest, layers);
    }

    /// Publishes the expiry of a renewed grant.
    pub(super) fn renew(&self, slot: u32, until_unix_millis: u64) {
        let at = place(Self::renewed_slot(slot, self.slots), RENEWED);
        self.words.store(at, until_unix_millis, Ordering::Relaxed);
    }

    /// Ends a grant for its readers. Later writes of the owner to the blocks come after it.
    pub(super) fn raise(&self, slot: u32, value: u64) {
        raise(&self.words, slot, value);
    }

    /// Publishes more ready layers.
    pub(super) fn ready(&self, slot: u32, layers: u64) {
        let at = place(slot, LAYERS);
        if Words::load(&self.words, at).is_some_and(|before| before < layers) {
            // Release: the bytes of the layers come first.
            self.words.store(at, layers, Ordering::Release);
        }
    }
}

pub(super) const WORD: usize = 0;
pub(super) const DIGEST: usize = 1;
pub(super) const LAYERS: usize = 2;
pub(super) const EXPORT: usize = 3;
pub(super) const RENEWED: usize = 3;

pub(super) const fn place(slot: u32, word: usize) -> usize {
    slot as usize * GrantWords::SLOT_WORDS + word
}

/// Words that another process may write.
pub(super) trait Words {
    /// A relaxed load. `None` beyond the end.
    fn load(&self, at: usize) -> Option<u64>;
}

/// Words of the owner.
pub(super) trait OwnWords: Words {
    fn store(&self, at: usize, value: u64, order: Ordering);
}

impl Words for ReadOnlyWords {
    fn load(&self, at: usize) -> Option<u64> {
        Self::load(self, at)
    }
}

impl Words for PublishedWords {
    fn load(&self, at: usize) -> Option<u64> {
        Some(self.word(at)?.load(Ordering::Relaxed))
    }
}

impl OwnWords for PublishedWords {
    fn store(&self, at: usize, value: u64, order: Ordering) {
        if let Some(word) = self.word(at) {
            word.store(value, order);
        }
    }
}

/// A reader that sees the generation also sees the other words, and the bytes of the blocks.
pub(super) fn publish(words: &impl OwnWords, slot: u32, generation: u64, digest: u64, layers: u64) {
    words.store(place(slot, DIGEST), digest, Ordering::Relaxed);
    words.store(place(slot, LAYERS), layers, Ordering::Relaxed);
    words.store(place(slot, WORD), generation, Ordering::Release);
}

pub(super) fn raise(words: &impl OwnWords, slot: u32, value: u64) {
    words.store(place(slot, WORD), value, Ordering::Relaxed);
    // A reader that sees a byte, a digest or a number of layers written after this sees the value in its check.
    fence(Ordering::SeqCst);
    // A request of the engine's reads the words in any order: with the next grant's generation it reads no number of this one.
    words.store(place(slot, LAYERS), 0, Ordering::Relaxed);
}

/// Run by `cargo xtask loom`.
#[cfg(all(test, loom))]
mod loom_model {
    use loom::sync::Arc;
    use loom::sync::atomic::AtomicU64;
    use loom::thread;

    use super::*;

    struct Memory {
        words: [AtomicU64; GrantWords::SLOT_WORDS],
        block: [AtomicU64; 2],
    }

    impl Memory {
        fn new() -> Self {
            Self {
                words: std::array::from_fn(|_| AtomicU64::new(0)),
                block: std::array::from_fn(|_| AtomicU64::new(0)),
            }
        }

        fn write(&self, value: u64) {
            self.block.iter().for_each(|word| word.store(value, Ordering::Relaxed));
        }

        fn read(&self) -> [u64; 2] {
            self.block.each_ref().map(|word| word.load(Ordering::Relaxed))
        }
    }

    impl Words for Memory {
        fn load(&self, at: usize) -> Option<u64> {
            Some(self.words.get(at)?.load(Ordering::Relaxed))
        }
    }

    impl OwnWords for Memory {
        fn store(&self, at: usize, value: u64, order: Ordering) {
            self.words[at].store(value, order);
        }
    }

    /// The owner grants a block, ends the grant, writes the block anew and grants it again by the same slot. Of a reader's copies
    /// those that pass are whole and of its grant.
    ///
    /// These made it fail: no fence in `raise`; `raise` after the block is written; the check before the copy; the generation used
    /// again; the word not loaded again in the check, or without the fence before that.
    #[test]
    fn loom_bytes_that_pass_are_of_the_grant() {
        loom::model(|| {
            let memory = Arc::new(Memory::new());
            memory.write(1);
            publish(&*memory, 0, 101, 11, 1);
            let owner = {
                let memory = Arc::clone(&memory);
                thread::spawn(move || {
                    raise(&*memory, 0, 102);
                    memory.write(2);
                    publish(&*memory, 0, 103, 12, 1);
                })
            };
            let bytes = memory.read();
            let check = WordCheck { slot: 0, generation: 101, digest: 11, layers: 1 };
            match check.check(&*memory) {
                Ok(()) => assert_eq!(bytes, [1, 1]),
                Err(found) => assert_eq!(found, StaleRead::Stale),
            }
            owner.join().unwrap();
        });
    }

    /// A reader that sees a generation sees the digest, the layers and the bytes of it.
    ///
    /// These made it fail: the generation published without an order; no fence between the word and the digest in the check.
    #[test]
    fn loom_what_is_published_is_whole() {
        loom::model(|| {
            let memory = Arc::new(Memory::new());
            let owner = {
                let memory = Arc::clone(&memory);
                thread::spawn(move || {
                    memory.write(2);
                    publish(&*memory, 0, 103, 12, 5);
                })
            };
            let check = WordCheck { slot: 0, generation: 103, digest: 12, layers: 1 };
            match check.ready(&*memory) {
                Ok(layers) => assert_eq!((layers, memory.read()), (5, [2, 2])),
                Err(found) => assert_eq!(found, StaleRead::Stale),
            }
            owner.join().unwrap();
        });
    }
}
