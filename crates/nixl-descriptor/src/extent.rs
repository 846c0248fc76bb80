//! Half-open ranges of a region's bytes, and sets of them.

use std::slice;

/// A non-empty range of bytes, `start < end`, inside one region.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub(crate) struct Extent {
    pub(crate) start: usize,
    pub(crate) end: usize,
}

impl Extent {
    pub(crate) fn overlaps(self, other: Self) -> bool {
        self.start < other.end && other.start < self.end
    }

    pub(crate) fn len(self) -> usize {
        self.end - self.start
    }
}

/// A non-empty set of bytes as sorted extents that neither overlap nor touch.
#[derive(Debug)]
pub(crate) enum ExtentSet {
    One(Extent),
    Many(Box<[Extent]>),
}

impl ExtentSet {
    /// The union of extents given in ascending order, at least one.
    pub(crate) fn from_sorted(first: Extent, rest: impl ExactSizeIterator<Item = Extent>) -> Self {
        let mut parts = Vec::with_capacity(rest.len() + 1);
        let mut last = first;
        for extent in rest {
            debug_assert!(last.start <= extent.start, "extents must be sorted");
            if extent.start <= last.end {
                last.end = last.end.max(extent.end);
            } else {
                parts.push(last);
                last = extent;
            }
        }
        if parts.is_empty() {
            return Self::One(last);
        }
        parts.push(last);
        Self::Many(parts.into_boxed_slice())
    }

    pub(crate) fn extents(&self) -> &[Extent] {
        match self {
            Self::One(extent) => slice::from_ref(extent),
            Self::Many(extents) => extents,
        }
    }

    /// Whether all these bytes are in the set.
    pub(crate) fn contains(&self, extent: Extent) -> bool {
        // They neither overlap nor touch, so one of them has all the bytes.
        let extents = self.extents();
        let at = extents.partition_point(|part| part.end <= extent.start);
        extents.get(at).is_some_and(|part| part.start <= extent.start && extent.end <= part.end)
    }

    /// Number of bytes in the set.
    pub(crate) fn bytes(&self) -> usize {
        self.extents().iter().map(|extent| extent.len()).sum()
    }
}
