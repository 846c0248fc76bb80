//! Sets of block ids: small to keep, quick to compare.

use std::sync::{Arc, OnceLock};

/// Ids of blocks in the order in which the caller gave them, at least one, and the set of them, which is made when it is
/// first asked for: what is only read is seldom compared with anything.
#[derive(Debug)]
pub(crate) struct BlockIds {
    ids: Arc<[u32]>,
    /// All ids are below.
    bound: u64,
    set: OnceLock<BlockSet>,
}

impl BlockIds {
    /// `ids`, at least one, each below `bound`.
    pub(crate) fn new(ids: Arc<[u32]>, bound: u64) -> Self {
        Self { ids, bound, set: OnceLock::new() }
    }

    /// As they were given.
    pub(crate) fn ids(&self) -> &Arc<[u32]> {
        &self.ids
    }

    /// Each once.
    pub(crate) fn set(&self) -> &BlockSet {
        self.set.get_or_init(|| BlockSet::new(&self.ids, self.bound))
    }
}

/// A non-empty set of block ids.
#[derive(Debug)]
pub(crate) struct BlockSet {
    first: u32,
    last: u32,
    len: usize,
    ids: Ids,
}

#[derive(Debug)]
enum Ids {
    /// A bit for each id, from the word of `first` to that of `last`.
    Bits(Box<[u64]>),
    /// Ascending.
    Listed(Box<[u32]>),
}

impl BlockSet {
    /// Words that a bitmap may have for each id in it: where ids lie further apart they are listed, so that few ids never
    /// make a long bitmap.
    const WORDS_PER_ID: usize = 16;

    /// The set of `ids`, at least one, each below `bound`; an id that is there more than once counts once.
    fn new(ids: &[u32], bound: u64) -> Self {
        let words = bound.div_ceil(64);
        // Looking for the least and the most would take half as long again.
        if words <= ids.len() as u64 {
            return Self::among_few(ids, words as usize);
        }
        let (first, last) =
            ids.iter().fold((u32::MAX, 0), |(least, most), &id| (least.min(id), most.max(id)));
        debug_assert!(first <= last, "a set of blocks is not empty");
        let from = word_of(first);
        let words = word_of(last).saturating_sub(from) + 1;
        if words > ids.len().saturating_mul(Self::WORDS_PER_ID) {
            let mut listed = ids.to_vec();
            listed.sort_unstable();
            listed.dedup();
            return Self { first, last, len: listed.len(), ids: Ids::Listed(listed.into()) };
        }
        let mut bits = vec![0u64; words].into_boxed_slice();
        for &id in ids {
            bits[word_of(id) - from] |= bit_of(id);
        }
        Self { first, last, len: count(&bits), ids: Ids::Bits(bits) }
    }

    /// As [`new`](Self::new), where a bit for every block that exists takes little.
    fn among_few(ids: &[u32], words: usize) -> Self {
        let mut bits = vec![0u64; words];
        for &id in ids {
            bits[word_of(id)] |= bit_of(id);
        }
        let used = |word: &u64| *word != 0;
        let from = bits.iter().position(used).unwrap_or(0);
        bits.truncate(bits.iter().rposition(used).map_or(0, |at| at + 1));
        bits.drain(..from);
        let first = bits.first().map_or(0, |word| id_of(from, word.trailing_zeros()));
        let end = from + bits.len().saturating_sub(1);
        let last = bits.last().map_or(0, |word| id_of(end, 63 - word.leading_zeros()));
        Self { first, last, len: count(&bits), ids: Ids::Bits(bits.into()) }
    }

    /// The lowest id.
    pub(crate) fn first(&self) -> u32 {
        self.first
    }

    /// The highest id.
    pub(crate) fn last(&self) -> u32 {
        self.last
    }

    /// Number of ids, at least one.
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// The ids, ascending.
    pub(crate) fn iter(&self) -> impl Iterator<Item = u32> {
        let (bits, listed): (&[u64], &[u32]) = match &self.ids {
            Ids::Bits(bits) => (bits, &[]),
            Ids::Listed(ids) => (&[], ids),
        };
        let from = word_of(self.first);
        let set = bits.iter().enumerate().flat_map(move |(at, &word)| {
            let mut left = word;
            std::iter::from_fn(move || {
                let bit = (left != 0).then(|| left.trailing_zeros())?;
                left &= left - 1;
                Some(id_of(from + at, bit))
            })
        });
        set.chain(listed.iter().copied())
    }

