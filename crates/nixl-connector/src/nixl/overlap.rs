//! Overlaps between two sets of ranges, found in one walk over both.

use std::ops::Range;

/// Whether a range of `old` and one of `new` share an address, and their labels differ.
pub(super) fn overlap<L: Copy + PartialEq>(
    old: impl IntoIterator<Item = (Range<u64>, L)>,
    new: impl IntoIterator<Item = (Range<u64>, L)>,
) -> bool {
    let mark = |is_new: bool| move |(range, label)| (range, label, is_new);
    let old = old.into_iter().map(mark(false));
    let mut all: Vec<(Range<u64>, L, bool)> = old.chain(new.into_iter().map(mark(true))).collect();
    all.sort_unstable_by_key(|(range, ..)| range.start);
    // Two ranges overlap if that which begins first has not ended where the other begins.
    let (mut old, mut new) = (Ends::default(), Ends::default());
    for (range, label, is_new) in all {
        let (own, other) = if is_new { (&mut new, &old) } else { (&mut old, &new) };
        if other.reach_beyond(range.start, label) {
            return true;
        }
        own.add(range.end, label);
    }
    false
}

/// How far the ranges of a set reach: the furthest end, and the furthest of those with another label.
struct Ends<L>([Option<(u64, L)>; 2]);

impl<L> Default for Ends<L> {
    fn default() -> Self {
        Self([None, None])
    }
}

impl<L: Copy + PartialEq> Ends<L> {
    fn add(&mut self, end: u64, label: L) {
        let Self([first, second]) = self;
        match first {
            Some((furthest, same)) if *same == label => *furthest = end.max(*furthest),
            Some((furthest, _)) if *furthest >= end => {
                if second.is_none_or(|(furthest, _)| furthest < end) {
                    *second = Some((end, label));
                }
            }
            _ => *second = first.replace((end, label)),
        }
    }

    /// Whether a range with another label ends behind an address.
    fn reach_beyond(&self, address: u64, label: L) -> bool {
        self.0.iter().flatten().any(|(end, other)| *other != label && *end > address)
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;

    thread_local! {
        static COMPARED: Cell<usize> = const { Cell::new(0) };
    }

    /// A label whose comparisons are counted.
    #[derive(Clone, Copy)]
    struct Counted(u8);

    impl PartialEq for Counted {
        fn eq(&self, other: &Self) -> bool {
            COMPARED.set(COMPARED.get() + 1);
            self.0 == other.0
        }
    }

    #[test]
    fn ranges_that_all_overlap_cost_no_more_than_others() {
        const RANGES: u64 = 20_000;
        let all = |first: u64| (first..first + RANGES).map(|at| (at..at + RANGES, Counted(1)));
        assert!(!overlap(all(1), all(5)));
        assert!(COMPARED.get() <= 8 * RANGES as usize, "{}", COMPARED.get());
    }

    proptest! {
        #[test]
        fn overlaps_are_those_of_all_pairs(
            old in vec((1u64..40, 1u64..9, 0u8..3), 0..9), new in vec((1u64..40, 1u64..9, 0u8..3), 0..9),
        ) {
            let range = |(start, len, label): (u64, u64, u8)| (start..start + len, label);
            let old: Vec<_> = old.into_iter().map(range).collect();
            let new: Vec<_> = new.into_iter().map(range).collect();
            let expected = old.iter().any(|(a, x)| {
                new.iter().any(|(b, y)| x != y && a.start < b.end && b.start < a.end)
            });
            prop_assert_eq!(overlap(old, new), expected);
        }
    }
}
