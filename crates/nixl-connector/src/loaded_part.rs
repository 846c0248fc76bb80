//! The loaded part of one piece of a peer's metadata.

use std::collections::BTreeMap;
use std::ops::Range;

use nixl_metadata::SerializedDescriptor;

/// Addresses in the peer's host memory: disjoint ranges, end by start.
#[derive(Debug, Default)]
pub(crate) struct LoadedPart(BTreeMap<u64, u64>);

impl LoadedPart {
    /// Adds ranges.
    pub(crate) fn with(mut self, ranges: &[Range<u64>]) -> Self {
        ranges.iter().for_each(|range| self.add(range.clone()));
        self
    }

    /// Adjacent ranges merge: the engine decides about a descriptor across both.
    fn add(&mut self, Range { mut start, mut end }: Range<u64>) {
        while let Some((&other, &last)) =
            self.0.range(..=end).next_back().filter(|(_, last)| **last >= start)
        {
            self.0.remove(&other);
            (start, end) = (start.min(other), end.max(last));
        }
        self.0.insert(start, end);
    }

    pub(crate) fn covers(&self, range: &SerializedDescriptor) -> bool {
        let end = range.ptr().saturating_add(range.size());
        let before = self.0.range(..=range.ptr()).next_back();
        range.device().is_host() && before.is_some_and(|(_, last)| end <= *last)
    }
}

#[cfg(test)]
mod tests {
    use nixl_device::Device;
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn as_a_set_of_addresses(ranges in vec((1u64..60, 1u64..12), 0..20), at in 1u64..60, len in 1u64..12) {
            let ranges: Vec<_> = ranges.into_iter().map(|(start, len)| start..start + len).collect();
            let part = LoadedPart::default().with(&ranges);
            let loaded = (at..at + len).all(|byte| ranges.iter().any(|range| range.contains(&byte)));
            let needed = SerializedDescriptor::new(Device::HOST, at, len).unwrap();
            prop_assert_eq!(part.covers(&needed), loaded);
            prop_assert!(part.0.iter().zip(part.0.iter().skip(1)).all(|(a, b)| a.1 < b.0));
        }
    }
}
