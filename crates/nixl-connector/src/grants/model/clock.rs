//! Real time, which a test moves ahead.

use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use nixl_ops::Clock;

#[derive(Debug)]
pub(super) struct AheadClock {
    began: Instant,
    ahead_millis: AtomicU64,
}

impl AheadClock {
    /// The longest sleep: drivers then see soon how far the clock has come.
    const LONGEST: Duration = Duration::from_micros(500);
    /// The longest between two looks at a request.
    const LOOK: Duration = Duration::from_micros(20);

    pub(super) fn new() -> Self {
        Self { began: Instant::now(), ahead_millis: AtomicU64::new(0) }
    }

    pub(super) fn advance(&self, millis: u64) {
        self.ahead_millis.fetch_add(millis, Ordering::Relaxed);
    }
}

impl Clock for AheadClock {
    fn now(&self) -> Duration {
        self.began.elapsed() + Duration::from_millis(self.ahead_millis.load(Ordering::Relaxed))
    }

    fn park(&self, timeout: Option<Duration>) {
        match timeout {
            None => thread::park(),
            Some(timeout) if timeout > Duration::from_millis(2) => {
                thread::park_timeout(timeout.min(Self::LONGEST));
            }
            Some(timeout) => thread::park_timeout(timeout.min(Self::LOOK)),
        }
    }

    fn unix_time(&self) -> Duration {
        Duration::from_secs(1_700_000_000) + self.now()
    }
}
