//! The loaded metadata of each NIXL peer, and the check of further metadata.
//!
//! NIXL merges metadata into loaded metadata, refuses changed connection details, and locks a peer out for good if the key of a
//! known memory changes. It forgets no single memory, only the whole peer, whose sockets UCX then leaves open on both sides. So
//! this module computes the difference first, and loads memory under a key without content as one range over all addresses:
//! changing memory then changes nothing in NIXL.

use std::collections::BTreeMap;
use std::num::NonZeroU64;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, RwLock, RwLockReadGuard};

use nixl_device::locks::{read, write};

use super::blob::{Blob, Connections, Memory};
use super::endpoints::Endpoints;
use super::known::Known;
use super::peer::Peer;

/// The step that brings NIXL up to date with a blob.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub(super) enum Change {
    /// None: all of it is loaded.
    Known,
    /// Load it on top of the loaded metadata.
    Merge,
    /// Forget the peer, then load: too much of what is known was withdrawn.
    Renew,
    /// Forget the peer, then load: known memory was registered anew.
    Replace,
    /// None: memory has been registered anew since, by newer metadata.
    Outdated,
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
    /// Where UCX has found it.
    pub(super) endpoints: Endpoints,
    /// Whether NIXL gets each memory separately, since keys without content differ.
    each: bool,
    /// Whether this process has an operation with it: it did not introduce itself alone.
    is_used: AtomicBool,
    memories: RwLock<Memories>,
}

/// The loaded memories of a peer.
#[derive(Debug, Default)]
pub(super) struct Memories {
    groups: BTreeMap<Group, Known>,
    /// How many blobs have been noted.
    noted: u64,
}

/// Memories that NIXL keeps in one list.
#[derive(Clone, Debug, Eq, Ord, PartialEq, PartialOrd)]
struct Group {
    kind: u32,
    device: u64,
    backend: Box<str>,
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
            endpoints: Endpoints::default(),
            each,
            is_used: AtomicBool::new(false),
            memories: RwLock::default(),
        }
    }

    /// Whether the peer was loaded with connection details other than its own.
    pub(super) fn is_masked(&self) -> bool {
        self.masked.is_some()
    }

    /// This process has an operation with the peer.
    pub(super) fn set_used(&self) {
        self.is_used.store(true, Ordering::Relaxed);
    }

    pub(super) fn is_used(&self) -> bool {
        self.is_used.load(Ordering::Relaxed)
    }

    /// The connection details as the peer gives them.
    pub(super) fn connections(&self) -> Vec<(&str, &[u8])> {
        self.given.iter().map(|(kind, details)| (&**kind, &**details)).collect()
    }

    /// The connection details as the peer gives them.
    pub(super) fn given(&self) -> &Connections {
        &self.given
    }

    /// The change by `blob`, of an offer made at this time.
    pub(super) fn change(&self, blob: &Blob<'_>, made: Option<NonZeroU64>) -> Change {
        if self.peer.is_broken() {
            return Change::Replace;
        }
        if !is_of(&self.given, blob) {
            return Change::Conflict;
        }
        self.memories().change(blob, made)
    }

    /// The blob for NIXL to load, after [`change`](Self::change).
    pub(super) fn for_nixl(&self, blob: &Blob<'_>) -> Vec<u8> {
        let mut memories = Vec::with_capacity(blob.memories.len());
        let known = self.memories();
        for (group, of_group) in by_group(blob) {
            let any = match known.groups.get(&group) {
                Some(known) => known.is_of_any_address(),
                None => self.common_key(&of_group).is_some(),
            };
            match of_group.first() {
                Some(first) if any => memories.push(first.over_all_addresses()),
                _ => memories.extend(of_group.into_iter().copied()),
            }
        }
        let connections = match &self.masked {
            Some(masked) => masked.iter().map(|(kind, details)| (&**kind, &**details)).collect(),
            None => self.connections(),
        };
        Blob { name: blob.name, connections, memories }.encode()
    }

    /// Notes what NIXL has loaded, or had before, of an offer made at this time.
    pub(super) fn note(&self, blob: &Blob<'_>, made: Option<NonZeroU64>) {
        let mut memories = write(&self.memories);
        let Memories { groups, noted } = &mut *memories;
        *noted += 1;
        for (group, of_group) in by_group(blob) {
            let any = self.common_key(&of_group).map(<[u8]>::to_vec);
            groups.entry(group).or_insert_with(|| Known::new(any)).note(&of_group, *noted, made);
        }
    }

    /// The common key of these memories, if it has no content.
    fn common_key<'a>(&self, memories: &[&Memory<'a>]) -> Option<&'a [u8]> {
        let first = memories.first()?;
        let common = first.has_empty_key() && memories.iter().all(|m| m.key == first.key);
        (common && !self.each).then_some(first.key)
    }

    /// The memories that NIXL knows, with a lock for each peer: long metadata of another holds nothing up.
    pub(super) fn memories(&self) -> RwLockReadGuard<'_, Memories> {
        read(&self.memories)
    }
}

