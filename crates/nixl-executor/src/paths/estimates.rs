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
    by_sockets: Mutex<PeerMap<Option<bool>>>,
}

impl Estimates {
    /// Transfers this long tell the bandwidth: shorter ones are mostly latency.
    pub const FROM_BYTES: u64 = 64 * 1024;
    /// How many peers are remembered.
    pub const MAX_PEERS: usize = 1024;
    /// What is expected to be slower goes by sockets, in GB/s. UCX 1.20 expects 0.0125 of sockets inside a machine and 11.7
    /// of its shared memory, whatever the size; fast network cards, by sockets too, may be above.
    const SOCKETS_BELOW: f64 = 1.0;

    /// Nothing is known.
    #[must_use]
    pub fn new() -> Self {
        Self { by_sockets: Mutex::new(PeerMap::new(Self::MAX_PEERS)) }
    }

    /// Whether the engine should be asked for a transfer of so many bytes.
    #[must_use]
    pub fn wants(&self, peer: &str, bytes: u64) -> bool {
        bytes >= Self::FROM_BYTES && self.known(peer).is_none()
    }

    /// The engine expects so many bytes to take this long.
    pub fn note(&self, peer: &str, bytes: u64, expected: Duration) {
        let gbps = bytes as f64 / expected.as_secs_f64().max(1e-9) / 1e9;
        let by_sockets = gbps < Self::SOCKETS_BELOW;
        self.lock().update(peer, |known| *known = Some(by_sockets));
    }

    /// What is known of the engine, on the way to this peer.
    #[must_use]
    pub fn refine(&self, peer: &str, engine: Engine) -> Engine {
        match (engine, self.known(peer)) {
            (Engine::Ucx, Some(true)) => Engine::UcxBySockets,
            _ => engine,
        }
    }

    fn known(&self, peer: &str) -> Option<bool> {
        self.lock().get(peer).copied().flatten()
    }

    fn lock(&self) -> MutexGuard<'_, PeerMap<Option<bool>>> {
        self.by_sockets.lock().unwrap_or_else(PoisonError::into_inner)
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
        assert!(!estimates.wants("a", 4096) && estimates.wants("a", 1 << 20));
        assert_eq!(estimates.refine("a", Engine::Ucx), Engine::Ucx);
        // What NIXL 1.5.1 said on one machine, over TCP and over CMA.
        estimates.note("a", 1 << 20, Duration::from_micros(83_948));
        estimates.note("b", 1 << 20, Duration::from_micros(89));
        estimates.note("c", 100_003, Duration::ZERO);
        let refined = |peer| estimates.refine(peer, Engine::Ucx);
        assert_eq!(refined("a"), Engine::UcxBySockets);
        assert_eq!((refined("b"), refined("c")), (Engine::Ucx, Engine::Ucx));
        assert_eq!(estimates.refine("a", Engine::Other), Engine::Other);
        assert!(!estimates.wants("a", 1 << 20) && !estimates.wants("b", 1 << 20));
    }
}
