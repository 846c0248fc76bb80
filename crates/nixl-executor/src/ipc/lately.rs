//! What was seen a moment ago, and is not looked at again so soon.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// When something was last seen to be so. Asking the system takes longer than all else that a small copy does, and what is
/// seen may end right afterwards anyway.
#[derive(Default)]
pub(super) struct Lately(AtomicU64);

impl Lately {
    /// How long it counts.
    pub(super) const LONG: Duration = Duration::from_millis(1);

    /// Whether it was seen to be so, lately, or `look` sees it now.
    pub(super) fn or(&self, look: impl FnOnce() -> bool) -> bool {
        let now = now();
        let seen = self.0.load(Ordering::Relaxed);
        if seen != 0 && now.saturating_sub(seen) < Self::LONG.as_nanos() as u64 {
            return true;
        }
        let is_so = look();
        self.0.store(if is_so { now } else { 0 }, Ordering::Relaxed);
        is_so
    }
}

/// Nanoseconds, at least 1.
fn now() -> u64 {
    static BEGIN: OnceLock<Instant> = OnceLock::new();
    let passed = BEGIN.get_or_init(Instant::now).elapsed();
    u64::try_from(passed.as_nanos()).unwrap_or(u64::MAX).max(1)
}

#[cfg(test)]
mod tests {
    use std::thread::sleep;

    use super::*;

    #[test]
    fn it_is_looked_at_again_after_a_while_and_always_if_it_was_not_so() {
        let lately = Lately::default();
        assert!(!lately.or(|| false));
        assert!(lately.or(|| true), "it was not seen so far");
        sleep(2 * Lately::LONG);
        assert!(!lately.or(|| false));
        assert!(!lately.or(|| false));
    }
}
