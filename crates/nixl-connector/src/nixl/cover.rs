//! Ranges of addresses, of which one has to cover another.

use std::collections::BTreeMap;
use std::ops::Range;

/// Those of the ranges that lie in no other: their starts and ends ascend together, so one look-up shows whether any covers another range.
#[derive(Clone, Debug, Default)]
pub(super) struct Cover(BTreeMap<u64, u64>);

impl Cover {
    pub(super) fn insert(&mut self, Range { start, end }: Range<u64>) {
        if self.covers(start..end) {
            return;
        }
        // Those that lie in the new one follow its start.
        while let Some((inner, _)) = self.0.range(start..).next().filter(|(_, e)| **e <= end) {
            let inner = *inner;
            self.0.remove(&inner);
        }
        self.0.insert(start, end);
    }

    /// Whether one of the ranges covers this one.
    pub(super) fn covers(&self, range: Range<u64>) -> bool {
        let before = self.0.range(..=range.start).next_back();
        before.is_some_and(|(_, end)| *end >= range.end)
    }
}

impl FromIterator<Range<u64>> for Cover {
    fn from_iter<T: IntoIterator<Item = Range<u64>>>(ranges: T) -> Self {
        let mut cover = Self::default();
        ranges.into_iter().for_each(|range| cover.insert(range));
        cover
    }
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn covered_means_inside_one_range(
            ranges in vec((1u64..60, 1u64..30), 0..20), start in 1u64..70, len in 1u64..30,
        ) {
            let ranges: Vec<_> = ranges.into_iter().map(|(start, len)| start..start + len).collect();
            let cover: Cover = ranges.iter().cloned().collect();
            let range = start..start + len;
            let expected = ranges.iter().any(|r| r.start <= range.start && range.end <= r.end);
            prop_assert_eq!(cover.covers(range), expected);
        }
    }
}
