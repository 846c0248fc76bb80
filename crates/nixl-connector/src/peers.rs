//! The peers of a connection, and their loaded metadata.

use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use nixl_device::ExitWatch;
use nixl_metadata::{AgentMetadata, SerializedDescriptor};
use nixl_ops::{Connected, GaugeShare, PeerId};

use crate::loaded_part::LoadedPart;

/// One entry for each peer. The compressed metadata is the key: a hit neither inflates nor loads.
#[derive(Debug)]
pub(crate) struct PeerTable {
    state: Mutex<State>,
    capacity: usize,
}

#[derive(Debug, Default)]
struct State {
    peers: HashMap<PeerId, Entry>,
    by_metadata: HashMap<AgentMetadata, Loaded>,
    /// Evicted peers that the engine still knows.
    unused: Vec<PeerId>,
    tick: u64,
}

#[derive(Debug)]
struct Loaded {
    peer: PeerId,
    used: Arc<AtomicU64>,
    /// The loaded part, if not all was: that of the offers.
    part: Option<LoadedPart>,
}

#[derive(Debug, Default)]
struct Entry {
    /// The latest, oldest first.
    metadata: VecDeque<AgentMetadata>,
    used: Arc<AtomicU64>,
    /// The watch over a peer on this host.
    exit: Option<ExitWatch>,
    _gauge: PeerGauge,
}

#[derive(Debug)]
#[expect(dead_code, reason = "only its drop matters")]
struct PeerGauge(GaugeShare);

impl Default for PeerGauge {
    fn default() -> Self {
        Self(GaugeShare::new("nixl_peers", 1))
    }
}

impl PeerTable {
    /// Bound on the kept metadata of one peer, such as an offer of each of its slabs.
    const METADATA: usize = 16;

    /// Makes a cache of at most so many peers; the least recently used makes room.
    pub(crate) fn new(capacity: usize) -> Self {
        Self { state: Mutex::default(), capacity }
    }

    /// The peer of this metadata, if all of it was loaded, or the part with the needed memory. Memory that the engine knows at
    /// these addresses is not enough: it may be from earlier metadata, with a withdrawn key.
    pub(crate) fn get(
        &self,
        metadata: &AgentMetadata,
        needed: Option<&[SerializedDescriptor]>,
    ) -> Option<PeerId> {
        let mut state = self.lock();
        state.tick += 1;
        let loaded = state.by_metadata.get(metadata)?;
        loaded.used.store(state.tick, Ordering::Relaxed);
        let is_loaded = match (&loaded.part, needed) {
            (None, _) => true,
            (Some(part), Some(needed)) => needed.iter().all(|range| part.covers(range)),
            (Some(_), None) => false,
        };
        is_loaded.then(|| loaded.peer.clone())
    }

    /// Records the loaded part. Returns whether the peer is new here.
    pub(crate) fn insert(&self, metadata: AgentMetadata, connected: &Connected) -> bool {
        let mut state = self.lock();
        let peer = connected.peer();
        if connected.superseded() {
            state.forget_metadata(peer);
        }
        let known = state.by_metadata.remove(&metadata);
        let part = match (known.map(|loaded| loaded.part), connected.part()) {
            (Some(None), _) | (_, None) => None,
            (known, Some(part)) => Some(known.flatten().unwrap_or_default().with(part)),
        };
        let is_new = !state.peers.contains_key(peer);
        let used = Arc::clone(&state.touch(peer).used);
        state.by_metadata.insert(metadata.clone(), Loaded { peer: peer.clone(), used, part });
        let entry = state.touch(peer);
        if !entry.metadata.contains(&metadata) {
            entry.metadata.push_back(metadata);
        }
        if entry.metadata.len() > Self::METADATA
            && let Some(oldest) = entry.metadata.pop_front()
        {
            state.by_metadata.remove(&oldest);
        }
        state.unused.retain(|unused| unused != peer);
        if state.peers.len() > self.capacity {
            state.evict();
        }
        is_new
    }

    /// Keeps the watch over a peer's process while the peer is in the table.
    pub(crate) fn watch(&self, peer: &PeerId, exit: ExitWatch) {
        if let Some(entry) = self.lock().peers.get_mut(peer) {
            entry.exit = Some(exit);
        }
    }

    /// Takes the evicted peers, which the engine may forget.
    pub(crate) fn take_unused(&self) -> Vec<PeerId> {
        std::mem::take(&mut self.lock().unused)
    }

    /// Forgets a peer. Returns whether it was known.
    pub(crate) fn remove(&self, peer: &PeerId) -> bool {
        let mut state = self.lock();
        state.forget_metadata(peer);
        // The watch is dropped outside the lock.
        let removed = state.peers.remove(peer);
        drop(state);
        removed.is_some()
    }

    pub(crate) fn knows(&self, peer: &PeerId) -> bool {
        self.lock().peers.contains_key(peer)
    }

    pub(crate) fn all(&self) -> Vec<PeerId> {
        self.lock().peers.keys().cloned().collect()
    }

