//! Ranges of slots for one request.

use std::ops::Range;

/// The ranges of slots that one request reads, in a room one behind the other.
#[derive(Debug, Default, Eq, PartialEq)]
pub(super) struct Runs {
    runs: Vec<Range<u32>>,
    slots: usize,
}

impl Runs {
    /// Slots that a room has.
    pub(super) const MOST_SLOTS: usize = 512;
    /// The driver posts longer lists.
    const MOST_RUNS: usize = 64;
    /// Slots between two that are wanted, and which are read with them rather than left out by a further descriptor.
    const GAP: u32 = 64;

    /// The place in the room to which this brings a slot, which is no smaller than those before it. `None` if there is no more
    /// room.
    pub(super) fn add(&mut self, slot: u32) -> Option<usize> {
        let last = self.runs.last_mut().filter(|run| slot < run.end.saturating_add(Self::GAP));
        let (begin, is_new) = match &last {
            Some(run) => (run.end, false),
            None => (slot, true),
        };
        let end = slot.checked_add(1)?;
        let more = end.saturating_sub(begin) as usize;
        if self.slots + more > Self::MOST_SLOTS || (is_new && self.runs.len() == Self::MOST_RUNS) {
            return None;
        }
        match self.runs.last_mut() {
            Some(run) if !is_new => run.end = run.end.max(end),
            _ => self.runs.push(begin..end),
        }
        self.slots += more;
        let behind = self.runs.last().map_or(0, |run| run.end - slot) as usize;
        Some(self.slots - behind)
    }

    /// Slots that are read.
    pub(super) fn slots(&self) -> usize {
        self.slots
    }

    /// Each range, and its place in the room.
    pub(super) fn each(&self) -> impl Iterator<Item = (Range<u32>, usize)> + '_ {
        self.runs.iter().scan(0, |at, run| {
            let place = *at;
            *at += run.len();
            Some((run.clone(), place))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    type Places = Vec<Option<usize>>;

    fn added(slots: &[u32]) -> (Places, Vec<(Range<u32>, usize)>) {
        let mut runs = Runs::default();
        let places = slots.iter().map(|slot| runs.add(*slot)).collect();
        (places, runs.each().collect())
    }

    #[test]
    fn near_slots_are_one_range_and_far_ones_are_not() {
        let (places, runs) = added(&[3, 3, 4, 10, 10 + Runs::GAP, 76 + Runs::GAP]);
        assert_eq!(places, [0, 0, 1, 7, 71, 72].map(Some));
        assert_eq!(runs, [(3..75, 0), (140..141, 72)]);
    }

    #[test]
    fn what_has_no_room_is_left_for_another_request() {
        let most = Runs::MOST_SLOTS as u32;
        let step = Runs::GAP;
        let near: Vec<u32> = (0..most).step_by(step as usize).chain([most - 1, most]).collect();
        let (places, runs) = added(&near);
        assert_eq!(places[places.len() - 2..], [Some(most as usize - 1), None]);
        assert_eq!(runs, [(0..most, 0)]);
        let far: Vec<u32> = (0..=Runs::MOST_RUNS as u32).map(|index| index * 2 * step).collect();
        let (places, runs) = added(&far);
        assert_eq!((places.iter().flatten().count(), runs.len()), (64, 64));
        assert_eq!(added(&[u32::MAX]).0, [None]);
    }
}
