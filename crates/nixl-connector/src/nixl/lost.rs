//! A failure to reach a peer.

use std::time::{Duration, Instant};

use super::endpoints::Endpoints;

/// A hash of the details by which a peer was lost, or not reached.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct LostId(pub(super) u64);

/// The last of the failures by some details. UCX may leak a file with each attempt that is refused, so such a peer is not tried often; and
/// NIXL may refuse the name as invalid from then on.
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

    pub(super) fn at(now: Instant, wait: Duration, endpoints: Endpoints) -> Self {
        Self { until: now + wait, wait, endpoints }
    }

    /// Whether it is not to be tried now.
    pub(super) fn is_early(&self) -> bool {
        Instant::now() < self.until
    }

    /// Whether it counts no more.
    pub(super) fn is_past(&self, now: Instant) -> bool {
        now >= self.until + Self::MAX_WAIT
    }

    pub(super) fn until(&self) -> Instant {
        self.until
    }
}