    /// The known peers.
    pub(crate) fn len(&self) -> usize {
        self.lock().peers.len()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn touch(&mut self, peer: &PeerId) -> &mut Entry {
        self.tick += 1;
        let entry = self.peers.entry(peer.clone()).or_default();
        entry.used.store(self.tick, Ordering::Relaxed);
        entry
    }

    fn forget_metadata(&mut self, peer: &PeerId) {
        if let Some(entry) = self.peers.get_mut(peer) {
            for metadata in entry.metadata.drain(..) {
                self.by_metadata.remove(&metadata);
            }
        }
    }

    /// A scan: a connect, which costs a thousand times as much, makes one.
    fn evict(&mut self) {
        let oldest = self.peers.iter().min_by_key(|(_, entry)| entry.used.load(Ordering::Relaxed));
        let Some(oldest) = oldest.map(|(peer, _)| peer.clone()) else { return };
        self.forget_metadata(&oldest);
        self.peers.remove(&oldest);
        self.unused.push(oldest);
    }
}

#[cfg(test)]
mod tests {
    use std::ops::Range;

    use nixl_device::Device;
    use proptest::prelude::*;

    use super::*;

    fn metadata(text: &str) -> AgentMetadata {
        AgentMetadata::compress(text.as_bytes()).unwrap()
    }

    fn to(name: &str) -> Connected {
        Connected::to(PeerId::new(name))
    }

    #[test]
    fn the_least_recently_used_makes_room() {
        let table = PeerTable::new(2);
        assert!(table.insert(metadata("a"), &to("a")));
        assert!(table.insert(metadata("b"), &to("b")));
        assert!(table.get(&metadata("a"), None).is_some());
        assert!(table.insert(metadata("c"), &to("c")));
        assert_eq!(table.take_unused(), vec![PeerId::new("b")]);
        assert_eq!(table.take_unused(), vec![]);
        assert_eq!(table.get(&metadata("b"), None), None);
        assert_eq!(table.len(), 2);
    }

    #[test]
    fn a_peer_that_is_met_again_is_not_unused() {
        let table = PeerTable::new(1);
        table.insert(metadata("a"), &to("a"));
        table.insert(metadata("b"), &to("b"));
        table.insert(metadata("a"), &to("a"));
        assert_eq!(table.take_unused(), vec![PeerId::new("b")]);
    }

    #[test]
    fn superseding_voids_what_was_loaded_before() {
        let table = PeerTable::new(8);
        table.insert(metadata("a1"), &to("a"));
        table.insert(metadata("b"), &to("b"));
        table.insert(metadata("a2"), &to("a").superseding());
        assert_eq!(table.get(&metadata("a1"), None), None);
        assert!(table.get(&metadata("b"), None).is_some());
        assert!(table.remove(&PeerId::new("a")));
        assert!(!table.remove(&PeerId::new("a")));
        assert_eq!(table.len(), 1);
    }

    #[test]
    fn what_was_loaded_in_part_is_not_taken_for_the_whole() {
        let table = PeerTable::new(2);
        let range = |ptr, size| SerializedDescriptor::new(Device::HOST, ptr, size).unwrap();
        let part = |start, end| Vec::from([Range { start, end }]);
        let (first, second) = ([range(100, 10)], [range(205, 5)]);
        let is_loaded = |needed| table.get(&metadata("a"), needed).is_some();
        let loaded = || [Some(&first[..]), Some(&second[..]), None].map(is_loaded);
        table.insert(metadata("a"), &to("a").in_part(part(100, 110)));
        assert_eq!(loaded(), [true, false, false]);
        table.insert(metadata("a"), &to("a").in_part(part(200, 210)));
        assert_eq!(loaded(), [true, true, false], "the parts add up");
        table.insert(metadata("b"), &to("a").in_part(part(100, 110)));
        table.insert(metadata("a"), &to("a"));
        assert_eq!(loaded(), [true; 3]);
        table.insert(metadata("a"), &to("a").in_part(part(100, 110)));
        assert_eq!(loaded(), [true; 3], "what was loaded stays so");
        table.insert(metadata("a"), &to("a").superseding().in_part(part(200, 210)));
        assert_eq!(loaded(), [false, true, false]);
        assert!(table.get(&metadata("b"), Some(&first)).is_none(), "it was superseded");
    }

    proptest! {
        #[test]
        fn what_is_found_was_inserted_last_for_its_peer(
            uses in proptest::collection::vec((0u8..5, 0u8..40, any::<bool>()), 0..200),
        ) {
            let table = PeerTable::new(3);
            for (peer, data, superseding) in uses {
                let text = format!("{peer} {data}");
                let connected = to(&peer.to_string());
                let connected = if superseding { connected.superseding() } else { connected };
                table.insert(metadata(&text), &connected);
                prop_assert_eq!(table.get(&metadata(&text), None), Some(connected.into_peer()));
                let state = table.lock();
                prop_assert!(state.peers.len() <= 3);
                let kept: usize = state.peers.values().map(|entry| entry.metadata.len()).sum();
                prop_assert_eq!(kept, state.by_metadata.len());
                prop_assert!(state.peers.values().all(|e| e.metadata.len() <= PeerTable::METADATA));
            }
        }
    }
}
