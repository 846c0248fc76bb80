//! Typical durations of operations, by size.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// A running median for each power of two of bytes.
///
/// Each sample moves it by an eighth towards itself, so a few slow ones change little.
#[derive(Debug)]
pub(crate) struct TypicalDurations([AtomicU64; Self::CLASSES]);

impl TypicalDurations {
    const CLASSES: usize = 65;
    const LEAST: u64 = 5_000;
    const MOST: u64 = 1_000_000;
    /// Before the first sample.
    const FIRST: u64 = 100_000;

    pub(crate) fn note(&self, bytes: u64, took: Duration) {
        let Some(median) = self.0.get(class(bytes)) else { return };
        let took = u64::try_from(took.as_nanos()).unwrap_or(u64::MAX);
        let now = median.load(Ordering::Relaxed);
        let step = now / 8;
        let next = if took > now { now + step } else { now - step };
        // Of two concurrent samples one is lost, which changes little.
        median.store(next.clamp(Self::LEAST, Self::MOST), Ordering::Relaxed);
    }

    pub(crate) fn of(&self, bytes: u64) -> Duration {
        let median = self.0.get(class(bytes)).map(|median| median.load(Ordering::Relaxed));
        Duration::from_nanos(median.unwrap_or(Self::FIRST))
    }
}

impl Default for TypicalDurations {
    fn default() -> Self {
        Self(std::array::from_fn(|_| AtomicU64::new(Self::FIRST)))
    }
}

fn class(bytes: u64) -> usize {
    (u64::BITS - bytes.leading_zeros()) as usize
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_quarter_of_slow_operations_does_not_hide_the_fast_ones() {
        let typical = TypicalDurations::default();
        for round in 0..400 {
            let took = if round % 4 == 0 { 3_000 } else { 25 };
            typical.note(4096, Duration::from_micros(took));
        }
        let median = typical.of(4096).as_micros();
        assert!((15..45).contains(&median), "{median}");
        assert_eq!(typical.of(8192), Duration::from_micros(100), "another size");
        for bytes in [0, 1, u64::MAX] {
            typical.note(bytes, Duration::ZERO);
            assert!(typical.of(bytes) < Duration::from_micros(100));
        }
    }
}
