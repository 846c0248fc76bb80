//! Peers whose connection broke, or that could not be reached.

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::time::{Duration, Instant};

use super::endpoints::Endpoints;

/// Such peers, by name and connection details: details that lead nowhere, in the name of a peer, are not that peer's.
#[derive(Debug, Default)]
pub(super) struct LostPeers {
    peers: HashMap<LostId, Lost>,
    hasher: RandomState,
}

/// A hash under a key that no peer knows.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub(super) struct LostId(u64);

/// One of them. UCX may leak a file with each attempt that is refused, so such peers are not tried often; and NIXL may refuse the name as
/// invalid from then on.
#[derive(Clone, Debug)]
pub(super) struct Lost {
    /// Not to be tried before.
    until: Instant,
    pub(super) wait: Duration,
    pub(super) endpoints: Endpoints,
}

impl Lost {
    pub(super) const FIRST_WAIT: Duration = Duration::from_secs(1);
    pub(super) const MAX_WAIT: Duration = Duration::from_secs(60);

    /// Whether it is not to be tried now.
    pub(super) fn is_early(&self) -> bool {
        Instant::now() < self.until
    }
}

impl LostPeers {
    pub(super) fn id(&self, name: &str, connections: &[(&str, &[u8])]) -> LostId {
        LostId(self.hasher.hash_one((name, connections)))
    }

    pub(super) fn get(&self, id: LostId) -> Option<Lost> {
        self.peers.get(&id).cloned()
    }

    pub(super) fn remove(&mut self, id: LostId) {
        self.peers.remove(&id);
    }

    pub(super) fn note(&mut self, id: LostId, wait: Duration, endpoints: Endpoints) {
        let now = Instant::now();
        self.peers.retain(|_, lost| now < lost.until + Lost::MAX_WAIT);
        self.peers.insert(id, Lost { until: now + wait, wait, endpoints });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn details_that_lead_nowhere_are_not_held_against_the_peer_of_that_name() {
        let mut lost = LostPeers::default();
        let [there, nowhere] = [&b"there"[..], b"nowhere"].map(|d| lost.id("p", &[("UCX", d)]));
        lost.note(nowhere, Lost::MAX_WAIT, Endpoints::default());
        assert!(lost.get(nowhere).is_some_and(|lost| lost.is_early()));
        assert!(lost.get(there).is_none());
        lost.note(there, Duration::ZERO, Endpoints::default());
        assert!(lost.get(there).is_some_and(|lost| !lost.is_early()));
        lost.remove(nowhere);
        assert!(lost.get(nowhere).is_none() && lost.get(there).is_some());
    }
}
