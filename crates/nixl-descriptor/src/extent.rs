//! Half-open ranges of a region's bytes, and sets of them.

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

/// A non-empty set of extents, cheap to compare: most pairs are told apart by their bounds.
#[derive(Debug)]
pub(crate) struct ExtentSet {
    bounds: Extent,
    /// Sorted and disjoint; `None` when the bounds are the set.
    parts: Option<Box<[Extent]>>,
}

impl ExtentSet {
    pub(crate) fn single(extent: Extent) -> Self {
        Self { bounds: extent, parts: None }
    }

    /// The union of extents given in ascending order, at least one. Those that touch or overlap become one.
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
            return Self::single(last);
        }
        parts.push(last);
        Self {
            bounds: Extent { start: first.start, end: last.end },
            parts: Some(parts.into_boxed_slice()),
        }
    }

    /// Bytes in the set.
    pub(crate) fn bytes(&self) -> usize {
        self.parts().iter().map(|part| part.len()).sum()
    }

    pub(crate) fn overlaps(&self, other: &Self) -> bool {
        if !self.bounds.overlaps(other.bounds) {
            return false;
        }
        let (small, large) = if self.parts().len() <= other.parts().len() {
            (self.parts(), other.parts())
        } else {
            (other.parts(), self.parts())
        };
        let mut large = large;
        small.iter().any(|&part| {
            // Skip what ends before this part; what remains is all the following parts can meet.
            large = &large[large.partition_point(|candidate| candidate.end <= part.start)..];
            large.first().is_some_and(|candidate| candidate.overlaps(part))
        })
    }

    fn parts(&self) -> &[Extent] {
        self.parts.as_deref().unwrap_or(std::slice::from_ref(&self.bounds))
    }
}
