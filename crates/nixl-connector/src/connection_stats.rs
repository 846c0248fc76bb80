//! Counts of a connection.

use std::ops::Deref;
use std::time::Duration;

use nixl_descriptor::CacheStats;
use nixl_ops::{DriverStats, SpentStats};

/// Counters of a connection: those of its [driver](DriverStats), by dereference, and its own.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct ConnectionStats {
    pub(crate) driver: DriverStats,
    pub(crate) spent: SpentStats,
    pub(crate) registrations: CacheStats,
    pub(crate) peers: usize,
    pub(crate) blocking_calls: usize,
    pub(crate) longest_blocking_call: Duration,
    pub(crate) refused_blocking_calls: u64,
}

impl Deref for ConnectionStats {
    type Target = DriverStats;

    fn deref(&self) -> &DriverStats {
        &self.driver
    }
}

impl ConnectionStats {
    /// The keys that this process has used.
    #[must_use]
    pub fn spent(&self) -> SpentStats {
        self.spent
    }

    /// The registration cache.
    #[must_use]
    pub fn registrations(&self) -> CacheStats {
        self.registrations
    }

    /// Peers with loaded metadata.
    #[must_use]
    pub fn peers(&self) -> usize {
        self.peers
    }

    /// Calls in the queue of the control thread, with the running one.
    #[must_use]
    pub fn blocking_calls(&self) -> usize {
        self.blocking_calls
    }

    /// The longest call so far.
    #[must_use]
    pub fn longest_blocking_call(&self) -> Duration {
        self.longest_blocking_call
    }

    /// Calls for peers that were refused by a full queue. The peers repeat their request.
    #[must_use]
    pub fn refused_blocking_calls(&self) -> u64 {
        self.refused_blocking_calls
    }
}
