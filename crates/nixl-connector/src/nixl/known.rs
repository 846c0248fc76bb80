//! The memories that NIXL knows of one peer and keeps in one list, and what others change.

use std::collections::{BTreeMap, HashSet};

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
    pub(super) fn change(&self, memories: &[&Memory<'_>]) -> Change {
        if let Some(key) = &self.any {
            let same = memories.iter().all(|memory| memory.key == key);
            return if same { Change::Known } else { Change::Replace };
        }
        if Self::is_crowd(self.len(), memories.len()) {
            return Change::Replace;
        }
        let mut new = Vec::new();
        for memory in memories {
            match self.places.get(&(memory.address, memory.len)) {
                Some(place) if place.key == memory.key => {}
                Some(_) => return Change::Replace,
                None => new.push(*memory),
            }
        }
        match new.is_empty() {
            true => Change::Known,
            _ if Self::is_crowd(self.len() + new.len(), memories.len()) => Change::Replace,
            _ if self.hide(&new, memories) => Change::Replace,
            false => Change::Merge,
        }
    }

    /// Whether known memories that the blob no longer has share bytes with new ones of it. NIXL would take the first registration that
    /// covers a range, which may be a withdrawn one.
    fn hide(&self, new: &[&Memory<'_>], blob: &[&Memory<'_>]) -> bool {
        let current: HashSet<_> = blob.iter().map(|memory| (memory.address, memory.len)).collect();
        let withdrawn = self.places.iter().filter(|(place, _)| !current.contains(*place));
        let withdrawn =
            withdrawn.map(|((start, len), place)| (*start..start + len, Some(&*place.key)));
        // Under one key that says nothing of memory, either will do.
        let new = new.iter().map(|m| (m.range(), m.has_empty_key().then_some(m.key)));
        overlap(withdrawn, new)
    }

    pub(super) fn note(&mut self, memories: &[&Memory<'_>], number: u64) {
        for memory in memories {
            let key = if self.any.is_some() { Vec::new() } else { memory.key.to_vec() };
            self.places.insert((memory.address, memory.len), Place { key, seen: number });
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
