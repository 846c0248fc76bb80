//! The loaded metadata of each NIXL peer, and the check of further metadata.
//!
//! NIXL merges metadata into loaded metadata, refuses changed connection details, and locks a peer out for good if the key of a
//! known memory changes. It forgets no single memory, only the whole peer, whose sockets UCX then leaves open on both sides. So
//! this module computes the difference first, and loads memory under a key without content as one range over all addresses:
//! changing memory then changes nothing in NIXL.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use super::blob::{Blob, Connections, Memory};
use super::endpoints::Endpoints;
use super::peer::Peer;

/// The step that brings NIXL up to date with a blob.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Change {
    /// None: all of it is loaded.
    Known,
    /// Load it on top of the loaded metadata.
    Merge,
    /// Forget the peer, then load.
    Replace,
    /// Another peer uses the name.
    Conflict,
}

/// A loaded peer.
#[derive(Debug)]
pub(super) struct Loaded {
    pub(super) peer: Arc<Peer>,
    /// The peer's own connection details.
    given: Connections,
    /// The connection details in NIXL, if they differ.
    masked: Option<Connections>,
    groups: HashMap<Group, Known>,
    /// UCX's address of the peer.
    pub(super) endpoints: Endpoints,
    /// Whether NIXL gets each memory separately, since keys without content differ.
    each: bool,
    /// The number of recorded blobs.
    noted: u64,
}

/// Memories in one list of NIXL.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
struct Group {
    backend: Arc<str>,
    kind: u32,
    device: u64,
}

impl Group {
    fn of(memory: &Memory<'_>) -> Self {
        Self { backend: memory.backend.into(), kind: memory.kind, device: memory.device }
    }
}

/// The memories of one group.
#[derive(Debug)]
struct Known {
    /// The key for every address, if the group was loaded that way.
    any: Option<Vec<u8>>,
    /// By address and length. Equal ones with different keys are the same memory registered anew.
    places: BTreeMap<(u64, u64), Place>,
    longest: u64,
}

#[derive(Debug)]
struct Place {
    /// Empty if NIXL has every address under one key.
    key: Vec<u8>,
    /// The number of the last blob with it.
    seen: u64,
}

impl Known {
    /// Withdrawn memories are cleared beyond this many per current one.
    const STALE: usize = 4;
    /// Fewer are not cleared.
    const KEPT: usize = 1024;

    fn new(any: Option<Vec<u8>>) -> Self {
        Self { any, places: BTreeMap::new(), longest: 0 }
    }

    fn is_crowded(&self, new: usize, current: usize) -> bool {
        let known = self.places.len() + new;
        known > Self::KEPT && known / Self::STALE > current
    }

    /// The change by these memories of a blob, all of one group.
    fn change(&self, memories: &[&Memory<'_>]) -> Change {
        if let Some(key) = &self.any {
            let same = memories.iter().all(|memory| memory.key == key);
            return if same { Change::Known } else { Change::Replace };
        }
        let mut new = 0;
        for memory in memories {
            match self.places.get(&(memory.address, memory.len)) {
                Some(place) if place.key == memory.key => {}
                Some(_) => return Change::Replace,
                // NIXL would take the first registration that covers a range, which may be a withdrawn one.
                None if self.hides(memory, memories) => return Change::Replace,
                None => new += 1,
            }
        }
        match new {
            _ if self.is_crowded(new, memories.len()) => Change::Replace,
            0 => Change::Known,
            _ => Change::Merge,
        }
    }

    /// Whether a known memory that the blob no longer has shares bytes with `memory`.
    fn hides(&self, memory: &Memory<'_>, blob: &[&Memory<'_>]) -> bool {
        let end = memory.address + memory.len;
        self.places
            .range(..(end, 0))
            .rev()
            .take_while(|((address, _), _)| address.saturating_add(self.longest) > memory.address)
            .filter(|((address, len), _)| address + len > memory.address)
            // Under one key without content, either serves.
            .filter(|(_, place)| place.key != memory.key || !memory.has_empty_key())
            .any(|(place, _)| !blob.iter().any(|m| (m.address, m.len) == *place))
    }

