//! The pauses before a watch or an inbox connects anew.

use std::hash::{BuildHasher as _, RandomState};
use std::time::Duration;

/// The first pause.
const LEAST: Duration = Duration::from_millis(50);

/// The longest pause. A connection that lasts longer begins anew with the first.
const MOST: Duration = Duration::from_secs(2);

/// Pauses that grow while no connection lasts.
pub(crate) struct Backoff(Duration);

impl Backoff {
    pub(crate) const fn new() -> Self {
        Self(LEAST)
    }

    /// The pause after a connection that lasted so long.
    pub(crate) fn after(&mut self, lasted: Duration) -> Duration {
        if lasted > MOST {
            self.0 = LEAST;
        }
        let half = self.0 / 2;
        self.0 = (self.0 * 2).min(MOST);
        // The clients of a server that was down do not come back all at once.
        let random = RandomState::new().hash_one(()) as u32;
        half + half.mul_f64(f64::from(random) / f64::from(u32::MAX))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_until_a_connection_lasts() {
        let mut backoff = Backoff::new();
        let failures: Duration = (0..20).map(|_| backoff.after(Duration::ZERO)).sum();
        // Twenty attempts at the first pause would take a second.
        assert!(failures > MOST * 7 && failures <= MOST * 20, "{failures:?}");
        assert!(backoff.after(MOST * 2) <= LEAST);
    }
}
