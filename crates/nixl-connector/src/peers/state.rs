//! Entries of peers, and the metadata that leads to them.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use nixl_device::ExitWatch;
use nixl_metadata::AgentMetadata;
use nixl_ops::{Connected, GaugeShare, PeerId};

use super::watches::Unwatched;
use crate::loaded_part::LoadedPart;

#[derive(Debug, Default)]
pub(super) struct State {
    pub(super) peers: HashMap<PeerId, Entry>,
    /// The entries of known peers among them.
    pub(super) known: usize,
    pub(super) by_metadata: HashMap<AgentMetadata, Loaded>,
    /// Of processes with which a connection was lost before they ended: one for each.
    pub(super) lost: HashMap<u32, ExitWatch>,
    pub(super) tick: u64,
}

#[derive(Debug)]
pub(super) struct Loaded {
    pub(super) peer: PeerId,
    pub(super) used: Arc<AtomicU64>,
    /// The loaded part, if not all was: that of the offers.
    pub(super) part: Option<LoadedPart>,
}

#[derive(Debug, Default)]
pub(super) struct Entry {
    /// `None` if it was removed.
    pub(super) known: Option<Known>,
    /// It has announced its end. Agents' names are not used twice, so none does so a second time.
    pub(super) leaves: bool,
    /// The time of its removal.
    removed: u64,
}

#[derive(Debug, Default)]
pub(super) struct Known {
    /// The latest, oldest first.
    pub(super) metadata: VecDeque<AgentMetadata>,
    pub(super) used: Arc<AtomicU64>,
    /// The watch over a peer on this host.
    pub(super) exit: Option<ExitWatch>,
    pub(super) unwatched: Option<Unwatched>,
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

impl State {
    /// Bound on the kept metadata of one peer, such as an offer of each of its slabs.
    pub(super) const METADATA: usize = 16;
    /// Busy peers that are passed over at a time, when one has to make room.
    pub(super) const PASSED_OVER: usize = 8;
    /// Bound on removed peers that had announced their end: a multiple of those known at one time.
    pub(super) const LEFT: usize = 4096;

    pub(super) fn insert(&mut self, metadata: AgentMetadata, connected: &Connected) -> bool {
        let peer = connected.peer();
        if connected.superseded() {
            self.forget_metadata(peer);
        }
        let known = self.by_metadata.remove(&metadata);
        let part = match (known.map(|loaded| loaded.part), connected.part()) {
            (Some(None), _) | (_, None) => None,
            (known, Some(part)) => Some(known.flatten().unwrap_or_default().with(part)),
        };
        let is_new = !self.knows(peer);
        let used = Arc::clone(&self.touch(peer).used);
        self.by_metadata.insert(metadata.clone(), Loaded { peer: peer.clone(), used, part });
        let entry = self.touch(peer);
        if !entry.metadata.contains(&metadata) {
            entry.metadata.push_back(metadata);
        }
        if entry.metadata.len() > Self::METADATA
            && let Some(oldest) = entry.metadata.pop_front()
        {
            self.by_metadata.remove(&oldest);
        }
        is_new
    }

    pub(super) fn touch(&mut self, peer: &PeerId) -> &mut Known {
        self.tick += 1;
        let entry = self.peers.entry(peer.clone()).or_default();
        self.known += usize::from(entry.known.is_none());
        let known = entry.known.get_or_insert_default();
        known.used.store(self.tick, Ordering::Relaxed);
        known
    }

    pub(super) fn knows(&self, peer: &PeerId) -> bool {
        self.peers.get(peer).is_some_and(|entry| entry.known.is_some())
    }

    pub(super) fn known_mut(&mut self, peer: &PeerId) -> Option<&mut Known> {
        self.peers.get_mut(peer)?.known.as_mut()
    }

    pub(super) fn all_known(&self) -> impl Iterator<Item = (&PeerId, &Known)> {
        self.peers.iter().filter_map(|(peer, entry)| Some((peer, entry.known.as_ref()?)))
    }

    pub(super) fn forget_metadata(&mut self, peer: &PeerId) {
        let Some(known) = self.peers.get_mut(peer).and_then(|entry| entry.known.as_mut()) else {
            return;
        };
        for metadata in known.metadata.drain(..) {
            self.by_metadata.remove(&metadata);
        }
    }

    /// Leaves of a peer what is to be remembered.
    pub(super) fn remove(&mut self, peer: &PeerId) -> Option<Known> {
        self.forget_metadata(peer);
        let entry = self.peers.get_mut(peer)?;
        let removed = entry.known.take()?;
        self.known -= 1;
        self.tick += 1;
        entry.removed = self.tick;
        if !entry.leaves {
            self.peers.remove(peer);
        }
        if self.peers.len() - self.known > Self::LEFT {
            let left = self.peers.iter().filter(|(_, entry)| entry.known.is_none());
            let first = left.min_by_key(|(_, entry)| entry.removed).map(|(peer, _)| peer.clone());
            first.and_then(|first| self.peers.remove(&first));
        }
        Some(removed)
    }

    /// The least recently used peers, if there are more than `capacity`: as many as are too many, and some more. Not the latest. A
    /// scan: a connect, which costs a thousand times as much, makes one.
    pub(super) fn oldest(&self, capacity: usize) -> Vec<PeerId> {
        let excess = self.known.saturating_sub(capacity);
        if excess == 0 {
            return Vec::new();
        }
        let used = |known: &Known| known.used.load(Ordering::Relaxed);
        let mut peers: Vec<_> = self.all_known().map(|(peer, k)| (used(k), peer)).collect();
        peers.sort_unstable();
        peers.pop();
        peers.truncate(excess + Self::PASSED_OVER);
        peers.into_iter().map(|(_, peer)| peer.clone()).collect()
    }
}