    fn note(&mut self, memories: &[&Memory<'_>], number: u64) {
        for memory in memories {
            let key = if self.any.is_some() { Vec::new() } else { memory.key.to_vec() };
            self.longest = self.longest.max(memory.len);
            self.places.insert((memory.address, memory.len), Place { key, seen: number });
        }
        if self.any.is_some() && self.is_crowded(0, memories.len()) {
            let mut seen: Vec<_> = self.places.values().map(|place| place.seen).collect();
            let middle = seen.len() / 2;
            let median = *seen.select_nth_unstable(middle).1;
            self.places.retain(|_, place| place.seen >= median);
            self.longest = self.places.keys().map(|(_, len)| *len).max().unwrap_or(0);
        }
    }

    /// Whether one registration covers the range.
    fn covers(&self, address: u64, end: u64) -> bool {
        self.places
            .range(..=(address, u64::MAX))
            .rev()
            .take_while(|((start, _), _)| start.saturating_add(self.longest) >= end)
            .any(|((start, len), _)| start + len >= end)
    }
}

impl Loaded {
    /// A peer that is new to NIXL. With `masked`, NIXL gets these connection details instead of the blob's.
    pub(super) fn new(
        peer: Arc<Peer>,
        blob: &Blob<'_>,
        masked: Option<Connections>,
        each: bool,
    ) -> Self {
        let owned = |(kind, details): &(&str, &[u8])| ((*kind).to_owned(), details.to_vec());
        let given = blob.connections.iter().map(owned).collect();
        Self {
            peer,
            given,
            masked,
            groups: HashMap::new(),
            endpoints: Endpoints::default(),
            each,
            noted: 0,
        }
    }

    /// Whether the peer was loaded with connection details other than its own.
    pub(super) fn is_masked(&self) -> bool {
        self.masked.is_some()
    }

    fn has_connections_of(&self, blob: &Blob<'_>) -> bool {
        self.given.len() == blob.connections.len()
            && blob
                .connections
                .iter()
                .all(|(kind, details)| self.given.iter().any(|(k, d)| k == kind && d == details))
    }

    /// The change by `blob`.
    pub(super) fn change(&self, blob: &Blob<'_>) -> Change {
        if self.peer.is_broken() {
            return Change::Replace;
        }
        if !self.has_connections_of(blob) {
            return Change::Conflict;
        }
        let mut change = Change::Known;
        for (group, memories) in by_group(blob) {
            match self.groups.get(&group).map_or(Change::Merge, |known| known.change(&memories)) {
                Change::Known => {}
                Change::Merge => change = Change::Merge,
                other => return other,
            }
        }
        change
    }

    /// The blob for NIXL to load, after [`change`](Self::change).
    pub(super) fn for_nixl(&self, blob: &Blob<'_>) -> Vec<u8> {
        let mut memories = Vec::with_capacity(blob.memories.len());
        for (group, of_group) in by_group(blob) {
            let any = match self.groups.get(&group) {
                Some(known) => known.any.is_some(),
                None => self.common_key(&of_group).is_some(),
            };
            match of_group.first() {
                Some(first) if any => memories.push(first.over_all_addresses()),
                _ => memories.extend(of_group.into_iter().copied()),
            }
        }
        let connections = self.masked.as_ref().unwrap_or(&self.given);
        let connections = connections.iter().map(|(kind, details)| (&**kind, &**details)).collect();
        Blob { name: blob.name, connections, memories }.encode()
    }

    /// Records loaded metadata.
    pub(super) fn note(&mut self, blob: &Blob<'_>) {
        self.noted += 1;
        for (group, memories) in by_group(blob) {
            let any = self.common_key(&memories).map(<[u8]>::to_vec);
            let known = self.groups.entry(group).or_insert_with(|| Known::new(any));
            known.note(&memories, self.noted);
        }
    }

