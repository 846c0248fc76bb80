//! The pace of hostile inputs.

use std::env;
use std::thread;
use std::time::{Duration, Instant};

/// Inputs of an attacker, evenly over time.
pub(crate) struct Pace {
    next: Instant,
    between: Duration,
}

impl Pace {
    /// Inputs a second; 0 for as many as possible.
    const RATE: &str = "NIXL_TEST_HOSTILE_RATE";
    /// What one client on a network sends without a stop, and leaves the machine time for the honest ones.
    const USUAL: u32 = 2000;

    pub(crate) fn rate() -> u32 {
        env::var(Self::RATE).ok().and_then(|rate| rate.parse().ok()).unwrap_or(Self::USUAL)
    }

    pub(crate) fn new() -> Self {
        let between = Duration::from_secs(1).checked_div(Self::rate()).unwrap_or_default();
        Self { next: Instant::now(), between }
    }

    /// Waits for the next input's turn. What was late is not made up for.
    pub(crate) fn wait(&mut self) {
        let now = Instant::now();
        thread::sleep(self.next.saturating_duration_since(now));
        self.next = self.next.max(now) + self.between;
    }
}
