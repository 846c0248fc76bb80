//! Sessions of sources that have ended without success, for sinks that missed the last message.

use std::collections::{HashMap, VecDeque};
use std::time::Duration;

use crate::messages::SessionId;

/// The latest of these sessions. Neither engine nor GPU of this side writes for any of them.
#[derive(Debug, Default)]
pub(super) struct StoppedSources {
    peers: HashMap<SessionId, Box<str>>,
    /// In the order in which they ended.
    order: VecDeque<SessionId>,
    last_end: Option<Duration>,
}

impl StoppedSources {
    /// Sessions that are remembered. Sinks of earlier ones get no answer.
    const MOST: usize = 1 << 12;

    pub(super) fn note(&mut self, id: SessionId, peer: &str, now: Duration) {
        self.last_end = Some(now);
        if self.peers.insert(id, peer.into()).is_none() {
            self.order.push_back(id);
        }
        if self.order.len() > Self::MOST
            && let Some(oldest) = self.order.pop_front()
        {
            self.peers.remove(&oldest);
        }
    }

    /// Whether this session with this peer is one of them.
    pub(super) fn has(&self, id: SessionId, peer: &str) -> bool {
        self.peers.get(&id).is_some_and(|known| **known == *peer)
    }

    /// When the last one ended.
    pub(super) fn last_end(&self) -> Option<Duration> {
        self.last_end
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_latest_are_remembered_each_for_its_peer() {
        let mut stopped = StoppedSources::default();
        let ids: Vec<_> = (0..=StoppedSources::MOST).map(|_| SessionId::random()).collect();
        for id in &ids {
            stopped.note(*id, "peer", Duration::ZERO);
        }
        let (oldest, rest) = (ids[0], &ids[1..]);
        assert!(!stopped.has(oldest, "peer"));
        assert!(rest.iter().all(|id| stopped.has(*id, "peer") && !stopped.has(*id, "another")));
    }
}