impl Loaded {
    /// The number of memories that NIXL knows; 0 while that changes.
    pub(super) fn count(&self) -> usize {
        let memories = self.memories.try_read();
        memories.map_or(0, |memories| memories.groups.values().map(Known::len).sum())
    }
}

impl Memories {
    /// All groups together have no more places than this beside many current ones.
    const KEPT: usize = 16 * Known::KEPT;

    fn change(&self, blob: &Blob<'_>, made: Option<NonZeroU64>) -> Change {
        let mut change = Change::Known;
        for (group, memories) in by_group(blob) {
            let known = self.groups.get(&group);
            let of_group = known.map_or(Change::Merge, |known| known.change(&memories, made));
            change = change.max(of_group);
        }
        let current = blob.memories.len();
        let all = self.groups.values().map(Known::len).sum::<usize>() + current;
        match change {
            Change::Merge if all > Self::KEPT && Known::is_crowd(all, current) => Change::Renew,
            change => change,
        }
    }

    /// Whether one registration covers the range.
    pub(super) fn covers(&self, kind: u32, device: u64, address: u64, len: u64) -> bool {
        let Some(end) = address.checked_add(len) else { return false };
        let first = Group { kind, device, backend: Box::default() };
        self.groups
            .range(first..)
            .take_while(|(group, _)| group.kind == kind && group.device == device)
            .any(|(_, known)| known.covers(address, end))
    }
}

/// Whether these are the connection details of the blob.
pub(super) fn is_of(given: &Connections, blob: &Blob<'_>) -> bool {
    let is_given = |(kind, details): &(&str, &[u8])| {
        given.iter().any(|(known, same)| known == kind && same == details)
    };
    given.len() == blob.connections.len() && blob.connections.iter().all(is_given)
}

