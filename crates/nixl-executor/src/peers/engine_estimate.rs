//! The engine's own estimate of the connection to a peer.

use std::time::Duration;

use crate::facts::Engine;

/// The engine's estimate of the connection to one peer, requested once. It corrects the inferred medium: UCX falls back to
/// sockets silently.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct EngineEstimate {
    /// Whether the estimate is no better than sockets. `None` without an estimate.
    by_sockets: Option<bool>,
    /// The number of requests without an answer.
    silent: u32,
}

impl EngineEstimate {
    /// Transfers with descriptors of this length show the bandwidth: shorter ones are mostly latency.
    pub(crate) const FROM_BYTES: u64 = 64 * 1024;
    /// Requests without an answer after which an engine is not queried again.
    const MAX_SILENT: u32 = 4;
    /// Lower estimates mean sockets, in GB/s. UCX 1.22 estimates 0.0125 for sockets inside a machine and 11.7 for its shared
    /// memory, for any size; sockets over fast network cards may be above.
    const SOCKETS_BELOW: f64 = 1.0;

    /// Whether a transfer of so many bytes in so many descriptors is worth a query of the engine.
    #[must_use]
    pub(crate) fn wants(&self, bytes: u64, descriptors: usize) -> bool {
        Self::tells(bytes, descriptors)
            && self.by_sockets.is_none()
            && self.silent < Self::MAX_SILENT
    }

    /// Whether a transfer of so many bytes in so many descriptors shows the bandwidth.
    pub(crate) fn tells(bytes: u64, descriptors: usize) -> bool {
        bytes / (descriptors.max(1) as u64) >= Self::FROM_BYTES
    }

    /// Records the engine's answer for so many bytes, if any.
    pub(crate) fn note(&mut self, bytes: u64, expected: Option<Duration>) {
        match expected {
            Some(expected) => {
                let gbps = bytes as f64 / expected.as_secs_f64().max(1e-9) / 1e9;
                self.by_sockets = Some(gbps < Self::SOCKETS_BELOW);
            }
            None => self.silent += 1,
        }
    }

    /// The engine, with its estimate of the connection to this peer.
    #[must_use]
    pub(crate) fn refine(&self, engine: Engine) -> Engine {
        match (engine, self.by_sockets) {
            (Engine::Ucx, Some(true)) => Engine::UcxBySockets,
            _ => engine,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_engine_that_expects_little_goes_by_sockets() {
        let [mut a, mut b, mut c] = [EngineEstimate::default(); 3];
        assert!(!a.wants(4096, 1) && a.wants(1 << 20, 1));
        assert!(!a.wants(1 << 20, 100), "that would tell the latency");
        assert_eq!(a.refine(Engine::Ucx), Engine::Ucx);
        // What NIXL 1.5.1 said on one machine, over TCP and over CMA.
        a.note(1 << 20, Some(Duration::from_micros(83_948)));
        b.note(1 << 20, Some(Duration::from_micros(89)));
        c.note(100_003, Some(Duration::ZERO));
        assert_eq!(a.refine(Engine::Ucx), Engine::UcxBySockets);
        assert_eq!((b.refine(Engine::Ucx), c.refine(Engine::Ucx)), (Engine::Ucx, Engine::Ucx));
        assert_eq!(a.refine(Engine::Other), Engine::Other);
        assert!(!a.wants(1 << 20, 1) && !b.wants(1 << 20, 1));
    }

    #[test]
    fn an_engine_that_does_not_say_is_not_asked_for_ever() {
        let mut estimate = EngineEstimate::default();
        for _ in 0..EngineEstimate::MAX_SILENT {
            assert!(estimate.wants(1 << 20, 1));
            estimate.note(1 << 20, None);
        }
        assert!(!estimate.wants(1 << 20, 1));
        assert_eq!(estimate.refine(Engine::Ucx), Engine::Ucx);
    }
}