    /// The lowest id from `from` to `to`, both included.
    pub(crate) fn any_in(&self, from: u64, to: u64) -> Option<u32> {
        let from = from.max(self.first.into());
        let to = to.min(self.last.into());
        if from > to {
            return None;
        }
        // Both lie between two ids.
        let (from, to) = (from as u32, to as u32);
        match &self.ids {
            Ids::Listed(ids) => {
                let at = ids.partition_point(|&id| id < from);
                ids.get(at).copied().filter(|&id| id <= to)
            }
            Ids::Bits(bits) => {
                let base = word_of(self.first);
                (word_of(from)..=word_of(to)).find_map(|at| {
                    let mut word = bits[at - base];
                    if at == word_of(from) {
                        word &= u64::MAX << (from % 64);
                    }
                    let id = (word != 0).then(|| id_of(at, word.trailing_zeros()))?;
                    (id <= to).then_some(id)
                })
            }
        }
    }

    /// An id that both sets have.
    pub(crate) fn common(&self, other: &Self) -> Option<u32> {
        let (from, to) = (self.first.max(other.first), self.last.min(other.last));
        if from > to {
            return None;
        }
        match (&self.ids, &other.ids) {
            (Ids::Bits(a), Ids::Bits(b)) => {
                let (base_a, base_b) = (word_of(self.first), word_of(other.first));
                (word_of(from)..=word_of(to)).find_map(|at| {
                    let both = a[at - base_a] & b[at - base_b];
                    (both != 0).then(|| id_of(at, both.trailing_zeros()))
                })
            }
            _ if self.len <= other.len => self.iter().find(|&id| other.has(id)),
            _ => other.iter().find(|&id| self.has(id)),
        }
    }

    fn has(&self, id: u32) -> bool {
        self.any_in(id.into(), id.into()).is_some()
    }
}

fn count(bits: &[u64]) -> usize {
    bits.iter().map(|word| word.count_ones() as usize).sum()
}

fn word_of(id: u32) -> usize {
    id as usize / 64
}

fn bit_of(id: u32) -> u64 {
    1 << (id % 64)
}

fn id_of(word: usize, bit: u32) -> u32 {
    // The word of an id, so the product is at most that id.
    word as u32 * 64 + bit
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    /// Close together, far apart, and at the far end.
    fn ids() -> impl Strategy<Value = Vec<u32>> {
        let spread = prop_oneof![Just(1u32), Just(50), Just(5000), Just(10_000_000)];
        (prop::collection::vec(0..200u32, 1..40), spread, any::<bool>()).prop_map(
            |(ids, spread, high)| {
                let place = |id: u32| if high { u32::MAX - id * spread } else { id * spread };
                ids.into_iter().map(place).collect()
            },
        )
    }

    proptest! {
        #[test]
        fn as_a_set_of_numbers(a in ids(), b in ids(), from in any::<u32>(), width in 0..2_000_000u64) {
            let bound = |ids: &[u32]| ids.iter().max().map_or(0, |&id| u64::from(id) + 1 + width % 100);
            let (set, other) = (BlockSet::new(&a, bound(&a)), BlockSet::new(&b, bound(&b)));
            let model: BTreeSet<_> = a.iter().copied().collect();
            prop_assert_eq!(set.iter().collect::<Vec<_>>(), model.iter().copied().collect::<Vec<_>>());
            prop_assert_eq!(set.len(), model.len());
            prop_assert_eq!(Some(&set.first()), model.first());
            prop_assert_eq!(Some(&set.last()), model.last());
            for from in [u64::from(from), u64::from(a[0]), u64::from(b[0]).saturating_sub(width / 2)] {
                let expected = model.iter().copied().find(|&id| (from..=from + width).contains(&id.into()));
                prop_assert_eq!(set.any_in(from, from + width), expected);
            }
            let model_other: BTreeSet<_> = b.iter().copied().collect();
            let common = set.common(&other);
            prop_assert_eq!(common.is_some(), !model.is_disjoint(&model_other));
            prop_assert!(common.is_none_or(|id| model.contains(&id) && model_other.contains(&id)));
        }
    }
}
