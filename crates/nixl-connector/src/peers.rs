//! Which peers' metadata has been loaded, so that seeing it again costs a look-up.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use nixl_metadata::AgentMetadata;
use nixl_ops::{Connected, PeerId};

/// Metadata that was loaded, by its compressed bytes: a hit costs neither inflating nor loading.
#[derive(Debug)]
pub(crate) struct PeerCache {
    state: Mutex<State>,
    capacity: usize,
}

#[derive(Debug, Default)]
struct State {
    loaded: HashMap<AgentMetadata, Entry>,
    tick: u64,
}

#[derive(Debug)]
struct Entry {
    peer: PeerId,
    used: u64,
}

impl PeerCache {
    pub(crate) fn new(capacity: usize) -> Self {
        Self { state: Mutex::default(), capacity }
    }

    pub(crate) fn get(&self, metadata: &AgentMetadata) -> Option<PeerId> {
        let mut state = self.lock();
        state.tick += 1;
        let tick = state.tick;
        let entry = state.loaded.get_mut(metadata)?;
        entry.used = tick;
        Some(entry.peer.clone())
    }

    /// Notes what was loaded. Returns a peer of which nothing is cached any more, if room had to be made.
    pub(crate) fn insert(&self, metadata: AgentMetadata, connected: &Connected) -> Option<PeerId> {
        let mut state = self.lock();
        if connected.superseded {
            state.loaded.retain(|_, entry| entry.peer != connected.peer);
        }
        state.tick += 1;
        let entry = Entry { peer: connected.peer.clone(), used: state.tick };
        state.loaded.insert(metadata, entry);
        if state.loaded.len() <= self.capacity {
            return None;
        }
        let oldest = state.loaded.iter().min_by_key(|(_, e)| e.used).map(|(m, _)| m.clone())?;
        let evicted = state.loaded.remove(&oldest)?.peer;
        let known = state.loaded.values().any(|entry| entry.peer == evicted);
        (!known).then_some(evicted)
    }

    /// Forgets all metadata of a peer.
    pub(crate) fn remove(&self, peer: &PeerId) {
        self.lock().loaded.retain(|_, entry| entry.peer != *peer);
    }

    /// Distinct peers.
    pub(crate) fn len(&self) -> usize {
        let state = self.lock();
        let mut peers: Vec<_> = state.loaded.values().map(|entry| &entry.peer).collect();
        peers.sort_unstable();
        peers.dedup();
        peers.len()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn metadata(text: &str) -> AgentMetadata {
        AgentMetadata::compress(text.as_bytes()).unwrap()
    }

    fn to(name: &str) -> Connected {
        Connected::to(PeerId::new(name))
    }

    #[test]
    fn the_least_recently_used_makes_room() {
        let cache = PeerCache::new(2);
        assert_eq!(cache.insert(metadata("a"), &to("a")), None);
        assert_eq!(cache.insert(metadata("b"), &to("b")), None);
        assert!(cache.get(&metadata("a")).is_some());
        assert_eq!(cache.insert(metadata("c"), &to("c")), Some(PeerId::new("b")));
        assert_eq!(cache.get(&metadata("b")), None);
        assert_eq!(cache.len(), 2);
    }

    #[test]
    fn a_peer_with_other_metadata_is_not_evicted_as_a_whole() {
        let cache = PeerCache::new(2);
        cache.insert(metadata("a1"), &to("a"));
        cache.insert(metadata("a2"), &to("a"));
        assert_eq!(cache.insert(metadata("b"), &to("b")), None);
        assert_eq!(cache.get(&metadata("a2")), Some(PeerId::new("a")));
    }

    #[test]
    fn superseding_voids_what_was_loaded_before() {
        let cache = PeerCache::new(8);
        cache.insert(metadata("a1"), &to("a"));
        cache.insert(metadata("b"), &to("b"));
        cache.insert(metadata("a2"), &to("a").superseding());
        assert_eq!(cache.get(&metadata("a1")), None);
        assert!(cache.get(&metadata("b")).is_some());
        cache.remove(&PeerId::new("a"));
        assert_eq!(cache.len(), 1);
    }
}
