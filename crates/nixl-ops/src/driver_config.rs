//! Settings of a driver.

use std::time::Duration;

use crate::Backoff;

/// Settings of a driver.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct DriverConfig {
    pub(crate) backoff: Backoff,
    pub(crate) drain: Duration,
    pub(crate) clock_skew: Duration,
    pub(crate) max_in_flight: usize,
    pub(crate) inline_bytes: u64,
    pub(crate) inline_spin: Duration,
}

impl DriverConfig {
    /// The polling intervals while operations are outstanding. Default: [`Backoff::default`]. Shorter sleeps take processor
    /// time.
    #[must_use]
    pub fn backoff(self, backoff: Backoff) -> Self {
        Self { backoff, ..self }
    }

    /// The drain time: the wait for an engine or a peer whose operation has ended. After that an active operation is
    /// [overdue](crate::DriverStats::overdue), and the memory of a passive one stays in quarantine until its peer is proven
    /// quiet. Default: 60 s.
    #[must_use]
    pub fn drain(self, drain: Duration) -> Self {
        Self { drain, ..self }
    }

    /// The bound on the difference between two hosts' clocks, which extends an offer's life time for its owner. Default: 60 s.
    #[must_use]
    pub fn clock_skew(self, clock_skew: Duration) -> Self {
        Self { clock_skew, ..self }
    }

    /// Bound on operations in flight; more are refused with
    /// [`OperationError::QueueFull`](crate::OperationError::QueueFull). Default: 65,536.
    #[must_use]
    pub fn max_in_flight(self, operations: usize) -> Self {
        Self { max_in_flight: operations, ..self }
    }

    /// Transfers up to this many bytes are posted and first polled on the caller's thread, larger ones by the driver, unless
    /// they [post quickly](crate::Execution::posts_quickly): some engines copy inside the post, which occupies the caller's
    /// thread. If such copies take longer than 50 us, the waiter of a transfer posts it, or the driver after a millisecond or
    /// two. Default: 1 MiB.
    #[must_use]
    pub fn inline_bytes(self, bytes: u64) -> Self {
        Self { inline_bytes: bytes, ..self }
    }

    /// The spin of a wait's first poll before it sleeps; its thread does nothing else meanwhile. Default: 50 µs.
    #[must_use]
    pub fn inline_spin(self, spin: Duration) -> Self {
        Self { inline_spin: spin, ..self }
    }

    /// The bound that [`clock_skew`](Self::clock_skew) sets.
    #[must_use]
    pub fn max_clock_skew(&self) -> Duration {
        self.clock_skew
    }
}

impl Default for DriverConfig {
    fn default() -> Self {
        Self {
            backoff: Backoff::default(),
            drain: Duration::from_secs(60),
            clock_skew: Duration::from_secs(60),
            max_in_flight: 65_536,
            inline_bytes: 1024 * 1024,
            inline_spin: Duration::from_micros(50),
        }
    }
}
