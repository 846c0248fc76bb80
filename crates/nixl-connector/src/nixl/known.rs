//! The memories of one peer that NIXL keeps in one list, and their changes by others.

use std::collections::{BTreeMap, HashSet};
use std::num::NonZeroU64;

use super::blob::Memory;
use super::cover::Cover;
use super::overlap::overlap;
use super::peers::Change;

/// The memories of one list.
#[derive(Debug)]
pub(super) struct Known {
    /// The key under which NIXL has every address, if that is how the list was loaded.
    any: Option<Vec<u8>>,
    /// By address and length. Equal ones with different keys are the same memory registered anew.
    places: BTreeMap<(u64, u64), Place>,
    cover: Cover,
}

#[derive(Debug)]
struct Place {
    /// Empty where NIXL has every address under one key.
    key: Vec<u8>,
    /// The number of the last blob that had it.
    seen: u64,
    /// When the newest offer with it was made, in milliseconds since 1970 by the peer's clock.
    made: Option<NonZeroU64>,
}

impl Place {
    /// Whether it is of an offer that was made after this.
    fn is_newer(&self, made: Option<NonZeroU64>) -> bool {
        self.made.zip(made).is_some_and(|(newest, made)| newest > made)
    }
}

impl Known {
    /// Places that a peer has withdrawn are cleared away beyond this many per current one.
    const STALE: usize = 4;
    /// Fewer are never worth clearing.
    pub(super) const KEPT: usize = 1024;

    pub(super) fn new(any: Option<Vec<u8>>) -> Self {
        Self { any, places: BTreeMap::new(), cover: Cover::default() }
    }

    pub(super) fn len(&self) -> usize {
        self.places.len()
    }

    /// Whether NIXL has every address, under one key.
    pub(super) fn is_of_any_address(&self) -> bool {
        self.any.is_some()
    }

    /// Whether so many known memories are too many beside those that a peer has now.
    pub(super) fn is_crowd(known: usize, current: usize) -> bool {
        known > Self::KEPT && known / Self::STALE > current
    }

    /// What these memories of a blob, all of the list, change. The work grows with their number, and not with that of the known ones, which
    /// may be as many as a peer likes.
    pub(super) fn change(&self, memories: &[&Memory<'_>], made: Option<NonZeroU64>) -> Change {
        if let Some(key) = &self.any {
            let same = memories.iter().all(|memory| memory.key == key);
            return if same { Change::Known } else { Change::Replace };
        }
        let (mut new, mut is_anew) = (Vec::new(), false);
        for memory in memories {
            match self.places.get(&(memory.address, memory.len)) {
                Some(place) if place.key == memory.key => {}
                Some(place) if place.is_newer(made) => return Change::Outdated,
                Some(_) => is_anew = true,
                None => new.push(*memory),
            }
        }
        match new.is_empty() {
            _ if Self::is_crowd(self.len() + new.len(), memories.len()) => Change::Renew,
            _ if is_anew => Change::Replace,
            true => Change::Known,
            _ if made.is_some() && self.hide(&new, memories, |place| place.is_newer(made)) => {
                Change::Outdated
            }
            _ if self.hide(&new, memories, |_| true) => Change::Replace,
            false => Change::Merge,
        }
    }

    /// Whether known memories that the blob no longer has, of these places, share bytes with new ones of it. NIXL would take the first
    /// registration that covers a range, which may be a withdrawn one.
    fn hide(
        &self,
        new: &[&Memory<'_>],
        blob: &[&Memory<'_>],
        which: impl Fn(&Place) -> bool,
    ) -> bool {
        let current: HashSet<_> = blob.iter().map(|memory| (memory.address, memory.len)).collect();
        let is_withdrawn = |at: &(u64, u64), place| !current.contains(at) && which(place);
        let withdrawn = self.places.iter().filter(|(at, place)| is_withdrawn(at, place));
        let withdrawn =
            withdrawn.map(|((start, len), place)| (*start..start + len, Some(&*place.key)));
        // Under one key without a memory of its own, either will do.
        let new = new.iter().map(|m| (m.range(), m.has_empty_key().then_some(m.key)));
        overlap(withdrawn, new)
    }

    pub(super) fn note(&mut self, memories: &[&Memory<'_>], number: u64, made: Option<NonZeroU64>) {
        for memory in memories {
            let key = if self.any.is_some() { Vec::new() } else { memory.key.to_vec() };
            let at = (memory.address, memory.len);
            let made = self.places.get(&at).and_then(|place| place.made).max(made);
            self.places.insert(at, Place { key, seen: number, made });
            self.cover.insert(memory.range());
        }
        if self.any.is_some() && Self::is_crowd(self.len(), memories.len()) {
            let mut seen: Vec<_> = self.places.values().map(|place| place.seen).collect();
            let middle = seen.len() / 2;
            let median = *seen.select_nth_unstable(middle).1;
            self.places.retain(|_, place| place.seen >= median);
            self.cover = self.places.keys().map(|(start, len)| *start..start + len).collect();
        }
    }

    /// Whether one registration covers the range.
    pub(super) fn covers(&self, address: u64, end: u64) -> bool {
        self.cover.covers(address..end)
    }
}
