//! What the engine expects of the way to each peer.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::Engine;
use super::peer_map::PeerMap;

/// Remembers what an engine that was asked once expects of the way to each peer. It is a hint that corrects what is
/// inferred: UCX falls back to sockets silently. Bounded: the peers that were used the longest ago are forgotten. Methods
/// take a short lock.
#[derive(Debug)]
pub struct Estimates {
    peers: Mutex<PeerMap<Known>>,
}

#[derive(Debug, Default)]
struct Known {
    /// The engine expects no more than of sockets. `None` if it has not said.
    by_sockets: Option<bool>,
    /// How often it was asked in vain.
    silent: u32,
}

impl Estimates {
    /// Transfers whose descriptors are this long tell the bandwidth: shorter ones are mostly latency.
    pub const FROM_BYTES: u64 = 64 * 1024;
    /// An engine that has not answered so often is not asked again.
    const MAX_SILENT: u32 = 4;
    /// How many peers are remembered.
    pub const MAX_PEERS: usize = 1024;
    /// What is expected to be slower goes by sockets, in GB/s. UCX 1.22 expects 0.0125 of sockets inside a machine and 11.7
    /// of its shared memory, whatever the size; fast network cards, by sockets too, may be above.
    const SOCKETS_BELOW: f64 = 1.0;

    /// Nothing is known.
    #[must_use]
    pub fn new() -> Self {
        Self { peers: Mutex::new(PeerMap::new(Self::MAX_PEERS)) }
    }

    /// Whether the engine should be asked for a transfer of so many bytes in so many descriptors.
    #[must_use]
    pub fn wants(&self, peer: &str, bytes: u64, descriptors: usize) -> bool {
        bytes / (descriptors.max(1) as u64) >= Self::FROM_BYTES
            && self
                .lock()
                .get(peer)
                .is_none_or(|known| known.by_sockets.is_none() && known.silent < Self::MAX_SILENT)
    }

    /// The engine was asked for so many bytes, and what it expects, if it said.
    pub fn note(&self, peer: &str, bytes: u64, expected: Option<Duration>) {
        self.lock().update(peer, |known| match expected {
            Some(expected) => {
                let gbps = bytes as f64 / expected.as_secs_f64().max(1e-9) / 1e9;
                known.by_sockets = Some(gbps < Self::SOCKETS_BELOW);
            }
            None => known.silent += 1,
        });
    }

    /// What is known of the engine, on the way to this peer.
    #[must_use]
    pub fn refine(&self, peer: &str, engine: Engine) -> Engine {
        match (engine, self.lock().get(peer)) {
            (Engine::Ucx, Some(Known { by_sockets: Some(true), .. })) => Engine::UcxBySockets,
            _ => engine,
        }
    }

    fn lock(&self) -> MutexGuard<'_, PeerMap<Known>> {
        self.peers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Default for Estimates {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_engine_that_expects_little_goes_by_sockets() {
        let estimates = Estimates::new();
        assert!(!estimates.wants("a", 4096, 1) && estimates.wants("a", 1 << 20, 1));
        assert!(!estimates.wants("a", 1 << 20, 100), "that would tell the latency");
        assert_eq!(estimates.refine("a", Engine::Ucx), Engine::Ucx);
        // What NIXL 1.5.1 said on one machine, over TCP and over CMA.
        estimates.note("a", 1 << 20, Some(Duration::from_micros(83_948)));
        estimates.note("b", 1 << 20, Some(Duration::from_micros(89)));
        estimates.note("c", 100_003, Some(Duration::ZERO));
        let refined = |peer| estimates.refine(peer, Engine::Ucx);
        assert_eq!(refined("a"), Engine::UcxBySockets);
        assert_eq!((refined("b"), refined("c")), (Engine::Ucx, Engine::Ucx));
        assert_eq!(estimates.refine("a", Engine::Other), Engine::Other);
        assert!(!estimates.wants("a", 1 << 20, 1) && !estimates.wants("b", 1 << 20, 1));
    }

    #[test]
    fn an_engine_that_does_not_say_is_not_asked_for_ever() {
        let estimates = Estimates::new();
        for _ in 0..Estimates::MAX_SILENT {
            assert!(estimates.wants("a", 1 << 20, 1));
            estimates.note("a", 1 << 20, None);
        }
        assert!(!estimates.wants("a", 1 << 20, 1));
        assert_eq!(estimates.refine("a", Engine::Ucx), Engine::Ucx);
    }
}
