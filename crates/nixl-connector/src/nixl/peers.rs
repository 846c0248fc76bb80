//! What NIXL has been told about each peer, and what it may be told next.
//!
//! NIXL merges metadata into what it knows, refuses changed connection details, and locks a peer out for
//! good if the key of a known memory changes. So the difference is worked out here first.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use nixl_ops::PeerId;

use super::blob::{Blob, Memory};

/// State of a peer that its transfers share.
#[derive(Debug)]
pub(super) struct Peer {
    pub(super) id: PeerId,
    in_flight: AtomicUsize,
    broken: AtomicBool,
}

impl Peer {
    pub(super) fn new(id: PeerId) -> Arc<Self> {
        Arc::new(Self { id, in_flight: AtomicUsize::new(0), broken: AtomicBool::new(false) })
    }

    /// Counts a posted transfer.
    pub(super) fn enter(&self) {
        self.in_flight.fetch_add(1, Ordering::AcqRel);
    }

    /// Takes back one [`enter`](Self::enter).
    pub(super) fn leave(&self) {
        self.in_flight.fetch_sub(1, Ordering::AcqRel);
    }

    pub(super) fn is_busy(&self) -> bool {
        self.in_flight.load(Ordering::Acquire) > 0
    }

    /// A transfer failed: the connection must be made anew before the next.
    pub(super) fn set_broken(&self) {
        self.broken.store(true, Ordering::Release);
    }

    pub(super) fn is_broken(&self) -> bool {
        self.broken.load(Ordering::Acquire)
    }
}

/// What must happen so that NIXL knows what a blob says.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Change {
    /// Nothing: all of it is known.
    Known,
    /// Load it on top.
    Merge,
    /// Forget the peer, then load.
    Replace,
    /// Another peer uses the name.
    Conflict,
}

/// A peer as it was loaded.
#[derive(Debug)]
pub(super) struct Loaded {
    pub(super) peer: Arc<Peer>,
    connections: Vec<(String, Vec<u8>)>,
    /// By memory; the value is its key.
    memories: HashMap<Place, Vec<u8>>,
    /// The places by address, for look-ups by range.
    sorted: Vec<Place>,
    longest: u64,
}

/// Where a registration is: equal places with different keys are the same memory registered anew.
#[derive(Clone, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
struct Place {
    address: u64,
    len: u64,
    kind: u32,
    device: u64,
    backend: Arc<str>,
}

impl Place {
    fn of(memory: &Memory<'_>) -> Self {
        Self {
            address: memory.address,
            len: memory.len,
            kind: memory.kind,
            device: memory.device,
            backend: memory.backend.into(),
        }
    }

    /// Neither address nor length can wrap: the parser saw to it.
    fn end(&self) -> u64 {
        self.address + self.len
    }
}

impl Loaded {
    /// Memories that a peer has withdrawn stay known to NIXL. Beyond this many per current one, they are
    /// cleared away.
    const STALE: usize = 4;
    /// Fewer are never worth clearing.
    const KEPT: usize = 1024;

    pub(super) fn new(peer: Arc<Peer>, blob: &Blob<'_>) -> Self {
        let mut loaded = Self {
            peer,
            connections: blob
                .connections
                .iter()
                .map(|(kind, details)| ((*kind).to_owned(), details.to_vec()))
                .collect(),
            memories: HashMap::new(),
            sorted: Vec::new(),
            longest: 0,
        };
        loaded.merge(blob);
        loaded
    }

    /// Whether the peer was loaded with these connection details.
    pub(super) fn has_connections_of(&self, blob: &Blob<'_>) -> bool {
        self.connections.len() == blob.connections.len()
            && blob.connections.iter().all(|(kind, details)| {
                self.connections.iter().any(|(k, d)| k == kind && d == details)
            })
    }

    /// What `blob` changes.
    pub(super) fn change(&self, blob: &Blob<'_>) -> Change {
        let same_connections = self.has_connections_of(blob);
        if self.peer.is_broken() {
            return Change::Replace;
        }
        if !same_connections {
            return Change::Conflict;
        }
        let mut new = 0;
        for memory in &blob.memories {
            match self.memories.get(&Place::of(memory)) {
                Some(key) if key == memory.key => {}
                Some(_) => return Change::Replace,
                None => {
                    // NIXL would take the first registration that covers a range, which may be a withdrawn one.
                    if self.overlaps(memory, blob) {
                        return Change::Replace;
                    }
                    new += 1;
                }
            }
        }
        let known = self.memories.len() + new;
        if known > Self::KEPT && known / Self::STALE > blob.memories.len() {
            return Change::Replace;
        }
        if new == 0 { Change::Known } else { Change::Merge }
    }

