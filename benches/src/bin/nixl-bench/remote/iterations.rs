//! Iterations of each engine.

use crate::cases::Effort;

/// Up to this, the data of every iteration is checked; above, that of the first, the middle and the last. Checking takes
/// many times as long as moving.
const CHECK_ALL: usize = 64 << 20;
const CHECK_ALL_QUICKLY: usize = 1 << 20;

/// Where one engine is. How often it goes on depends on how long it takes, so that slow engines do not eat the time of the
/// others.
#[derive(Clone, Debug)]
pub(crate) struct Iterations {
    effort: Effort,
    bytes: usize,
    next: usize,
    end: usize,
}

impl Iterations {
    pub(crate) fn new(effort: Effort, bytes: usize) -> Self {
        let warm_up = Self::warm_up(bytes);
        Self { effort, bytes, next: 0, end: warm_up + Self::least(bytes) }
    }

    pub(crate) fn is_over(&self) -> bool {
        self.next >= self.end
    }

    /// Whether the next is timed.
    pub(crate) fn is_timed(&self) -> bool {
        self.next >= Self::warm_up(self.bytes)
    }

    /// Whether the data of the next is checked.
    pub(crate) fn is_checked(&self) -> bool {
        let first = Self::warm_up(self.bytes);
        let middle = first + (self.end - first) / 2;
        self.bytes <= Self::check_all(self.effort)
            || [0, first, middle, self.end - 1].contains(&self.next)
    }

    /// Counts one that took so long, with all that it needs before and after.
    pub(crate) fn count(&mut self, took_ns: u64) {
        let warm_up = Self::warm_up(self.bytes);
        self.next += 1;
        if self.next == warm_up {
            let fitting = self.budget_ns() / took_ns.max(1);
            let fitting = usize::try_from(fitting).unwrap_or(usize::MAX);
            self.end = warm_up + fitting.clamp(Self::least(self.bytes), self.most());
        }
    }

    fn check_all(effort: Effort) -> usize {
        match effort {
            Effort::Quick => CHECK_ALL_QUICKLY,
            Effort::Full => CHECK_ALL,
        }
    }

    /// The first brings the two sides together; more bring caches and clocks up.
    fn warm_up(bytes: usize) -> usize {
        match bytes {
            0..=65_536 => 10,
            65_537..=1_048_576 => 4,
            _ => 2,
        }
    }

    fn least(bytes: usize) -> usize {
        match bytes {
            0..=16_777_216 => 10,
            16_777_217..=100_000_000 => 4,
            _ => 3,
        }
    }

    fn most(&self) -> usize {
        match self.bytes {
            0..=65_536 => self.effort.pick(100, 1000),
            65_537..=16_777_216 => self.effort.pick(30, 200),
            16_777_217..=100_000_000 => self.effort.pick(8, 40),
            _ => self.effort.pick(4, 15),
        }
    }

    /// The time that one engine may take for one size.
    fn budget_ns(&self) -> u64 {
        match self.effort {
            Effort::Quick => 120_000_000,
            Effort::Full => 400_000_000,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn every_engine_ends_and_the_first_the_middle_and_the_last_are_checked(
            bytes in 1usize..1 << 29,
            full: bool,
            took in 1u64..1_000_000_000,
        ) {
            let effort = if full { Effort::Full } else { Effort::Quick };
            let mut iterations = Iterations::new(effort, bytes);
            let (mut timed, mut checked) = (0, Vec::new());
            while !iterations.is_over() {
                if iterations.is_timed() {
                    checked.push(iterations.is_checked());
                    timed += 1;
                } else if checked.is_empty() && iterations.next == 0 {
                    prop_assert!(iterations.is_checked());
                }
                iterations.count(took);
            }
            prop_assert!((Iterations::least(bytes)..=iterations.most()).contains(&timed));
            prop_assert!(checked[0] && checked[timed / 2] && checked[timed - 1]);
            prop_assert!(bytes > Iterations::check_all(effort) || checked.iter().all(|checked| *checked));
        }
    }

    #[test]
    fn who_is_slow_goes_on_less_often() {
        let timed = |took| {
            let mut iterations = Iterations::new(Effort::Quick, 64 << 20);
            while !iterations.is_over() {
                iterations.count(took);
            }
            iterations.next
        };
        assert!(timed(500_000_000) < timed(1_000_000));
    }
}
