//! An atomic point in time.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// A time of the clock that several threads set and read, or none.
pub(crate) struct AtomicInstant(AtomicU64);

impl AtomicInstant {
    const NONE: u64 = u64::MAX;

    pub(crate) const fn none() -> Self {
        Self(AtomicU64::new(Self::NONE))
    }

    pub(crate) fn set(&self, time: Option<Duration>) {
        let nanos = time.map_or(Self::NONE, |t| u64::try_from(t.as_nanos()).unwrap_or(Self::NONE));
        self.0.store(nanos, Ordering::SeqCst);
    }

    pub(crate) fn get(&self) -> Option<Duration> {
        let nanos = self.0.load(Ordering::SeqCst);
        (nanos != Self::NONE).then(|| Duration::from_nanos(nanos))
    }
}
