//! The spin budget of a thread: the time that polls of unfinished operations may take.

use std::cell::RefCell;
use std::thread::{self, ThreadId};
use std::time::Duration;

/// A spin of an async task on its operation, in one or several parts, between which it yields.
///
/// All spins of a thread share its budget: those that do not see the end of their operation take at most 5 % of any 10 ms.
pub(crate) struct SpinWindow {
    until: Duration,
    /// Requested by the caller: neither split into parts nor counted.
    is_asked_for: bool,
    /// The charge so far, with its thread.
    charged: Option<(ThreadId, Duration)>,
}

impl SpinWindow {
    /// The longest spin of one poll of a future.
    const LONGEST: Duration = Duration::from_micros(50);

    pub(crate) fn until(until: Duration) -> Self {
        Self { until, is_asked_for: false, charged: None }
    }

    /// A spin of the caller's length.
    pub(crate) fn asked_for(until: Duration) -> Self {
        Self { until, is_asked_for: true, charged: None }
    }

    /// The end of this poll's spin. `None` if the spin is over.
    pub(crate) fn next(&self, now: Duration) -> Option<Duration> {
        if self.is_asked_for {
            return Some(self.until).filter(|until| now < *until);
        }
        let left = with(|budget| budget.left(now));
        let until = self.until.min(now.saturating_add(left.min(Self::LONGEST)));
        Some(until).filter(|until| now < *until)
    }

    /// Records a part, begun then, that did not see the end.
    pub(crate) fn missed(&mut self, begun: Duration, now: Duration) {
        if self.is_asked_for {
            return;
        }
        let (here, spent) = (thread::current().id(), now.saturating_sub(begun));
        with(|budget| budget.charge(now, spent));
        let before = self.charged.filter(|(thread, _)| *thread == here);
        self.charged = Some((here, before.map_or(spent, |(_, before)| before + spent)));
    }

    /// Records a spin that saw the end, and refunds its charge.
    pub(crate) fn hit(self, now: Duration) {
        if let Some((thread, spent)) = self.charged
            && thread == thread::current().id()
        {
            with(|budget| budget.refund(now, spent));
        }
    }
}

fn with<R>(f: impl FnOnce(&mut Budget) -> R) -> R {
    thread_local! {
        static BUDGET: RefCell<Budget> = const { RefCell::new(Budget::new()) };
    }
    BUDGET.with_borrow_mut(f)
}

/// A thread's time in spins that saw no end, by millisecond.
#[derive(Debug)]
struct Budget {
    /// The latest millisecond with a charge or a query.
    newest: u64,
    /// Charges of it and of earlier ones, by their number modulo the length: any 10 ms lie within so many whole ones.
    spent: [Duration; Self::SPAN as usize],
}

impl Budget {
    const SPAN: u64 = 11;
    /// The budget less one spin: the last may have begun a millisecond before the one that counts it.
    const MOST: Duration = Duration::from_micros(450);

    const fn new() -> Self {
        Self { newest: 0, spent: [Duration::ZERO; Self::SPAN as usize] }
    }

    fn left(&mut self, now: Duration) -> Duration {
        self.advance(now);
        Self::MOST.saturating_sub(self.spent.iter().sum())
    }

    fn charge(&mut self, now: Duration, spent: Duration) {
        self.advance(now);
        if let Some(place) = self.spent.get_mut((self.newest % Self::SPAN) as usize) {
            *place += spent;
        }
    }

    /// Refunds recent charges, the latest first.
    fn refund(&mut self, now: Duration, mut spent: Duration) {
        self.advance(now);
        for age in 0..Self::SPAN.min(self.newest + 1) {
            let at = ((self.newest - age) % Self::SPAN) as usize;
            if let Some(place) = self.spent.get_mut(at) {
                let back = spent.min(*place);
                *place -= back;
                spent -= back;
            }
        }
    }

    fn advance(&mut self, now: Duration) {
        let now = u64::try_from(now.as_millis()).unwrap_or(u64::MAX);
        match now.checked_sub(self.newest) {
            Some(passed) => {
                for age in 1..=passed.min(Self::SPAN) {
                    if let Some(place) =
                        self.spent.get_mut((self.newest.wrapping_add(age) % Self::SPAN) as usize)
                    {
                        *place = Duration::ZERO;
                    }
                }
            }
            // A different clock, as in simulations.
            None => self.spent = Self::new().spent,
        }
        self.newest = now;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn micros(micros: u64) -> Duration {
        Duration::from_micros(micros)
    }

    proptest! {
        /// Looks of any length, at any times, in parts of which some see the end.
        #[test]
        fn looks_that_miss_take_at_most_a_twentieth_of_any_ten_milliseconds(
            looks in prop::collection::vec((0u64..1_500, 1u64..500, 0usize..12), 1..400),
        ) {
            // A thread of its own has a budget of its own.
            let missed = thread::spawn(move || {
                let (mut now, mut missed) = (Duration::ZERO, Vec::new());
                for (pause, wanted, hit_in) in looks {
                    now += micros(pause);
                    let (mut look, mut parts) = (SpinWindow::until(now + micros(wanted)), Vec::new());
                    while let Some(until) = look.next(now) {
                        assert!(until - now <= SpinWindow::LONGEST);
                        if parts.len() == hit_in {
                            look.hit(now);
                            parts.clear();
                            break;
                        }
                        look.missed(now, until);
                        parts.push((now, until));
                        now = until + micros(3);
                    }
                    missed.append(&mut parts);
                }
                missed
            });
            let missed = missed.join().unwrap();
            for (first, _) in &missed {
                let end = *first + Duration::from_millis(10);
                let within = missed.iter().filter(|(begun, _)| begun >= first && *begun < end);
                let sum: Duration = within.map(|(begun, until)| *until.min(&end) - *begun).sum();
                prop_assert!(sum <= micros(500), "{sum:?} from {first:?} on");
            }
        }
    }

    #[test]
    fn a_thread_without_misses_looks_as_long_as_ever() {
        for round in 0..10_000 {
            let now = micros(round * 60);
            let mut look = SpinWindow::until(now + micros(100));
            assert_eq!(look.next(now), Some(now + SpinWindow::LONGEST), "round {round}");
            look.missed(now, now + SpinWindow::LONGEST);
            look.hit(now + SpinWindow::LONGEST);
        }
    }

    #[test]
    fn what_the_caller_asks_for_is_not_cut_and_not_counted() {
        for round in 0..100 {
            let now = micros(round * 10_000);
            let mut look = SpinWindow::asked_for(now + micros(9_000));
            assert_eq!(look.next(now), Some(now + micros(9_000)));
            look.missed(now, now + micros(9_000));
        }
        let now = micros(1_000_000);
        assert_eq!(SpinWindow::until(now + micros(100)).next(now), Some(now + SpinWindow::LONGEST));
    }

    #[test]
    fn a_clock_that_goes_back_is_another_one() {
        let mut look = SpinWindow::until(micros(u64::MAX));
        for millis in 1..100 {
            look.missed(Duration::ZERO, Duration::from_millis(millis));
        }
        let now = micros(10);
        assert_eq!(SpinWindow::until(now + micros(100)).next(now), Some(now + SpinWindow::LONGEST));
    }
}
