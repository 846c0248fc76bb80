//! Exact percentiles of what was measured.

use std::ops::Deref;

/// Nanoseconds, one per iteration.
#[derive(Clone, Debug, Default)]
pub(crate) struct Samples(Vec<u64>);

/// The figures of a row, in nanoseconds.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Percentiles {
    pub(crate) p50: u64,
    pub(crate) p90: u64,
    pub(crate) p99: u64,
    pub(crate) p999: u64,
    pub(crate) max: u64,
}

impl Samples {
    pub(crate) fn push(&mut self, nanos: u64) {
        self.0.push(nanos);
    }

    /// `None` without samples.
    pub(crate) fn percentiles(&self) -> Option<Percentiles> {
        let mut sorted = self.0.clone();
        sorted.sort_unstable();
        let max = *sorted.last()?;
        let at = |per_mille| sorted[rank(sorted.len(), per_mille)];
        Some(Percentiles { p50: at(500), p90: at(900), p99: at(990), p999: at(999), max })
    }
}

impl Deref for Samples {
    type Target = [u64];

    fn deref(&self) -> &[u64] {
        &self.0
    }
}

/// Nearest rank: the smallest sample that at least this share of all does not exceed.
fn rank(count: usize, per_mille: usize) -> usize {
    (count * per_mille).div_ceil(1000).saturating_sub(1)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn of(values: impl IntoIterator<Item = u64>) -> Option<Percentiles> {
        Samples(values.into_iter().collect()).percentiles()
    }

    #[test]
    fn a_thousand_numbers() {
        let expected = Percentiles { p50: 500, p90: 900, p99: 990, p999: 999, max: 1000 };
        assert_eq!(of((1..=1000).rev()), Some(expected));
    }

    #[test]
    fn one_sample_is_all_of_them_and_none_is_none() {
        assert_eq!(of([7]), Some(Percentiles { p50: 7, p90: 7, p99: 7, p999: 7, max: 7 }));
        assert_eq!(of([]), None);
    }

    proptest! {
        #[test]
        fn at_least_their_share_is_at_or_below(values in proptest::collection::vec(0u64..50, 1..200)) {
            let p = of(values.clone()).unwrap();
            let share = |limit| values.iter().filter(|v| **v <= limit).count() * 1000;
            for (limit, per_mille) in [(p.p50, 500), (p.p90, 900), (p.p99, 990), (p.p999, 999), (p.max, 1000)] {
                prop_assert!(share(limit) >= per_mille * values.len());
                prop_assert!(values.contains(&limit));
            }
        }
    }
}