    pub(super) fn merge(&mut self, blob: &Blob<'_>) {
        for memory in &blob.memories {
            self.memories.insert(Place::of(memory), memory.key.to_vec());
        }
        self.sorted = self.memories.keys().cloned().collect();
        self.sorted.sort_unstable();
        self.longest = self.sorted.iter().map(|p| p.len).max().unwrap_or(0);
    }

    /// Whether one registration covers the range.
    pub(super) fn covers(&self, kind: u32, device: u64, address: u64, len: u64) -> bool {
        let Some(end) = address.checked_add(len) else { return false };
        let after = self.sorted.partition_point(|p| p.address <= address);
        self.sorted[..after]
            .iter()
            .rev()
            .take_while(|p| p.address.saturating_add(self.longest) >= end)
            .any(|p| p.kind == kind && p.device == device && p.end() >= end)
    }

    /// Whether a known memory that `blob` no longer has shares bytes with `memory`.
    fn overlaps(&self, memory: &Memory<'_>, blob: &Blob<'_>) -> bool {
        let end = memory.address + memory.len;
        let before = self.sorted.partition_point(|p| p.address < end);
        self.sorted[..before]
            .iter()
            .rev()
            .take_while(|p| p.address.saturating_add(self.longest) > memory.address)
            .filter(|p| {
                p.kind == memory.kind && p.device == memory.device && p.end() > memory.address
            })
            .any(|p| !blob.memories.iter().any(|m| Place::of(m) == *p))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn memory(address: u64, len: u64, key: &[u8]) -> Memory<'_> {
        Memory { backend: "UCX", kind: 0, device: 0, address, len, key }
    }

    fn blob(memories: Vec<Memory<'_>>) -> Blob<'_> {
        Blob { name: "p", connections: vec![("UCX", b"here")], memories }
    }

    fn loaded(memories: Vec<Memory<'_>>) -> Loaded {
        Loaded::new(Peer::new(PeerId::new("p")), &blob(memories))
    }

    #[test]
    fn the_same_and_subsets_are_known() {
        let known = loaded(vec![memory(100, 10, b"a"), memory(200, 10, b"b")]);
        assert_eq!(known.change(&blob(vec![memory(200, 10, b"b")])), Change::Known);
        assert_eq!(known.change(&blob(vec![])), Change::Known);
    }

    #[test]
    fn new_memory_is_merged() {
        let known = loaded(vec![memory(100, 10, b"a")]);
        let both = blob(vec![memory(100, 10, b"a"), memory(110, 10, b"b")]);
        assert_eq!(known.change(&both), Change::Merge);
    }

    #[test]
    fn a_changed_key_needs_a_fresh_start() {
        let known = loaded(vec![memory(100, 10, b"a")]);
        assert_eq!(known.change(&blob(vec![memory(100, 10, b"z")])), Change::Replace);
    }

    #[test]
    fn a_withdrawn_memory_under_a_new_one_needs_a_fresh_start() {
        let known = loaded(vec![memory(100, 10, b"a")]);
        assert_eq!(known.change(&blob(vec![memory(105, 2, b"b")])), Change::Replace);
        // Still offered: the peer registered overlapping memories, which is its right.
        let both = blob(vec![memory(100, 10, b"a"), memory(105, 2, b"b")]);
        assert_eq!(known.change(&both), Change::Merge);
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
        let many = (1..=2000).map(|i| memory(i * 100, 10, b"a")).collect();
        let known = loaded(many);
        assert_eq!(known.change(&blob(vec![memory(100, 10, b"a")])), Change::Replace);
    }

    proptest! {
        #[test]
        fn covered_means_inside_one_registration(
            places in proptest::collection::vec((1u64..200, 1u64..60), 0..12),
            address in 1u64..260, len in 1u64..40,
        ) {
            let known = loaded(places.iter().map(|(a, l)| memory(*a, *l, b"k")).collect());
            let expected = places.iter().any(|(a, l)| *a <= address && address + len <= a + l);
            prop_assert_eq!(known.covers(0, 0, address, len), expected);
            prop_assert!(!known.covers(1, 0, address, len));
            prop_assert!(!known.covers(0, 1, address, len));
        }
    }
}