fn by_group<'a, 'b>(blob: &'b Blob<'a>) -> Vec<(Group, Vec<&'b Memory<'a>>)> {
    let mut groups = BTreeMap::<_, Vec<_>>::new();
    for memory in &blob.memories {
        let Memory { kind, device, backend, .. } = *memory;
        groups.entry((kind, device, backend)).or_default().push(memory);
    }
    let group = |((kind, device, backend), memories): ((u32, u64, &str), _)| {
        (Group { kind, device, backend: backend.into() }, memories)
    };
    groups.into_iter().map(group).collect()
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

    impl Loaded {
        /// The change by metadata of an offer made at this time.
        fn change_at(&self, made: Option<u64>, blob: &Blob<'_>) -> Change {
            self.change(blob, made.and_then(NonZeroU64::new))
        }
    }

    fn loaded(memories: Vec<Memory<'_>>) -> Loaded {
        let blob = blob(memories);
        let loaded = Loaded::new(Peer::new(PeerId::new("p")), &blob, None, false);
        loaded.note(&blob, None);
        loaded
    }

    #[test]
    fn the_same_and_subsets_are_known() {
        let (a, b) = (key(1), key(2));
        let known = loaded(vec![memory(100, 10, &a), memory(200, 10, &b)]);
        assert_eq!(known.change_at(None, &blob(vec![memory(200, 10, &b)])), Change::Known);
        assert_eq!(known.change_at(None, &blob(vec![])), Change::Known);
    }

    #[test]
    fn new_memory_is_merged() {
        let (a, b) = (key(1), key(2));
        let known = loaded(vec![memory(100, 10, &a)]);
        let both = blob(vec![memory(100, 10, &a), memory(110, 10, &b)]);
        assert_eq!(known.change_at(None, &both), Change::Merge);
    }

    #[test]
    fn a_changed_key_needs_a_fresh_start() {
        let (a, z) = (key(1), key(26));
        let known = loaded(vec![memory(100, 10, &a)]);
        assert_eq!(known.change_at(None, &blob(vec![memory(100, 10, &z)])), Change::Replace);
    }

    #[test]
    fn older_metadata_replaces_nothing_newer() {
        let (a, z, new) = (key(1), key(26), key(3));
        let known = loaded(vec![memory(100, 10, &a)]);
        let anew = blob(vec![memory(100, 10, &z)]);
        assert_eq!(known.change_at(Some(6), &anew), Change::Replace, "its time is unknown");
        known.note(&blob(vec![memory(100, 10, &a)]), NonZeroU64::new(7));
        known.note(&blob(vec![memory(200, 10, &a)]), NonZeroU64::new(9));
        assert_eq!(known.change_at(Some(7), &anew), Change::Replace, "which is newer is unknown");
        assert_eq!(known.change_at(Some(8), &anew), Change::Replace, "other memory is newer");
        assert_eq!(known.change_at(None, &anew), Change::Replace);
        known.note(&blob(vec![memory(100, 10, &a)]), NonZeroU64::new(5));
        assert_eq!(known.change_at(Some(6), &anew), Change::Outdated, "the newest counts");
        let under_it = blob(vec![memory(105, 20, &z)]);
        assert_eq!(known.change_at(Some(6), &under_it), Change::Outdated);
        assert_eq!(known.change_at(Some(8), &under_it), Change::Replace);
        // What is still there is older metadata's, too.
        assert_eq!(known.change_at(Some(6), &blob(vec![memory(100, 10, &a)])), Change::Known);
        assert_eq!(known.change_at(Some(6), &blob(vec![memory(500, 10, &new)])), Change::Merge);
        known.peer.set_broken();
        assert_eq!(known.change_at(Some(6), &anew), Change::Replace, "nothing is loaded any more");
    }

    #[test]
    fn a_withdrawn_memory_under_a_new_one_needs_a_fresh_start() {
        let (a, b) = (key(1), key(2));
        let known = loaded(vec![memory(100, 10, &a)]);
        assert_eq!(known.change_at(None, &blob(vec![memory(105, 2, &b)])), Change::Replace);
        // Still offered: the peer registered overlapping memories, which is its right.
        let both = blob(vec![memory(100, 10, &a), memory(105, 2, &b)]);
        assert_eq!(known.change_at(None, &both), Change::Merge);
    }

    #[test]
    fn memory_under_a_key_that_says_nothing_of_it_is_known_wherever_it_is() {
        let known = loaded(vec![memory(100, 10, &EMPTY)]);
        let elsewhere = blob(vec![memory(105, 20, &EMPTY)]);
        assert_eq!(known.change_at(None, &elsewhere), Change::Known);
        assert!(!known.memories().covers(0, 0, 105, 20), "offers are checked all the same");
        known.note(&elsewhere, None);
        assert!(known.memories().covers(0, 0, 105, 20) && known.memories().covers(0, 0, 100, 10));
        let written = known.for_nixl(&elsewhere);
        let written = Blob::parse(&written).unwrap();
        assert_eq!(written.memories, vec![elsewhere.memories[0].over_all_addresses()]);
        // With a key that says something the group cannot stay as it is.
        let other = key(3);
        assert_eq!(known.change_at(None, &blob(vec![memory(500, 1, &other)])), Change::Replace);
    }

    #[test]
    fn where_such_keys_differ_each_memory_is_loaded_as_it_is() {
        let mut other = EMPTY;
        other[10] = 3;
        let both = blob(vec![memory(100, 10, &EMPTY), memory(200, 10, &other)]);
        let known = Loaded::new(Peer::new(PeerId::new("p")), &both, None, true);
        known.note(&both, None);
        assert_eq!(Blob::parse(&known.for_nixl(&both)).unwrap().memories, both.memories);
        let overlapping = blob(vec![memory(105, 20, &EMPTY)]);
        assert_eq!(
            known.change_at(None, &overlapping),
            Change::Merge,
            "either registration will do"
        );
        let under_the_other = blob(vec![memory(195, 20, &EMPTY)]);
        assert_eq!(known.change_at(None, &under_the_other), Change::Replace);
    }

    #[test]
    fn mixed_keys_are_loaded_one_by_one() {
        let a = key(1);
        let both = blob(vec![memory(100, 10, &a), memory(200, 10, &EMPTY)]);
        let known = loaded(both.memories.clone());
        assert_eq!(Blob::parse(&known.for_nixl(&both)).unwrap().memories, both.memories);
    }

    /// Each overlaps all others, under two keys that say nothing of memory: to compare each with each, and that with the blob, would
    /// take minutes.
    #[test]
    fn many_memories_that_overlap_are_compared_in_one_walk() {
        const MANY: u64 = 5000;
        let mut other = EMPTY;
        other[10] = 3;
        let many = |first: u64, key| (first..first + MANY).map(move |at| memory(at, MANY, key));
        let known = loaded(many(1, &other).chain([memory(1, 1, &EMPTY)]).collect());
        let later = || many(MANY + 1, &EMPTY);
        let more = blob(many(1, &other).chain(later()).collect());
        assert_eq!(known.change_at(None, &more), Change::Merge, "the known ones are still there");
        let fewer = blob(many(1, &other).skip(9).chain(later()).collect());
        assert_eq!(
            known.change_at(None, &fewer),
            Change::Replace,
            "the ninth is not, and reaches so far"
        );
    }

    #[test]
    fn memories_of_as_many_devices_are_compared_in_one_walk() {
        let a = key(1);
        let device = |device| Memory { device, kind: 1, ..memory(100, 10, &a) };
        let known = loaded((0..20_000).map(device).collect());
        assert_eq!(known.change_at(None, &blob((0..20_000).map(device).collect())), Change::Known);
        assert!((0..20_000).all(|device| known.memories().covers(1, device, 100, 10)));
        assert_eq!(
            known.change_at(None, &blob((0..9).map(|d| device(20_000 + d)).collect())),
            Change::Renew
        );
    }

    #[test]
    fn other_connection_details_are_another_peer_unless_the_old_one_broke() {
        let known = loaded(vec![]);
        let other = Blob { name: "p", connections: vec![("UCX", b"there")], memories: vec![] };
        assert_eq!(known.change_at(None, &other), Change::Conflict);
        known.peer.set_broken();
        assert_eq!(known.change_at(None, &other), Change::Replace);
    }

    #[test]
    fn withdrawn_memories_do_not_pile_up() {
        let a = key(1);
        let many = (1..=2000).map(|i| memory(i * 100, 10, &a)).collect();
        let known = loaded(many);
        assert_eq!(known.change_at(None, &blob(vec![memory(100, 10, &a)])), Change::Renew);
        let known = loaded(vec![]);
        for i in 1..=100_000 {
            let one = blob(vec![memory(i * 100, 10, &EMPTY)]);
            assert_ne!(known.change_at(None, &one), Change::Renew);
            known.note(&one, None);
            assert!(known.memories().covers(0, 0, i * 100, 10));
        }
        assert!(known.memories().groups.values().all(|known| known.len() <= Known::KEPT + 1));
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
            prop_assert_eq!(known.memories().covers(0, 0, address, len), expected);
            prop_assert!(!known.memories().covers(1, 0, address, len));
            prop_assert!(!known.memories().covers(0, 1, address, len));
        }
    }
}
