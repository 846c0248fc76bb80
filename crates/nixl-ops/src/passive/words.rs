//! Words of readable offers, by which initiators check through the engine that an offer stands.
//!
//! They lie in published memory of their own, which peers of this host map for reading only. A number of an offer says nothing but that
//! it stands: unlike the [slots](crate::OfferSlot), the words have no secrets of offers, so an engine may give all of them to every
//! initiator.

use std::collections::VecDeque;
use std::fmt;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};

use nixl_descriptor::{PublishedWords, Region, RegionError};
use nixl_device::ForkGeneration;
use nixl_device::locks::lock;

use crate::sync::fence;

/// The words of one connection's offers.
#[derive(Debug)]
pub struct OfferWords {
    words: PublishedWords,
    table: Mutex<Table>,
}

#[derive(Debug)]
struct Table {
    /// The last number that a word had. It begins below 2^63, so it does not wrap around.
    number: u64,
    /// Words that were ever used.
    used: usize,
    /// Reused in the order of release.
    free: VecDeque<usize>,
}

/// The word of one offer. Its drop ends the offer for initiators that check.
pub struct OfferWord {
    words: Arc<OfferWords>,
    index: usize,
    number: u64,
    generation: ForkGeneration,
}

impl OfferWords {
    /// The most offers with a word at a time.
    pub const MOST: usize = 4096;

    /// Words that no offer has.
    ///
    /// # Errors
    ///
    /// [`RegionError::OutOfMemory`] with the system's error.
    pub fn new() -> Result<Arc<Self>, RegionError> {
        let number = (uuid::Uuid::new_v4().as_u128() as u64) >> 1;
        let table = Mutex::new(Table { number, used: 0, free: VecDeque::new() });
        Ok(Arc::new(Self { words: PublishedWords::new(Self::MOST)?, table }))
    }

    /// The words as memory for an engine to read.
    pub fn region(&self) -> &Region {
        self.words.region()
    }

    /// A word for an offer that begins to stand. `None` if all are in use.
    pub fn publish(self: &Arc<Self>) -> Option<OfferWord> {
        let (index, number) = {
            let mut table = lock(&self.table);
            let index = table.free_index()?;
            (index, table.next_number())
        };
        self.words.word(index)?.store(number, Ordering::Release);
        let generation = ForkGeneration::current();
        Some(OfferWord { words: Arc::clone(self), index, number, generation })
    }
}

impl Table {
    fn free_index(&mut self) -> Option<usize> {
        if self.used < OfferWords::MOST {
            self.used += 1;
            return Some(self.used - 1);
        }
        self.free.pop_front()
    }

    /// A number that no word has had before.
    fn next_number(&mut self) -> u64 {
        self.number = self.number.wrapping_add(1);
        self.number
    }
}

impl OfferWord {
    /// The address for peers' engines.
    pub fn address(&self) -> u64 {
        self.words.region().address().saturating_add((self.index * size_of::<u64>()) as u64)
    }

    /// The number of the offer, which no other offer of these words has.
    pub fn number(&self) -> u64 {
        self.number
    }
}

impl Drop for OfferWord {
    fn drop(&mut self) {
        // A fork's children share the words, but do not own the offer.
        if !self.generation.is_current() {
            return;
        }
        let mut table = lock(&self.words.table);
        let next = table.next_number();
        if let Some(word) = self.words.words.word(self.index) {
            word.store(next, Ordering::Relaxed);
            // An initiator that sees a byte written after this sees the number in its check.
            fence(Ordering::SeqCst);
        }
        table.free.push_back(self.index);
    }
}

impl fmt::Debug for OfferWord {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OfferWord").field("index", &self.index).finish_non_exhaustive()
    }
}

#[cfg(all(test, not(loom)))]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    fn stored(words: &OfferWords, word: &OfferWord) -> u64 {
        words.words.word(word.index).unwrap().load(Ordering::Relaxed)
    }

    #[test]
    #[cfg_attr(miri, ignore = "opens files in memory")]
    fn no_number_comes_twice_and_an_offer_that_ended_has_none() {
        let words = OfferWords::new().unwrap();
        let first = words.publish().unwrap();
        assert_eq!(stored(&words, &first), first.number());
        assert_eq!(first.address(), words.region().address());
        let mut numbers = vec![first.number()];
        let (index, number) = (first.index, first.number());
        drop(first);
        let raised = words.words.word(index).unwrap().load(Ordering::Relaxed);
        assert_ne!(raised, number);
        numbers.push(raised);
        let all: Vec<_> = std::iter::from_fn(|| words.publish()).collect();
        assert_eq!(all.len(), OfferWords::MOST, "the one that was given back, too");
        for word in &all {
            assert_eq!(stored(&words, word), word.number());
            numbers.push(word.number());
        }
        numbers.sort_unstable();
        assert!(numbers.windows(2).all(|pair| pair[0] < pair[1]), "{} numbers", numbers.len());
    }
}
