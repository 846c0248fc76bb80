//! The record of peers' memory that could not be opened.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard};
use std::time::Duration;

use nixl_device::locks::lock;

/// Memory that could not be opened, with the reason and the time of the next attempt. A failure of one piece of memory does not apply to
/// the others of the same peer.
pub(crate) struct OpenFailures<T> {
    known: Mutex<HashMap<T, Failure>>,
    /// There is none, readable without the lock.
    any: AtomicBool,
}

#[derive(Clone)]
struct Failure {
    reason: String,
    times: u32,
    until: Duration,
}

impl<T: Copy + Eq + Hash> OpenFailures<T> {
    /// Pieces of memory that are remembered.
    const MAX: usize = 1024;
    const FIRST_COOLDOWN: Duration = Duration::from_secs(1);
    const LONGEST_COOLDOWN: Duration = Duration::from_secs(300);

    pub(crate) fn note(&self, memory: T, reason: String, now: Duration) {
        let mut known = self.lock();
        let times = known.get(&memory).map_or(0, |failure| failure.times) + 1;
        if known.len() >= Self::MAX && times == 1 {
            known.retain(|_, failure| now < failure.until);
            if known.len() >= Self::MAX {
                known.clear();
            }
        }
        let cooldown = Self::FIRST_COOLDOWN.saturating_mul(1 << (times - 1).min(16));
        let until = now.saturating_add(cooldown.min(Self::LONGEST_COOLDOWN));
        known.insert(memory, Failure { reason, times, until });
        self.any.store(true, Ordering::Release);
    }

    /// Whether the memory is not tried now.
    pub(crate) fn has(&self, memory: &T, now: Duration) -> bool {
        self.reason(memory, now).is_some()
    }

    /// Why the memory is not tried now.
    pub(crate) fn reason(&self, memory: &T, now: Duration) -> Option<String> {
        if !self.any() {
            return None;
        }
        let known = self.lock();
        let failure = known.get(memory).filter(|failure| now < failure.until)?;
        Some(failure.reason.clone())
    }

    /// It was opened.
    pub(crate) fn forget(&self, memory: &T) {
        if self.any() {
            let mut known = self.lock();
            known.remove(memory);
            self.any.store(!known.is_empty(), Ordering::Release);
        }
    }

    pub(crate) fn any(&self) -> bool {
        self.any.load(Ordering::Acquire)
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<T, Failure>> {
        lock(&self.known)
    }
}

impl<T> Default for OpenFailures<T> {
    fn default() -> Self {
        Self { known: Mutex::default(), any: AtomicBool::new(false) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_refused_is_tried_again_less_and_less_often() {
        let refused = OpenFailures::default();
        let at = Duration::from_secs;
        assert!(!refused.any() && refused.reason(&1, at(0)).is_none());
        refused.note(1, "why".to_owned(), at(10));
        assert_eq!(refused.reason(&1, at(10)).as_deref(), Some("why"));
        assert!(refused.reason(&2, at(10)).is_none() && refused.reason(&1, at(11)).is_none());
        refused.note(1, "why".to_owned(), at(11));
        assert!(refused.reason(&1, at(12)).is_some() && refused.reason(&1, at(13)).is_none());
        for _ in 0..40 {
            refused.note(1, "why".to_owned(), at(13));
        }
        assert!(refused.reason(&1, at(312)).is_some() && refused.reason(&1, at(313)).is_none());
        refused.forget(&1);
        assert!(!refused.any());
    }

    #[test]
    fn no_more_are_remembered_than_there_is_room_for() {
        let refused = OpenFailures::default();
        for memory in 0..3 * OpenFailures::<usize>::MAX {
            refused.note(memory, "why".to_owned(), Duration::ZERO);
            assert!(refused.lock().len() <= OpenFailures::<usize>::MAX);
        }
    }
}
