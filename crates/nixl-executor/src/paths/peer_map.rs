//! Something for each peer, for so many peers at most.

use std::collections::HashMap;

/// Values by the name of a peer. A new one takes the place of the one that was used the longest ago.
#[derive(Debug)]
pub(super) struct PeerMap<T> {
    peers: HashMap<Box<str>, Entry<T>>,
    limit: usize,
    tick: u64,
}

#[derive(Debug)]
struct Entry<T> {
    used: u64,
    value: T,
}

impl<T: Default> PeerMap<T> {
    /// For at most this many peers, at least one.
    pub(super) fn new(limit: usize) -> Self {
        Self { peers: HashMap::new(), limit: limit.max(1), tick: 0 }
    }

    /// What is kept for a peer, which counts as a use.
    pub(super) fn get(&mut self, peer: &str) -> Option<&mut T> {
        self.tick += 1;
        let entry = self.peers.get_mut(peer)?;
        entry.used = self.tick;
        Some(&mut entry.value)
    }

    /// Uses or changes what is kept for a peer, from now on at least. Allocates only for a new one.
    pub(super) fn update<R>(&mut self, peer: &str, change: impl FnOnce(&mut T) -> R) -> R {
        if let Some(value) = self.get(peer) {
            return change(value);
        }
        if self.peers.len() >= self.limit {
            let oldest = self.peers.iter().min_by_key(|(_, entry)| entry.used);
            if let Some(name) = oldest.map(|(name, _)| name.clone()) {
                self.peers.remove(&name);
            }
        }
        let mut value = T::default();
        let result = change(&mut value);
        self.peers.insert(peer.into(), Entry { used: self.tick, value });
        result
    }

    pub(super) fn remove(&mut self, peer: &str) {
        self.peers.remove(peer);
    }
}
