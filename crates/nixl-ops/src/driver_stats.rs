//! Counts of a driver.

use crate::Overdue;
use crate::passive::Held;

/// Counters of a driver's operations and offers.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct DriverStats {
    pub(crate) active: usize,
    pub(crate) overdue: Overdue,
    pub(crate) passive: usize,
    pub(crate) quarantined: Held,
    pub(crate) quarantined_without_terms: Held,
    pub(crate) retained: Held,
    pub(crate) second_completions: u64,
    pub(crate) unexpected_notifications: u64,
    pub(crate) unexpected_bytes: u64,
    pub(crate) unreadable_notifications: u64,
}

impl DriverStats {
    /// Active operations whose engine is not quiet, abandoned ones included, overdue ones not.
    #[must_use]
    pub fn active(&self) -> usize {
        self.active
    }

    /// Active operations whose engine was not quiet at the end of their drain time. Their waiters got an error; their memory
    /// comes back once the engine, polled rarely, is quiet, and is leaked only if the driver ends first. They do not count for
    /// [`max_in_flight`](crate::DriverConfig::max_in_flight).
    #[must_use]
    pub fn overdue(&self) -> Overdue {
        self.overdue
    }

    /// Passive operations that a peer may still use, abandoned ones included.
    #[must_use]
    pub fn passive(&self) -> usize {
        self.passive
    }

    /// Writable offers that were given up and that a peer may still be writing. Their memory comes back by the peer's
    /// confirmation or by proof.
    #[must_use]
    pub fn quarantined(&self) -> Held {
        self.quarantined
    }

    /// Those of them without claims and life time, such as offers of Dynamo's profile.
    #[must_use]
    pub fn quarantined_without_terms(&self) -> Held {
        self.quarantined_without_terms
    }

    /// Readable offers that were given up: their memory can be overwritten, and is freed at the end of the life time.
    #[must_use]
    pub fn retained(&self) -> Held {
        self.retained
    }

    /// Completions of offers that had ended: two initiators used one offer, or one used it twice.
    #[must_use]
    pub fn second_completions(&self) -> u64 {
        self.second_completions
    }

    /// Dropped notifications, without an operation or message handler.
    #[must_use]
    pub fn unexpected_notifications(&self) -> u64 {
        self.unexpected_notifications
    }

    /// Their bytes.
    #[must_use]
    pub fn unexpected_bytes(&self) -> u64 {
        self.unexpected_bytes
    }

    /// Notifications whose sender or content [cannot be read](crate::Transport::unreadable_notifications), and senders beyond those
    /// that one look reads.
    #[must_use]
    pub fn unreadable_notifications(&self) -> u64 {
        self.unreadable_notifications
    }
}
