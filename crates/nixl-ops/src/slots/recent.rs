//! A positive check, cached for one millisecond.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use nixl_device::PerProcess;

/// Cache of a positive check. A system call takes longer than the rest of a small copy, and its result may be out of date right
/// afterwards anyway.
///
/// It reads the system's clock: the cached state is the system's, which no simulation has.
#[derive(Debug, Default)]
pub struct RecentCheck(AtomicU64);

impl RecentCheck {
    /// The validity of a positive result.
    pub const TTL: Duration = Duration::from_millis(1);

    /// The check is known to be positive now.
    pub fn confirm(&self) {
        self.0.store(now(), Ordering::Relaxed);
    }

    /// Whether the check was positive within the last [`TTL`](Self::TTL), or is now.
    pub fn get_or(&self, check: impl FnOnce() -> bool) -> bool {
        let now = now();
        let seen = self.0.load(Ordering::Relaxed);
        if seen != 0 && now.saturating_sub(seen) < Self::TTL.as_nanos() as u64 {
            return true;
        }
        let result = check();
        self.0.store(if result { now } else { 0 }, Ordering::Relaxed);
        result
    }
}

/// Nanoseconds, at least 1.
fn now() -> u64 {
    static BEGIN: PerProcess<Instant> = PerProcess::new(Instant::now);
    let passed = BEGIN.get().elapsed();
    u64::try_from(passed.as_nanos()).unwrap_or(u64::MAX).max(1)
}

#[cfg(test)]
mod tests {
    use std::thread::sleep;

    use super::*;

    #[test]
    fn a_positive_check_expires_and_a_negative_one_is_not_kept() {
        let recent = RecentCheck::default();
        assert!(!recent.get_or(|| false));
        assert!(recent.get_or(|| true));
        sleep(2 * RecentCheck::TTL);
        assert!(!recent.get_or(|| false));
        assert!(!recent.get_or(|| false));
    }
}
