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

    /// What is kept for a peer, from now on at least.
    pub(super) fn get_or_new(&mut self, peer: &str) -> &mut T {
        self.tick += 1;
        if !self.peers.contains_key(peer) && self.peers.len() >= self.limit {
            let oldest = self.peers.iter().min_by_key(|(_, entry)| entry.used);
            if let Some(name) = oldest.map(|(name, _)| name.clone()) {
                self.peers.remove(&name);
            }
        }
        let entry =
            self.peers.entry(peer.into()).or_insert_with(|| Entry { used: 0, value: T::default() });
        entry.used = self.tick;
        &mut entry.value
    }

    pub(super) fn remove(&mut self, peer: &str) {
        self.peers.remove(peer);
    }
}
