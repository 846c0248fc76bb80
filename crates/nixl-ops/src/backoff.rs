//! The back-off between polls: spin, then sleep ever longer, up to a bound.

use std::time::Duration;

/// The driver's waiting strategy while operations are outstanding.
///
/// After the last progress it spins for [`spin`](Self::spin), then sleeps [`first_sleep`](Self::first_sleep). From then on it
/// sleeps a fixed share of the time since the last progress, bounded by [`max_sleep`](Self::max_sleep): an early completion is
/// seen within microseconds, a late one with a delay in proportion to its duration. The default bound of 1.2 ms keeps a wait
/// under 3 % of a core even if one timed wake-up costs 28 us of CPU, as in a virtual machine.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Backoff {
    spin: Duration,
    first_sleep: Duration,
    max_sleep: Duration,
}

impl Default for Backoff {
    fn default() -> Self {
        Self {
            spin: Duration::from_micros(30),
            first_sleep: Duration::from_micros(50),
            max_sleep: Duration::from_micros(1200),
        }
    }
}

impl Backoff {
    /// The part of the time since the last progress that one sleep may take: a sixteenth.
    const SHARE: u32 = 16;

    /// Deadlines and other sleepers wait as long as one sleep, and a spin holds a core.
    const LONGEST: Duration = Duration::from_secs(1);

    /// Spins for this long after the last progress; at most 1 s.
    #[must_use]
    pub fn spin(mut self, spin: Duration) -> Self {
        self.spin = spin.min(Self::LONGEST);
        self
    }

    /// Sleeps this long once it stops spinning.
    #[must_use]
    pub fn first_sleep(mut self, first: Duration) -> Self {
        self.first_sleep = first;
        self
    }

    /// The longest sleep while operations are outstanding; at most 1 s.
    #[must_use]
    pub fn max_sleep(mut self, max: Duration) -> Self {
        self.max_sleep = max.min(Self::LONGEST);
        self
    }

    /// The sleep for a last progress `idle` ago; `None` means no sleep.
    pub fn sleep_after(&self, idle: Duration) -> Option<Duration> {
        if idle < self.spin {
            return None;
        }
        Some((idle / Self::SHARE).max(self.first_sleep).min(self.max_sleep))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn never_longer_than_the_bound_and_never_shorter_for_longer_idleness(a: u32, b: u32) {
            let backoff = Backoff::default();
            let (short, long) = (a.min(b), a.max(b));
            let of = |us: u32| backoff.sleep_after(Duration::from_micros(us.into())).unwrap_or_default();
            prop_assert!(of(short) <= of(long));
            prop_assert!(of(long) <= Backoff::default().max_sleep);
        }
    }

    #[test]
    fn no_setting_sleeps_or_spins_for_longer_than_a_second() {
        let backoff = Backoff::default().spin(Duration::MAX).first_sleep(Duration::MAX);
        assert_eq!(backoff.sleep_after(Duration::from_secs(1)), Some(Duration::from_micros(1200)));
        let backoff = backoff.max_sleep(Duration::MAX);
        assert_eq!(backoff.sleep_after(Duration::from_secs(1)), Some(Duration::from_secs(1)));
    }

    #[test]
    fn spins_first() {
        assert_eq!(Backoff::default().sleep_after(Duration::from_micros(29)), None);
        assert_eq!(
            Backoff::default().sleep_after(Duration::from_micros(30)),
            Some(Duration::from_micros(50))
        );
    }
}
