//! Counts of a connection.

use std::ops::Deref;
use std::time::Duration;

use nixl_descriptor::CacheStats;
use nixl_ops::{DriverStats, SpentStats};

/// Counts of a connection: those of its [driver](DriverStats), to which this dereferences, and its own.
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

    /// Peers whose metadata is loaded.
    #[must_use]
    pub fn peers(&self) -> usize {
        self.peers
    }

    /// Calls that wait for the connection's own thread, with the one under way.
    #[must_use]
    pub fn blocking_calls(&self) -> usize {
        self.blocking_calls
    }

    /// The longest of them so far.
    #[must_use]
    pub fn longest_blocking_call(&self) -> Duration {
        self.longest_blocking_call
    }

    /// Calls that peers' messages asked for and that were refused because too many waited. The peers ask again.
    #[must_use]
    pub fn refused_blocking_calls(&self) -> u64 {
        self.refused_blocking_calls
    }
}
