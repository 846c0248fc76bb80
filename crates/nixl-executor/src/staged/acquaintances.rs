//! The peers that the engine has met on behalf of sessions, so that only the first session with each waits for that.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use nixl_metadata::AgentMetadata;

/// By name, what each peer was met by last. A hint: an engine may forget a peer, which shows when it is used.
#[derive(Debug, Default)]
pub(super) struct Acquaintances {
    by_name: Mutex<HashMap<Box<str>, AgentMetadata>>,
}

impl Acquaintances {
    /// Peers that are remembered. Beyond that all are forgotten, and met again.
    const MAX: usize = 64;

    /// Whether the peer was met by exactly this.
    pub(super) fn knows(&self, peer: &str, metadata: &AgentMetadata) -> bool {
        self.lock().get(peer) == Some(metadata)
    }

    pub(super) fn remember(&self, peer: &str, metadata: &AgentMetadata) {
        let mut known = self.lock();
        if known.len() >= Self::MAX && !known.contains_key(peer) {
            known.clear();
        }
        known.insert(peer.into(), metadata.clone());
    }

    /// A session with the peer failed: perhaps the engine no longer knows it, or not all its memory.
    pub(super) fn forget(&self, peer: &str) {
        self.lock().remove(peer);
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Box<str>, AgentMetadata>> {
        self.by_name.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn metadata(blob: &[u8]) -> AgentMetadata {
        AgentMetadata::compress(blob).unwrap()
    }

    #[test]
    fn a_peer_is_known_by_what_it_was_last_met_by() {
        let known = Acquaintances::default();
        let (old, new) = (metadata(b"old"), metadata(b"new"));
        assert!(!known.knows("a", &old));
        known.remember("a", &old);
        assert!(known.knows("a", &old) && !known.knows("a", &new) && !known.knows("b", &old));
        known.remember("a", &new);
        assert!(known.knows("a", &new) && !known.knows("a", &old));
        known.forget("a");
        assert!(!known.knows("a", &new));
    }

    #[test]
    fn no_more_are_remembered_than_there_is_room_for() {
        let (known, any) = (Acquaintances::default(), metadata(b"any"));
        for peer in 0..3 * Acquaintances::MAX {
            known.remember(&peer.to_string(), &any);
            assert!(known.lock().len() <= Acquaintances::MAX);
        }
    }
}
