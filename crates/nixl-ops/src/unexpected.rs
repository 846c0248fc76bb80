//! Unexpected notifications, and the interval of their receipt on an idle connection.

use std::mem;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use metrics::counter;

/// Counts of unexpected notifications since the driver began.
///
/// | metric | kind | of |
/// |---|---|---|
/// | `nixl_unexpected_notifications_total`, `nixl_unexpected_notification_bytes_total` | counter | notifications that ended no operation, and were for nothing under way |
/// | `nixl_unreadable_notifications_total` | counter | notifications, and senders of them, that cannot be read or are more than one look reads |
#[derive(Debug, Default)]
pub(crate) struct Unexpected {
    notifications: AtomicU64,
    bytes: AtomicU64,
    unreadable: AtomicU64,
}

impl Unexpected {
    pub(crate) fn note(&self, bytes: usize) {
        let bytes = bytes as u64;
        self.notifications.fetch_add(1, Ordering::Relaxed);
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
        counter!("nixl_unexpected_notifications_total").increment(1);
        counter!("nixl_unexpected_notification_bytes_total").increment(bytes);
    }

    /// Records the engine's total of unreadable ones.
    pub(crate) fn note_unreadable(&self, so_far: u64) {
        let before = self.unreadable.swap(so_far, Ordering::Relaxed);
        if so_far > before {
            counter!("nixl_unreadable_notifications_total").increment(so_far - before);
        }
    }

    pub(crate) fn notifications(&self) -> u64 {
        self.notifications.load(Ordering::Relaxed)
    }

    pub(crate) fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }

    pub(crate) fn unreadable(&self) -> u64 {
        self.unreadable.load(Ordering::Relaxed)
    }
}

/// The interval of receipt on an idle driver, since engines queue notifications without a bound. It begins with the driver: a
/// stranger that has the port sends without a connection.
#[derive(Debug)]
pub(crate) struct IdleLooks {
    every: Duration,
    /// Notifications that could not be read, at the last look.
    unread: u64,
}

impl IdleLooks {
    const LONGEST: Duration = Duration::from_secs(1);
    const SHORTEST: Duration = Duration::from_millis(10);
    /// Bytes in one receipt after which the next comes sooner.
    const MUCH: u64 = 1 << 16;
    /// Unreadable notifications after which the next poll comes sooner: a flood of names, of which a poll reads a part.
    const MANY: u64 = 1024;

    pub(crate) const fn new() -> Self {
        Self { every: Self::LONGEST, unread: 0 }
    }

    pub(crate) const fn every(&self) -> Duration {
        self.every
    }

    /// Records the bytes of one receipt.
    pub(crate) fn took(&mut self, bytes: u64) {
        self.every = match bytes >= Self::MUCH {
            true => self.sooner(),
            false => (self.every * 2).min(Self::LONGEST),
        };
    }

    /// So many could not be read so far.
    pub(crate) fn missed(&mut self, unread: u64) {
        let before = mem::replace(&mut self.unread, unread);
        if unread.saturating_sub(before) >= Self::MANY {
            self.every = self.sooner();
        }
    }

    fn sooner(&self) -> Duration {
        (self.every / 10).max(Self::SHORTEST)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_is_looked_for_more_often_and_calm_less() {
        let mut looks = IdleLooks::new();
        assert_eq!(looks.every(), IdleLooks::LONGEST);
        for millis in [100, 10, 10] {
            looks.took(1 << 20);
            assert_eq!(looks.every(), Duration::from_millis(millis));
        }
        looks.took(100);
        assert_eq!(looks.every(), Duration::from_millis(20));
        for _ in 0..10 {
            looks.took(0);
        }
        assert_eq!(looks.every(), IdleLooks::LONGEST);
    }

    #[test]
    fn a_flood_of_names_is_looked_for_more_often() {
        let mut looks = IdleLooks::new();
        let mut unread = 7;
        looks.missed(unread);
        assert_eq!(looks.every(), IdleLooks::LONGEST, "a few");
        for millis in [100, 20, 10, 10] {
            looks.took(0);
            unread += IdleLooks::MANY;
            looks.missed(unread);
            assert_eq!(looks.every(), Duration::from_millis(millis));
        }
        looks.missed(unread);
        looks.took(0);
        assert_eq!(looks.every(), Duration::from_millis(20));
    }
}