    /// The common key of these memories, if it has no content.
    fn common_key<'a>(&self, memories: &[&Memory<'a>]) -> Option<&'a [u8]> {
        let first = memories.first()?;
        let common = first.has_empty_key() && memories.iter().all(|m| m.key == first.key);
        (common && !self.each).then_some(first.key)
    }

    /// Whether one registration covers the range.
    pub(super) fn covers(&self, kind: u32, device: u64, address: u64, len: u64) -> bool {
        let Some(end) = address.checked_add(len) else { return false };
        self.groups
            .iter()
            .filter(|(group, _)| group.kind == kind && group.device == device)
            .any(|(_, known)| known.covers(address, end))
    }
}

fn by_group<'a, 'b>(blob: &'b Blob<'a>) -> Vec<(Group, Vec<&'b Memory<'a>>)> {
    let mut groups: Vec<(Group, Vec<&Memory<'_>>)> = Vec::new();
    for memory in &blob.memories {
        let is_of = |group: &Group| {
            group.kind == memory.kind
                && group.device == memory.device
                && &*group.backend == memory.backend
        };
        match groups.iter_mut().find(|(group, _)| is_of(group)) {
            Some((_, memories)) => memories.push(memory),
            None => groups.push((Group::of(memory), vec![memory])),
        }
    }
    groups
}

#[cfg(test)]
mod tests {
    use nixl_ops::PeerId;
    use proptest::prelude::*;

    use super::*;

    /// Keys of UCX's with a part that says something.
    fn key(value: u8) -> Vec<u8> {
        vec![1, 0, 0, 0, 0, 0, 0, 0, 0, 1, value]
    }

    /// One with a part of no length, and a byte that describes the system.
    const EMPTY: [u8; 11] = [1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff];

    fn memory(address: u64, len: u64, key: &[u8]) -> Memory<'_> {
        Memory { backend: "UCX", kind: 0, device: 0, address, len, key }
    }

    fn blob(memories: Vec<Memory<'_>>) -> Blob<'_> {
        Blob { name: "p", connections: vec![("UCX", b"here")], memories }
    }

    fn loaded(memories: Vec<Memory<'_>>) -> Loaded {
        let blob = blob(memories);
        let mut loaded = Loaded::new(Peer::new(PeerId::new("p")), &blob, None, false);
        loaded.note(&blob);
        loaded
    }

    #[test]
    fn the_same_and_subsets_are_known() {
        let (a, b) = (key(1), key(2));
        let known = loaded(vec![memory(100, 10, &a), memory(200, 10, &b)]);
        assert_eq!(known.change(&blob(vec![memory(200, 10, &b)])), Change::Known);
        assert_eq!(known.change(&blob(vec![])), Change::Known);
    }

    #[test]
    fn new_memory_is_merged() {
        let (a, b) = (key(1), key(2));
        let known = loaded(vec![memory(100, 10, &a)]);
        let both = blob(vec![memory(100, 10, &a), memory(110, 10, &b)]);
        assert_eq!(known.change(&both), Change::Merge);
    }

    #[test]
    fn a_changed_key_needs_a_fresh_start() {
        let (a, z) = (key(1), key(26));
        let known = loaded(vec![memory(100, 10, &a)]);
        assert_eq!(known.change(&blob(vec![memory(100, 10, &z)])), Change::Replace);
    }

    #[test]
    fn a_withdrawn_memory_under_a_new_one_needs_a_fresh_start() {
        let (a, b) = (key(1), key(2));
        let known = loaded(vec![memory(100, 10, &a)]);
        assert_eq!(known.change(&blob(vec![memory(105, 2, &b)])), Change::Replace);
        // Still offered: the peer registered overlapping memories, which is its right.
        let both = blob(vec![memory(100, 10, &a), memory(105, 2, &b)]);
        assert_eq!(known.change(&both), Change::Merge);
    }

    #[test]
    fn memory_under_a_key_that_says_nothing_of_it_is_known_wherever_it_is() {
        let mut known = loaded(vec![memory(100, 10, &EMPTY)]);
        let elsewhere = blob(vec![memory(105, 20, &EMPTY)]);
        assert_eq!(known.change(&elsewhere), Change::Known);
        assert!(!known.covers(0, 0, 105, 20), "offers are checked all the same");
        known.note(&elsewhere);
        assert!(known.covers(0, 0, 105, 20) && known.covers(0, 0, 100, 10));
        let written = known.for_nixl(&elsewhere);
        let written = Blob::parse(&written).unwrap();
        assert_eq!(written.memories, vec![elsewhere.memories[0].over_all_addresses()]);
        // With a key that says something the group cannot stay as it is.
        let other = key(3);
        assert_eq!(known.change(&blob(vec![memory(500, 1, &other)])), Change::Replace);
    }

    #[test]
    fn where_such_keys_differ_each_memory_is_loaded_as_it_is() {
        let mut other = EMPTY;
        other[10] = 3;
        let both = blob(vec![memory(100, 10, &EMPTY), memory(200, 10, &other)]);
        let mut known = Loaded::new(Peer::new(PeerId::new("p")), &both, None, true);
        known.note(&both);
        assert_eq!(Blob::parse(&known.for_nixl(&both)).unwrap().memories, both.memories);
        let overlapping = blob(vec![memory(105, 20, &EMPTY)]);
        assert_eq!(known.change(&overlapping), Change::Merge, "either registration will do");
        let under_the_other = blob(vec![memory(195, 20, &EMPTY)]);
        assert_eq!(known.change(&under_the_other), Change::Replace);
    }

    #[test]
    fn mixed_keys_are_loaded_one_by_one() {
        let a = key(1);
        let both = blob(vec![memory(100, 10, &a), memory(200, 10, &EMPTY)]);
        let known = loaded(both.memories.clone());
        assert_eq!(Blob::parse(&known.for_nixl(&both)).unwrap().memories, both.memories);
    }

    #[test]
    fn other_connection_details_are_another_peer_unless_the_old_one_broke() {
        let known = loaded(vec![]);
        let other = Blob { name: "p", connections: vec![("UCX", b"there")], memories: vec![] };
        assert_eq!(known.change(&other), Change::Conflict);
        known.peer.set_broken();
        assert_eq!(known.change(&other), Change::Replace);
    }

    #[test]
    fn withdrawn_memories_do_not_pile_up() {
        let a = key(1);
        let many = (1..=2000).map(|i| memory(i * 100, 10, &a)).collect();
        let known = loaded(many);
        assert_eq!(known.change(&blob(vec![memory(100, 10, &a)])), Change::Replace);
        let mut known = loaded(vec![]);
        for i in 1..=100_000 {
            let one = blob(vec![memory(i * 100, 10, &EMPTY)]);
            assert_ne!(known.change(&one), Change::Replace);
            known.note(&one);
            assert!(known.covers(0, 0, i * 100, 10));
        }
        assert!(known.groups.values().all(|known| known.places.len() <= Known::KEPT + 1));
    }

    proptest! {
        #[test]
        fn covered_means_inside_one_registration(
            places in proptest::collection::vec((1u64..200, 1u64..60), 0..12),
            address in 1u64..260, len in 1u64..40, empty: bool,
        ) {
            let key = if empty { EMPTY.to_vec() } else { key(1) };
            let known = loaded(places.iter().map(|(a, l)| memory(*a, *l, &key)).collect());
            let expected = places.iter().any(|(a, l)| *a <= address && address + len <= a + l);
            prop_assert_eq!(known.covers(0, 0, address, len), expected);
            prop_assert!(!known.covers(1, 0, address, len));
            prop_assert!(!known.covers(0, 1, address, len));
        }
    }
}
