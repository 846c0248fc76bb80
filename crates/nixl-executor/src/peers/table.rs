//! The table of peers.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard};

use nixl_device::locks::lock;
use nixl_metadata::AgentMetadata;

use super::Peer;

/// The peers of a connection by name, bounded: a new one replaces the least recently used. Methods take a short lock.
#[derive(Debug, Default)]
pub(crate) struct Peers {
    table: Mutex<Table>,
}

#[derive(Debug, Default)]
struct Table {
    peers: HashMap<Box<str>, Entry>,
    uses: u64,
}

#[derive(Debug)]
struct Entry {
    used: u64,
    peer: Arc<Peer>,
}

impl Peers {
    /// Bound on remembered peers.
    const MAX: usize = 1024;

    /// The peer, if known.
    pub(crate) fn get(&self, name: &str) -> Option<Arc<Peer>> {
        self.lock().get(name)
    }

    /// The peer, added if new.
    pub(crate) fn of(&self, name: &str) -> Arc<Peer> {
        let mut table = self.lock();
        if let Some(peer) = table.get(name) {
            return peer;
        }
        let evicted = (table.peers.len() >= Self::MAX).then(|| table.evict());
        let peer = Arc::new(Peer::new(name));
        let entry = Entry { used: table.uses, peer: Arc::clone(&peer) };
        table.peers.insert(name.into(), entry);
        drop(table);
        // Closes the watch of its process, outside the lock.
        drop(evicted);
        peer
    }

    /// Forgets the peer, for example at its end. Running operations keep their state.
    pub(crate) fn forget(&self, name: &str) -> bool {
        let forgotten = self.lock().peers.remove(name);
        forgotten.is_some()
    }

    /// Whether the engine's last connect to the peer used exactly this metadata.
    pub(crate) fn is_connected_with(&self, name: &str, metadata: &AgentMetadata) -> bool {
        self.get(name).is_some_and(|peer| peer.lock().connected_with.as_ref() == Some(metadata))
    }

    /// Records the engine's connect to the peer by this metadata.
    pub(crate) fn note_connected(&self, name: &str, metadata: &AgentMetadata) {
        self.of(name).lock().connected_with = Some(metadata.clone());
    }

    /// Records a failed session: the engine may have dropped the peer or some of its memory.
    pub(crate) fn reconnect(&self, name: &str) {
        if let Some(peer) = self.get(name) {
            peer.lock().connected_with = None;
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.lock().peers.len()
    }

    fn lock(&self) -> MutexGuard<'_, Table> {
        lock(&self.table)
    }
}

impl Table {
    fn get(&mut self, name: &str) -> Option<Arc<Peer>> {
        self.uses += 1;
        let entry = self.peers.get_mut(name)?;
        entry.used = self.uses;
        Some(Arc::clone(&entry.peer))
    }

    fn evict(&mut self) -> Option<Entry> {
        let oldest = self.peers.iter().min_by_key(|(_, entry)| entry.used)?.0.clone();
        self.peers.remove(&oldest)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn metadata(blob: &[u8]) -> AgentMetadata {
        AgentMetadata::compress(blob).unwrap()
    }

    #[test]
    fn a_peer_is_known_by_the_metadata_of_its_last_connect() {
        let peers = Peers::default();
        let (old, new) = (metadata(b"old"), metadata(b"new"));
        assert!(!peers.is_connected_with("a", &old) && peers.len() == 0);
        peers.note_connected("a", &old);
        assert!(peers.is_connected_with("a", &old) && !peers.is_connected_with("a", &new));
        assert!(!peers.is_connected_with("b", &old));
        peers.note_connected("a", &new);
        assert!(peers.is_connected_with("a", &new) && !peers.is_connected_with("a", &old));
        peers.reconnect("a");
        assert!(!peers.is_connected_with("a", &new));
        assert!(peers.forget("a") && !peers.forget("a") && peers.len() == 0);
    }

    #[test]
    fn the_one_used_the_longest_ago_is_forgotten() {
        let peers = Peers::default();
        for peer in 0..Peers::MAX {
            peers.of(&peer.to_string());
        }
        let first = peers.get("0").unwrap();
        peers.of("one more");
        assert!(Arc::ptr_eq(&first, &peers.of("0")));
        assert!(peers.get("1").is_none() && peers.get("2").is_some());
        assert_eq!(peers.len(), Peers::MAX);
    }
}
