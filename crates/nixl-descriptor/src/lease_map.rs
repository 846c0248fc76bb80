//! The map of leased bytes of a region.
//!
//! Two ordered maps, so that the cost of a lease depends on its own size and hardly on how many others there are: a
//! cache of keys and values is one region with hundreds of operations in flight, interleaved layer by layer.

use std::collections::BTreeMap;

use crate::block_selection::BlockSelection;
use crate::extent::Extent;
use crate::lease::LeaseMode;

#[derive(Debug, Default)]
pub(crate) struct LeaseMap {
    /// Start to end of what is leased for writing. Disjoint from each other and from what is read.
    written: BTreeMap<usize, usize>,
    /// What is leased for reading, by start, cut wherever the number of readers changes.
    read: BTreeMap<usize, Readers>,
    /// Number of leases behind each map: the first and the last take a short cut.
    writing: usize,
    reading: usize,
}

#[derive(Clone, Copy, Debug)]
struct Readers {
    end: usize,
    /// At least one.
    count: usize,
}

impl LeaseMap {
    /// The lease, if any, that a use of these bytes would get in the way of.
    pub(crate) fn conflict(&self, mode: LeaseMode, extent: Extent) -> Option<LeaseMode> {
        // Extents in a map are disjoint, so the last to start before the end is the last that could overlap.
        let last = self.written.range(..extent.end).next_back();
        if last.is_some_and(|(_, end)| *end > extent.start) {
            return Some(LeaseMode::Write);
        }
        (mode == LeaseMode::Write && self.is_read(extent)).then_some(LeaseMode::Read)
    }

    /// As [`conflict`](Self::conflict), for blocks of a layout.
    pub(crate) fn conflict_with_blocks(
        &self,
        mode: LeaseMode,
        used: &BlockSelection,
    ) -> Option<LeaseMode> {
        let held = self.written.len() + self.read.len();
        // Usually nothing is held, and else whichever are fewer are walked.
        if held == 0 {
            return None;
        }
        if used.pieces() < held {
            return used.extents().find_map(|extent| self.conflict(mode, extent));
        }
        let touches = |start: usize, end: usize| used.touches(Extent { start, end });
        if self.written.iter().any(|(start, end)| touches(*start, *end)) {
            return Some(LeaseMode::Write);
        }
        let read = || self.read.iter().any(|(start, readers)| touches(*start, readers.end));
        (mode == LeaseMode::Write && read()).then_some(LeaseMode::Read)
    }

    /// Adds a lease that does not conflict: sorted extents that neither overlap nor touch.
    pub(crate) fn add(&mut self, mode: LeaseMode, extents: &[Extent]) {
        match mode {
            LeaseMode::Write => {
                let ends = extents.iter().map(|extent| (extent.start, extent.end));
                // Building a map from sorted entries is several times as fast as inserting them.
                if self.writing == 0 && extents.len() > 1 {
                    self.written = ends.collect();
                } else {
                    self.written.extend(ends);
                }
                self.writing += 1;
            }
            LeaseMode::Read => {
                let once = |extent: &Extent| (extent.start, Readers { end: extent.end, count: 1 });
                if self.reading == 0 && extents.len() > 1 {
                    self.read = extents.iter().map(once).collect();
                } else {
                    extents.iter().for_each(|extent| self.add_reader(*extent));
                }
                self.reading += 1;
            }
        }
    }

    /// Removes a lease that was added.
    pub(crate) fn remove(&mut self, mode: LeaseMode, extents: &[Extent]) {
        match mode {
            LeaseMode::Write => {
                self.writing -= 1;
                // The node of a map that is emptied one by one is kept for the next lease.
                if self.writing == 0 && extents.len() > 1 {
                    self.written.clear();
                } else {
                    for extent in extents {
                        self.written.remove(&extent.start);
                    }
                }
            }
            LeaseMode::Read => {
                self.reading -= 1;
                if self.reading == 0 && extents.len() > 1 {
                    self.read.clear();
                } else {
                    extents.iter().for_each(|extent| self.remove_reader(*extent));
                }
            }
        }
    }

    fn is_read(&self, extent: Extent) -> bool {
        let last = self.read.range(..extent.end).next_back();
        last.is_some_and(|(_, readers)| readers.end > extent.start)
    }

    fn add_reader(&mut self, extent: Extent) {
        let mut from = extent.start;
        let mut gaps = Vec::new();
        if self.is_read(extent) {
            self.cut(extent.start);
            self.cut(extent.end);
            for (&start, readers) in self.read.range_mut(extent.start..extent.end) {
                if from < start {
                    gaps.push((from, start));
                }
                readers.count += 1;
                from = readers.end;
            }
        }
        if from < extent.end {
            self.read.insert(from, Readers { end: extent.end, count: 1 });
        }
        for (start, end) in gaps {
            self.read.insert(start, Readers { end, count: 1 });
        }
    }

    fn remove_reader(&mut self, extent: Extent) {
        let exact = self.read.get(&extent.start);
        if exact.is_some_and(|readers| readers.end == extent.end && readers.count == 1) {
            self.read.remove(&extent.start);
            return;
        }
        self.cut(extent.start);
        self.cut(extent.end);
        let mut over = Vec::new();
        for (&start, readers) in self.read.range_mut(extent.start..extent.end) {
            readers.count -= 1;
            if readers.count == 0 {
                over.push(start);
            }
        }
        for start in over {
            self.read.remove(&start);
        }
        self.join(extent);
    }

    /// Makes `at` a border between readers, if it is inside some.
    fn cut(&mut self, at: usize) {
        if let Some((_, readers)) = self.read.range_mut(..at).next_back()
            && readers.end > at
        {
            let rest = *readers;
            readers.end = at;
            self.read.insert(at, rest);
        }
    }

    /// Undoes cuts in and around `extent` that no longer separate anything, lest a long lease collect them for ever.
    fn join(&mut self, extent: Extent) {
        let starts: Vec<usize> =
            self.read.range(extent.start..=extent.end).map(|(start, _)| *start).collect();
        for start in starts {
            let Some(&next) = self.read.get(&start) else { continue };
            if let Some((_, readers)) = self.read.range_mut(..start).next_back()
                && readers.end == start
                && readers.count == next.count
            {
                readers.end = next.end;
                self.read.remove(&start);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// Readers that come and go behind a long one leave no trace.
        #[test]
        fn readers_leave_no_cuts(extents in prop::collection::vec((0..40usize, 1..10usize), 1..30)) {
            let mut lease_map = LeaseMap::default();
            let long = Extent { start: 5, end: 45 };
            lease_map.add(LeaseMode::Read, &[long]);
            let extents: Vec<_> =
                extents.into_iter().map(|(start, len)| Extent { start, end: start + len }).collect();
            for &extent in &extents {
                lease_map.add(LeaseMode::Read, &[extent]);
            }
            for &extent in &extents {
                lease_map.remove(LeaseMode::Read, &[extent]);
            }
            prop_assert_eq!(lease_map.read.len(), 1);
        }
    }
}
