//! The rule of growth: whether a series of counts grows, in spite of noise.
//!
//! The first quarter of the samples is warm-up. The median of the last quarter is compared with that of the second, so that
//! neither a spike nor a single late sample decides. It grows if the difference is beyond an allowance, of which there are
//! two: a share of what was there, and a number below which a difference is no growth.

use serde::Serialize;

use crate::sample::Metric;

/// The fewest samples that say anything: each quarter has one.
pub(crate) const FEWEST: usize = 4;

/// How much of a metric may come on top between the second and the last quarter.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Allowance {
    /// As it was before.
    pub(crate) number: u64,
    /// Of what was there before, in percent.
    pub(crate) percent: u64,
}

/// What the operations between two samples amount to.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Pace {
    /// Hundreds of operations.
    Operations,
    /// One event: the end of a process, or a partition.
    Events,
}

impl Pace {
    /// The fewest operations of a process that say anything.
    pub(crate) const fn least_operations(self) -> u64 {
        match self {
            Self::Operations => 100,
            Self::Events => 2 * FEWEST as u64,
        }
    }
}

impl Allowance {
    /// What is allowed, and why:
    ///
    /// * resident memory: the largest slab of the buffer pool, of which one more may be made; between events, of which there are few,
    ///   also the slabs of operations that ended late, and as much again that the allocator keeps;
    /// * files and sockets: one connection of UCX's that is made anew has up to four, and may be met while the old one closes;
    /// * threads: one of a runtime's that comes or goes;
    /// * mappings: a library's or a file's that is made at its first use. A process that ends leaves at least one each time that
    ///   it leaks any, so between events a handful is enough;
    /// * anonymous mappings: the allocator's, which come and go with blocks above its threshold and split when one in the middle is
    ///   freed;
    /// * imports: the slabs of a peer's pool, of which there are more while more of its buffers are in use;
    /// * peers: one that is known until it is looked at next.
    pub(crate) const fn of(metric: Metric, pace: Pace) -> Self {
        let (number, percent) = match (metric, pace) {
            (Metric::Rss, Pace::Operations) => (16 << 20, 5),
            (Metric::Rss, Pace::Events) => (64 << 20, 5),
            (Metric::Files | Metric::Sockets, Pace::Operations) => (4, 0),
            (Metric::Files | Metric::Sockets, Pace::Events) => (3, 0),
            (Metric::Mappings, Pace::Operations) => (16, 2),
            (Metric::Mappings, Pace::Events) => (3, 0),
            (Metric::Anonymous, _) => (16, 2),
            (Metric::Threads, _) => (2, 0),
            (Metric::Imports, Pace::Operations) => (32, 0),
            (Metric::Imports, Pace::Events) => (4, 0),
            (Metric::Peers, _) => (1, 0),
        };
        Self { number, percent }
    }

    /// The most there may be where there were so many.
    pub(crate) fn most(self, before: u64) -> u64 {
        before + self.number.max(before / 100 * self.percent)
    }
}

/// How a metric changed between the second and the last quarter.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub(crate) struct Growth {
    /// The median of the second quarter.
    pub(crate) before: u64,
    /// That of the last.
    pub(crate) after: u64,
    /// What of it came in 1,000 operations.
    pub(crate) per_thousand: f64,
    /// It is more than is allowed.
    pub(crate) grows: bool,
}

impl Growth {
    /// Judges a series of operations until then and of what was counted then; none if there are too few.
    pub(crate) fn of(series: &[(u64, u64)], allowance: Allowance) -> Option<Self> {
        if series.len() < FEWEST {
            return None;
        }
        let quarter =
            |number: usize| &series[series.len() * (number - 1) / 4..series.len() * number / 4];
        let (second, last) = (quarter(2), quarter(4));
        let value = |quarter: &[(u64, u64)]| median(quarter.iter().map(|(_, value)| *value));
        let operations = |quarter: &[(u64, u64)]| median(quarter.iter().map(|(done, _)| *done));
        let (before, after) = (value(second), value(last));
        let between = operations(last).saturating_sub(operations(second)).max(1);
        Some(Self {
            before,
            after,
            per_thousand: (after as f64 - before as f64) * 1000.0 / between as f64,
            grows: after > allowance.most(before),
        })
    }
}

fn median(values: impl Iterator<Item = u64>) -> u64 {
    let mut values: Vec<_> = values.collect();
    values.sort_unstable();
    values.get(values.len() / 2).copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bytes::Random;

    const FILES: Allowance = Allowance::of(Metric::Files, Pace::Operations);
    const RSS: Allowance = Allowance::of(Metric::Rss, Pace::Operations);

    /// 32 samples, 100 operations apart.
    fn series(value: impl FnMut(u64) -> u64) -> Vec<(u64, u64)> {
        (1..=32)
            .map(|sample| sample * 100)
            .scan(value, |value, done| Some((done, value(done))))
            .collect()
    }

    fn grows(series: &[(u64, u64)], allowance: Allowance) -> bool {
        Growth::of(series, allowance).unwrap().grows
    }

    #[test]
    fn what_is_flat_with_noise_passes() {
        for seed in 0..1000 {
            let mut random = Random::new(seed);
            assert!(!grows(&series(|_| random.between(48, 53)), FILES), "{seed}");
            let noisy = series(|_| (100 << 20) + random.between(0, 6 << 20));
            assert!(!grows(&noisy, RSS), "{seed}");
        }
    }

    #[test]
    fn spikes_pass() {
        assert!(!grows(&series(|done| if done % 500 == 0 { 500 } else { 50 }), FILES));
        assert!(!grows(&series(|done| if done == 3200 { 500 } else { 50 }), FILES));
    }

    #[test]
    fn a_file_in_fifty_operations_fails() {
        for seed in 0..1000 {
            let mut random = Random::new(seed);
            let leak = series(|done| 50 + done / 50 + random.between(0, 3));
            assert!(grows(&leak, FILES), "{seed}");
        }
        let growth = Growth::of(&series(|done| 50 + done / 50), FILES).unwrap();
        assert!((growth.per_thousand - 20.0).abs() < 0.1, "{growth:?}");
    }

    #[test]
    fn kilobytes_in_each_operation_fail() {
        let leak = series(|done| (40 << 20) + done * 16_384);
        assert!(grows(&leak, RSS));
    }

    #[test]
    fn a_step_at_warm_up_passes_and_a_late_one_fails() {
        let step = |at| series(move |done| if done < at { 50 } else { 90 });
        assert!(!grows(&step(700), FILES));
        assert!(grows(&step(2000), FILES));
    }

    #[test]
    fn what_shrinks_passes() {
        let growth = Growth::of(&series(|done| 1000 - done / 10), FILES).unwrap();
        assert!(!growth.grows && growth.per_thousand < 0.0);
    }

    #[test]
    fn one_of_a_kind_left_by_each_of_ten_events_fails() {
        for metric in [Metric::Files, Metric::Sockets, Metric::Mappings, Metric::Peers] {
            let leak: Vec<_> = (1..=10).map(|event| (event * 30, 100 + event)).collect();
            assert!(grows(&leak, Allowance::of(metric, Pace::Events)), "{metric:?}");
        }
    }

    #[test]
    fn too_few_samples_say_nothing() {
        assert_eq!(Growth::of(&series(|_| 1)[..3], FILES), None);
        assert!(Growth::of(&series(|_| 1)[..4], FILES).is_some());
        assert_eq!(Growth::of(&[], FILES), None);
    }
}
