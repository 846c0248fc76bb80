//! Busy time of each hop of a pipeline.

use std::time::Duration;

use nixl_ops::Hop;

/// One leg.
#[derive(Debug)]
pub(super) struct HopTimer {
    name: &'static str,
    /// Chunks on it.
    on: usize,
    since: Duration,
    busy: Duration,
}

impl HopTimer {
    pub(super) fn new(name: &'static str) -> Self {
        Self { name, on: 0, since: Duration::ZERO, busy: Duration::ZERO }
    }

    pub(super) fn enter(&mut self, now: Duration) {
        if self.on == 0 {
            self.since = now;
        }
        self.on += 1;
    }

    pub(super) fn leave(&mut self, now: Duration) {
        self.on = self.on.saturating_sub(1);
        if self.on == 0 {
            self.busy += now.saturating_sub(self.since);
        }
    }

    pub(super) fn hop(&self) -> Hop {
        Hop::new(self.name, self.busy)
    }
}
