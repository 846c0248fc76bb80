//! The table of peers.

use std::collections::HashMap;
use std::ptr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, Weak};

use nixl_device::locks::lock;
use nixl_metadata::AgentMetadata;
use nixl_ops::PeerId;

use super::Peer;

/// The peers of a connection by name, bounded: a new one replaces the least recently used. Methods take a short lock.
#[derive(Debug, Default)]
pub(crate) struct Peers {
    by_name: Mutex<HashMap<Box<str>, Arc<Peer>>>,
    /// Counts uses; a peer keeps its value at the last use.
    uses: AtomicU64,
}

/// The entry of a peer, kept with its identifier.
struct Kept {
    of: Weak<Peers>,
    peer: Weak<Peer>,
}

impl Peers {
    /// Bound on remembered peers.
    const MAX: usize = 1024;

    /// The peer, if known.
    pub(crate) fn get(&self, name: &str) -> Option<Arc<Peer>> {
        let peer = self.lock().get(name).cloned()?;
        self.note_use(&peer);
        Some(peer)
    }

    /// The peer, added if new.
    pub(crate) fn of(&self, name: &str) -> Arc<Peer> {
        let mut by_name = self.lock();
        if let Some(peer) = by_name.get(name) {
            self.note_use(peer);
            return Arc::clone(peer);
        }
        let evicted = (by_name.len() >= Self::MAX).then(|| evict(&mut by_name));
        let peer = Arc::new(Peer::new(name));
        self.note_use(&peer);
        by_name.insert(name.into(), Arc::clone(&peer));
        drop(by_name);
        // Closes the watch of its process, outside the lock.
        drop(evicted);
        peer
    }

    /// As [`of`](Self::of), without a lock from the second call on with the identifier of a connect, until the peer is forgotten.
    pub(crate) fn of_id(self: &Arc<Self>, id: &PeerId) -> Arc<Peer> {
        let kept = id.state::<Kept>().filter(|kept| ptr::eq(kept.of.as_ptr(), Arc::as_ptr(self)));
        let known = kept.and_then(|kept| kept.peer.upgrade()).filter(|peer| !peer.is_forgotten());
        if let Some(peer) = known {
            self.note_use(&peer);
            return peer;
        }
        let peer = self.of(id.as_str());
        id.keep_state(Kept { of: Arc::downgrade(self), peer: Arc::downgrade(&peer) });
        peer
    }

    /// Forgets the peer, for example at its end. Running operations keep their state.
    pub(crate) fn forget(&self, name: &str) -> bool {
        let forgotten = self.lock().remove(name);
        forgotten.inspect(|peer| peer.set_forgotten()).is_some()
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
        self.lock().len()
    }

    fn note_use(&self, peer: &Peer) {
        peer.used.store(self.uses.fetch_add(1, Ordering::Relaxed), Ordering::Relaxed);
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Box<str>, Arc<Peer>>> {
        lock(&self.by_name)
    }
}

fn evict(by_name: &mut HashMap<Box<str>, Arc<Peer>>) -> Option<Arc<Peer>> {
    let oldest = by_name.values().min_by_key(|peer| peer.used.load(Ordering::Relaxed))?;
    let oldest = Box::from(oldest.name());
    let evicted: &str = &oldest;
    by_name.remove(evicted).inspect(|peer| peer.set_forgotten())
}

#[cfg(test)]
mod tests {
    use nixl_ops::Connected;

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

    #[test]
    fn the_identifier_of_a_connect_leads_to_its_peer_until_that_is_forgotten() {
        let peers = Arc::<Peers>::default();
        let id = Connected::to(PeerId::new("a")).into_peer();
        let first = peers.of_id(&id);
        assert!(Arc::ptr_eq(&first, &peers.of("a")));
        let others = Arc::<Peers>::default();
        assert!(!Arc::ptr_eq(&first, &others.of_id(&id)), "another connection's");
        {
            // It is found without the lock.
            let _held = peers.lock();
            assert!(Arc::ptr_eq(&first, &peers.of_id(&id)));
        }
        peers.forget("a");
        let second = peers.of_id(&id);
        assert!(!Arc::ptr_eq(&first, &second));
        assert!(Arc::ptr_eq(&second, &peers.of_id(&PeerId::new("a"))));
    }

    #[test]
    fn a_use_without_the_lock_keeps_a_peer() {
        let peers = Arc::<Peers>::default();
        let id = Connected::to(PeerId::new("0")).into_peer();
        let first = peers.of_id(&id);
        (1..Peers::MAX).for_each(|peer| drop(peers.of(&peer.to_string())));
        peers.of_id(&id);
        peers.of("one more");
        assert!(Arc::ptr_eq(&first, &peers.of_id(&id)) && peers.get("1").is_none());
        (0..Peers::MAX).for_each(|peer| drop(peers.of(&format!("other {peer}"))));
        assert!(!Arc::ptr_eq(&first, &peers.of_id(&id)), "it has made room");
    }
}
