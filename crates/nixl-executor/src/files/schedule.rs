//! The order of a device: which class may have another call in flight.
//!
//! A device has no priorities: calls wait for those that were submitted before. So few bytes are in flight while reads of demand
//! wait or have just been, and many when there are none; the rest waits here, where it can be overtaken and cancelled. No class
//! starves: each that has work keeps a little in flight.

use std::time::Duration;

use super::class::FileClass;

/// Calls and bytes in flight.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(super) struct Load {
    pub(super) calls: usize,
    pub(super) bytes: u64,
}

impl Load {
    fn is_below(self, most: Self) -> bool {
        self.calls < most.calls && self.bytes < most.bytes
    }
}

/// Bounds on what is in flight.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    /// Of a class that has the device to itself.
    deep: Load,
    /// Of everything but demand, while there is demand.
    short: Load,
    /// The time after the last read of demand in which the next one is expected.
    linger: Duration,
}

impl Default for Limits {
    /// Small calls want many in flight and large ones some MiB. Two writes of 512 KiB beside reads of 5 MiB delayed their 90th
    /// percentile by a sixth and still made 0.3 GB/s, where 64 of 1 MiB delayed it sevenfold.
    fn default() -> Self {
        Self {
            deep: Load { calls: 64, bytes: 8 << 20 },
            short: Load { calls: 2, bytes: 1 << 20 },
            linger: Duration::from_millis(20),
        }
    }
}

/// What is in flight on a device, by class.
#[derive(Debug, Default)]
pub(super) struct Schedule {
    limits: Limits,
    in_flight: [Load; FileClass::ALL.len()],
    last_demand: Option<Duration>,
}

impl Schedule {
    /// The class whose next call begins now, of those that have one `waiting`. `None` if all wait.
    pub(super) fn next(
        &self,
        waiting: impl Fn(FileClass) -> bool,
        now: Duration,
    ) -> Option<FileClass> {
        let is_demanded = waiting(FileClass::Demand)
            || self.load(FileClass::Demand).calls > 0
            || self.last_demand.is_some_and(|last| now < last.saturating_add(self.limits.linger));
        FileClass::ALL.into_iter().find(|&class| {
            waiting(class) && self.load(class).is_below(self.bound(class, is_demanded, &waiting))
        })
    }

    /// The bound on what a class has in flight.
    fn bound(
        &self,
        class: FileClass,
        is_demanded: bool,
        waiting: impl Fn(FileClass) -> bool,
    ) -> Load {
        let prefetches = waiting(FileClass::Prefetch) || self.load(FileClass::Prefetch).calls > 0;
        match class {
            FileClass::Demand => self.limits.deep,
            FileClass::Prefetch | FileClass::Write if is_demanded => self.limits.short,
            FileClass::Prefetch => self.limits.deep,
            FileClass::Write if prefetches => self.limits.short,
            FileClass::Write => self.limits.deep,
            // It is never urgent.
            FileClass::Scrub => Load { calls: 1, ..self.limits.short },
        }
    }

    pub(super) fn begun(&mut self, class: FileClass, bytes: u64) {
        let load = &mut self.in_flight[class.index()];
        load.calls += 1;
        load.bytes += bytes;
    }

    pub(super) fn ended(&mut self, class: FileClass, bytes: u64, now: Duration) {
        let load = &mut self.in_flight[class.index()];
        load.calls -= 1;
        load.bytes -= bytes;
        if class == FileClass::Demand {
            self.last_demand = Some(now);
        }
    }

    pub(super) fn load(&self, class: FileClass) -> Load {
        self.in_flight[class.index()]
    }
}

#[cfg(test)]
mod tests {
    use FileClass::{Demand, Prefetch, Scrub, Write};
    use proptest::prelude::*;

    use super::*;

    const CALL: u64 = 512 * 1024;

    /// Begins calls of these classes until none may, and returns how many of each are in flight.
    fn fill(schedule: &mut Schedule, classes: &[FileClass], now: Duration) -> [usize; 4] {
        while let Some(class) = schedule.next(|class| classes.contains(&class), now) {
            schedule.begun(class, CALL);
        }
        FileClass::ALL.map(|class| schedule.load(class).calls)
    }

    #[test]
    fn alone_a_class_fills_the_device() {
        for (class, expected) in [(Demand, 16), (Prefetch, 16), (Write, 16), (Scrub, 1)] {
            let calls = fill(&mut Schedule::default(), &[class], Duration::ZERO);
            assert_eq!(calls[class.index()], expected, "{class}");
        }
    }

    #[test]
    fn beside_demand_the_others_keep_little_in_flight_and_none_starves() {
        let calls = fill(&mut Schedule::default(), &FileClass::ALL, Duration::ZERO);
        assert_eq!(calls, [16, 2, 2, 1]);
    }

    #[test]
    fn writes_are_short_beside_prefetch_and_until_demand_is_over() {
        assert_eq!(
            fill(&mut Schedule::default(), &[Prefetch, Write], Duration::ZERO),
            [0, 16, 2, 0]
        );
        let mut schedule = Schedule::default();
        schedule.begun(Demand, CALL);
        assert_eq!(fill(&mut schedule, &[Write], Duration::ZERO), [1, 0, 2, 0]);
        schedule.ended(Demand, CALL, Duration::from_millis(5));
        assert_eq!(fill(&mut schedule, &[Write], Duration::from_millis(24)), [0, 0, 2, 0]);
        assert_eq!(fill(&mut schedule, &[Write], Duration::from_millis(25)), [0, 0, 16, 0]);
    }

    #[test]
    fn small_calls_are_bounded_by_their_number() {
        let mut schedule = Schedule::default();
        while schedule.next(|class| class == Demand, Duration::ZERO).is_some() {
            schedule.begun(Demand, 4096);
        }
        assert_eq!(schedule.load(Demand).calls, 64);
    }

    proptest! {
        /// What ends was counted, and with work and nothing in flight something begins.
        #[test]
        fn loads_add_up(steps in prop::collection::vec((0..4usize, any::<bool>(), 1..CALL), 1..200)) {
            let (mut schedule, mut begun) = (Schedule::default(), Vec::new());
            for (step, (class, begins, bytes)) in steps.into_iter().enumerate() {
                let now = Duration::from_millis(step as u64);
                let class = FileClass::ALL[class];
                if begins {
                    if let Some(next) = schedule.next(|waiting| waiting == class, now) {
                        prop_assert_eq!(next, class);
                        schedule.begun(class, bytes);
                        begun.push((class, bytes));
                    } else {
                        prop_assert!(schedule.load(class).calls > 0);
                    }
                } else if let Some((class, bytes)) = begun.pop() {
                    schedule.ended(class, bytes, now);
                }
            }
            for (class, bytes) in begun {
                schedule.ended(class, bytes, Duration::ZERO);
            }
            prop_assert!(FileClass::ALL.iter().all(|&class| schedule.load(class) == Load::default()));
        }
    }
}
