//! The peers of a connection, and their loaded metadata.

mod state;
#[cfg(test)]
mod tests;
mod watches;

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard};

use nixl_device::ExitWatch;
use nixl_device::locks::lock;
use nixl_metadata::{AgentMetadata, SerializedDescriptor};
use nixl_ops::{Connected, PeerId, RecentMap};

use self::state::State;

/// One entry for each peer. The compressed metadata is the key: a hit neither inflates nor loads.
///
/// Beyond the capacity the least recently used of the known peers are disconnected and removed. Of a removed peer that has announced its
/// end, only that remains.
#[derive(Debug)]
pub(crate) struct PeerTable {
    state: Mutex<State>,
    capacity: usize,
    /// Whether a peer may wait for another attempt to watch it.
    has_unwatched: AtomicBool,
    /// The watches over peers that have introduced themselves, which the engine alone may know.
    introduced: Mutex<RecentMap<PeerId, ExitWatch>>,
}

impl PeerTable {
    /// Makes a cache of so many peers, and of those above that [cannot make room](Self::make_room).
    pub(crate) fn new(capacity: usize) -> Self {
        let introduced = Mutex::new(RecentMap::new(capacity));
        let has_unwatched = AtomicBool::new(false);
        Self { state: Mutex::default(), capacity, has_unwatched, introduced }
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
        self.lock().insert(metadata, connected)
    }

    /// As [`insert`](Self::insert), unless the peer has been removed meanwhile. Returns whether it is here.
    pub(crate) fn insert_if_known(&self, metadata: AgentMetadata, connected: &Connected) -> bool {
        let mut state = self.lock();
        let is_known = state.knows(connected.peer());
        if is_known {
            state.insert(metadata, connected);
        }
        is_known
    }

    /// Removes the least recently used peers beyond the capacity. `disconnect` returns whether the engine has forgotten the peer; one
    /// that is busy stays, with its watch, and another makes room.
    pub(crate) fn make_room(&self, mut disconnect: impl FnMut(&PeerId) -> bool) {
        let oldest = self.lock().oldest(self.capacity);
        for peer in oldest {
            if self.len() <= self.capacity {
                return;
            }
            if disconnect(&peer) {
                self.remove(&peer);
            }
        }
    }

    /// Forgets a peer. Returns whether it was known.
    pub(crate) fn remove(&self, peer: &PeerId) -> bool {
        let mut state = self.lock();
        // The watch is dropped outside the lock.
        let removed = state.remove(peer);
        drop(state);
        removed.is_some()
    }

    /// A peer announces its end. Returns whether it is known, and this is the first time.
    pub(crate) fn note_leaving(&self, peer: &PeerId) -> bool {
        let mut state = self.lock();
        let entry = state.peers.get_mut(peer).filter(|entry| entry.known.is_some());
        entry.is_some_and(|entry| !std::mem::replace(&mut entry.leaves, true))
    }

    pub(crate) fn all(&self) -> Vec<PeerId> {
        self.lock().all_known().map(|(peer, _)| peer.clone()).collect()
    }

    /// The known peers.
    pub(crate) fn len(&self) -> usize {
        self.lock().known
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }
}
