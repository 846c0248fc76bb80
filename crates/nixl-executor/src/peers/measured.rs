//! Measured times of paths, which correct their estimates.

use std::time::Duration;

use nixl_ops::PathKind;

use crate::planner::{PathHistory, same};

/// Times of one plan's operations: the last two for each kind of path and size class (a power of two of bytes), and the last
/// path. Times are those of one [`Clock`](nixl_ops::Clock).
///
/// * A path is *slow* if its last two operations of a class both took [`FACTOR`](Self::FACTOR) times their estimate or more:
///   its estimate is then multiplied by the smaller ratio. A single slow operation changes nothing.
/// * A path is *fast* if they both took [`FAST`](Self::FAST) of their estimate or less: its estimate is then multiplied by the larger
///   ratio, until an operation takes longer.
/// * A slow path gets its normal estimate back after [`FIRST_RETRY`](Self::FIRST_RETRY), so it is tried again if it is the
///   fastest; the time doubles each time it proves slow again, and is reset once it does not.
/// * Less than [`NOISE`](Self::NOISE) above the estimate does not count: a wait for a processor takes as long.
#[derive(Clone, Debug, Default)]
pub(crate) struct MeasuredPaths {
    records: Vec<Record>,
}

#[derive(Clone, Debug)]
struct Record {
    kind: PathKind,
    class: u32,
    /// Times over estimates, the latest last; one until the second operation.
    ratios: [f64; 2],
    /// The end of the path's slow time, if it is slow.
    slow_until: Option<Duration>,
    /// The number of times in a row that it proved slow.
    times: u32,
    /// Whether it was the last path of its class.
    is_current: bool,
}

impl MeasuredPaths {
    /// The ratio to the estimate at which a path is slow.
    pub(crate) const FACTOR: f64 = 4.0;
    /// The ratio to the estimate at which a path is fast.
    pub(crate) const FAST: f64 = 0.5;
    /// The excess over the estimate that does not count.
    pub(crate) const NOISE: Duration = Duration::from_micros(100);
    /// The first time until a slow path is tried again.
    pub(crate) const FIRST_RETRY: Duration = Duration::from_secs(30);
    /// The longest such time.
    pub(crate) const LONGEST_RETRY: Duration = Duration::from_secs(3600);

    /// No measurements.
    #[must_use]
    pub(crate) fn new() -> Self {
        Self::default()
    }

    /// Records an operation by this path, with its time.
    pub(crate) fn note(
        &mut self,
        kind: PathKind,
        bytes: u64,
        estimate: Duration,
        took: Duration,
        now: Duration,
    ) {
        let class = class(bytes);
        self.note_taken(kind, bytes);
        let Some(record) = self.records.iter_mut().find(|r| r.is(kind, class)) else { return };
        if record.slow_until.is_some_and(|until| now >= until) {
            // It is tried again: earlier measurements do not count.
            (record.slow_until, record.ratios) = (None, [1.0; 2]);
        }
        // Above the estimate the noise does not count; below it there is none to take off.
        let took = took.saturating_sub(Self::NOISE).max(took.min(estimate));
        let ratio = took.as_secs_f64() / estimate.as_secs_f64().max(1e-9);
        record.ratios = [record.ratios[1], ratio];
        if record.ratio() < Self::FACTOR {
            record.slow_until = None;
            if record.ratios.iter().all(|ratio| *ratio < Self::FACTOR) {
                record.times = 0;
            }
        } else if record.slow_until.is_none() {
            record.slow_until = Some(now.saturating_add(retry_after(record.times)));
            record.times = record.times.saturating_add(1);
        }
    }

    /// Records an operation by this path whose time does not count.
    pub(crate) fn note_taken(&mut self, kind: PathKind, bytes: u64) {
        let class = class(bytes);
        if !self.records.iter().any(|r| r.is(kind, class)) {
            self.records.push(Record {
                kind,
                class,
                ratios: [1.0; 2],
                slow_until: None,
                times: 0,
                is_current: false,
            });
        }
        for record in self.records.iter_mut().filter(|r| r.class == class) {
            record.is_current = same(record.kind, kind);
        }
    }

    /// Adds the measurements to the history of an operation of so many bytes.
    pub(crate) fn apply(&self, bytes: u64, now: Duration, history: &mut PathHistory) {
        let class = class(bytes);
        for record in self.records.iter().filter(|r| r.class == class) {
            if record.slow_until.is_some_and(|until| now < until) {
                history.note_slow(record.kind, record.ratio());
            } else if let Some(ratio) = record.fast() {
                history.note_fast(record.kind, ratio);
            }
            if record.is_current {
                history.note_current(record.kind);
            }
        }
    }
}

impl Record {
    fn is(&self, kind: PathKind, class: u32) -> bool {
        self.class == class && same(self.kind, kind)
    }

    /// The larger ratio of the last two operations, if the path is fast.
    fn fast(&self) -> Option<f64> {
        let larger = self.ratios[0].max(self.ratios[1]);
        (larger <= MeasuredPaths::FAST).then_some(larger)
    }

    /// The smaller ratio of the last two operations.
    fn ratio(&self) -> f64 {
        self.ratios[0].min(self.ratios[1])
    }
}

fn class(bytes: u64) -> u32 {
    bytes.max(1).ilog2()
}

/// The slow time of a path that was slow so many times before.
fn retry_after(times: u32) -> Duration {
    let factor = 1u32.checked_shl(times).unwrap_or(u32::MAX);
    MeasuredPaths::FIRST_RETRY.saturating_mul(factor).min(MeasuredPaths::LONGEST_RETRY)
}

#[cfg(test)]
mod tests {
    use nixl_device::Device;
    use nixl_ops::{OperationKind, PathPolicy};
    use proptest::prelude::*;

    use super::*;
    use crate::facts::{Engine, LocalFacts, LocalGpu, OfferFacts, PeerFacts};
    use crate::local::MemoryKind;
    use crate::planner::{PathCosts, PathPlan, PathQuery};

    const KIND: PathKind = PathKind::EngineStaged;
    const BYTES: u64 = 1 << 26;
    const ESTIMATE: Duration = Duration::from_millis(1);

    /// Two paths between the GPUs of two processes: staged through the host by both, and the engine's.
    fn plan() -> PathPlan {
        let here = LocalFacts {
            cuda: Ok(()),
            gpus: vec![LocalGpu::new(0), LocalGpu::new(1)],
            ..LocalFacts::default()
        };
        let mut peer = PeerFacts::unknown();
        (peer.native, peer.staging) = (true, true);
        let memories = (MemoryKind::Gpu(0), Device::cuda(1));
        let (offered, policy) = (OfferFacts::default(), PathPolicy::auto());
        let query = PathQuery::new(OperationKind::Read, memories, Engine::Ucx, offered, policy);
        let plan = PathPlan::new(query, &here, &peer, &PathCosts::default());
        let kinds: Vec<_> = plan.available.iter().map(|path| path.kind).collect();
        assert_eq!(kinds, [PathKind::StagedBothSides, PathKind::EngineStaged], "{plan}");
        plan
    }

    fn slow(measured: &MeasuredPaths, bytes: u64, now: Duration) -> Option<f64> {
        let mut history = PathHistory::new();
        measured.apply(bytes, now, &mut history);
        history.slow(KIND)
    }

    fn note(measured: &mut MeasuredPaths, factor: u32, now: Duration) {
        measured.note(KIND, BYTES, ESTIMATE, ESTIMATE * factor, now);
    }

    #[test]
    fn two_slow_operations_in_a_row_count_and_one_does_not() {
        let (mut measured, now) = (MeasuredPaths::new(), Duration::ZERO);
        for factor in [10, 1, 10, 2, 10, 3] {
            note(&mut measured, factor, now);
            assert_eq!(slow(&measured, BYTES, now), None);
        }
        note(&mut measured, 10, now);
        note(&mut measured, 20, now);
        let factor = slow(&measured, BYTES, now).unwrap();
        assert!((9.8..10.0).contains(&factor), "{factor}");
        // Of other sizes nothing is known.
        assert_eq!(slow(&measured, BYTES / 2, now), None);
    }

    #[test]
    fn two_fast_operations_in_a_row_count_until_one_is_not() {
        let (mut measured, now) = (MeasuredPaths::new(), Duration::ZERO);
        let fast = |measured: &MeasuredPaths| {
            let mut history = PathHistory::new();
            measured.apply(BYTES, now, &mut history);
            assert!(history.is_clean(), "no path is excluded, nor named as slow");
            history.fast(KIND)
        };
        let mut took = |percent: u32| {
            measured.note(KIND, BYTES, ESTIMATE, ESTIMATE * percent / 100, now);
            fast(&measured)
        };
        assert_eq!(took(20), None);
        assert_eq!(took(60), None);
        assert_eq!(took(20), None);
        let factor = took(40).unwrap();
        assert!((0.39..0.41).contains(&factor), "{factor}");
        assert!(took(1).unwrap() > 0.39 && took(1).unwrap() < 0.02);
        assert_eq!(took(100), None);
    }

    #[test]
    fn a_path_that_was_slow_once_is_corrected_when_it_is_faster() {
        let plan = plan();
        let (first, second) = (PathKind::StagedBothSides, PathKind::EngineStaged);
        let (mut measured, mut now) = (MeasuredPaths::new(), Duration::ZERO);
        let chosen = |measured: &MeasuredPaths, now| {
            let mut history = PathHistory::new();
            measured.apply(BYTES, now, &mut history);
            plan.choose(BYTES, &history).unwrap().kind()
        };
        let estimate = |kind| {
            let path = plan.available.iter().find(|path| path.kind == kind).unwrap();
            path.cost.estimate(1, BYTES)
        };
        let note = |measured: &mut MeasuredPaths, kind, percent: u32, now| {
            measured.note(kind, BYTES, estimate(kind), estimate(kind) * percent / 100, now);
        };
        // Slow twice: the second is chosen. It proves far better than its estimate, and is kept when the first is normal again.
        for _ in 0..2 {
            note(&mut measured, first, 100_000, now);
        }
        assert_eq!(chosen(&measured, now), second);
        for _ in 0..2 {
            note(&mut measured, second, 1, now);
        }
        now += MeasuredPaths::FIRST_RETRY;
        assert_eq!(chosen(&measured, now), second);
        // It is as slow as its estimate again: so is the choice what it was.
        note(&mut measured, second, 100, now);
        assert_eq!(chosen(&measured, now), first);
    }

    #[test]
    fn a_little_noise_is_no_sign() {
        let (mut measured, now) = (MeasuredPaths::new(), Duration::ZERO);
        for _ in 0..5 {
            let (estimate, took) = (Duration::from_micros(4), Duration::from_micros(115));
            measured.note(KIND, 4096, estimate, took, now);
        }
        assert_eq!(slow(&measured, 4096, now), None);
    }

    #[test]
    fn a_slow_path_is_tried_again_after_times_that_double() {
        let (mut measured, mut now) = (MeasuredPaths::new(), Duration::ZERO);
        for round in 0..10u32 {
            assert_eq!(slow(&measured, BYTES, now), None);
            note(&mut measured, 100, now);
            assert_eq!(slow(&measured, BYTES, now), None, "tried twice");
            note(&mut measured, 100, now);
            let wait =
                (MeasuredPaths::FIRST_RETRY * (1 << round)).min(MeasuredPaths::LONGEST_RETRY);
            let nearly = now + wait - Duration::from_millis(1);
            assert!(slow(&measured, BYTES, nearly).is_some(), "round {round}");
            now += wait;
        }
        // Two fast ones, and the next time is short again.
        for factor in [1, 1, 100, 100] {
            note(&mut measured, factor, now);
        }
        assert!(slow(&measured, BYTES, now).is_some());
        assert_eq!(slow(&measured, BYTES, now + MeasuredPaths::FIRST_RETRY), None);
    }

    proptest! {
        /// However a path's speed changes, it is left and taken again a few times an hour at most.
        #[test]
        fn it_does_not_flap(speeds in proptest::collection::vec(1u32..200, 1..40), step in 1u64..500) {
            let (mut measured, mut now) = (MeasuredPaths::new(), Duration::ZERO);
            let (mut changes, mut was_slow) = (0u32, false);
            for at in 0..4000 {
                let is_slow = slow(&measured, BYTES, now).is_some();
                changes += u32::from(is_slow != was_slow);
                was_slow = is_slow;
                // A path that counts as slow is not taken, so nothing is learned of it.
                if !is_slow {
                    note(&mut measured, speeds[at % speeds.len()], now);
                }
                now += Duration::from_millis(step);
            }
            // It is slow for 30 s at least each time.
            let most = 2 * (now.as_secs() / MeasuredPaths::FIRST_RETRY.as_secs() + 1);
            prop_assert!(u64::from(changes) <= most, "{changes} in {now:?}");
        }

        /// The speeds of two paths alternate, each at its own pace: the planner changes between them a few times a minute at most.
        #[test]
        fn alternating_speeds_make_no_choice_flap(
            [first, second] in proptest::array::uniform2((
                1usize..50, prop_oneof![0.001..1.0f64, 1.0..200.0f64],
            )),
            step in 1u64..500,
        ) {
            let plan = plan();
            let (mut measured, mut now) = (MeasuredPaths::new(), Duration::ZERO);
            let (mut changes, mut last) = (0u32, None);
            for at in 0..4000 {
                let mut history = PathHistory::new();
                measured.apply(BYTES, now, &mut history);
                let chosen = plan.choose(BYTES, &history).unwrap();
                changes += u32::from(last.replace(chosen.kind()).is_some_and(|last| last != chosen.kind()));
                let (pace, factor) = if chosen.kind() == PathKind::StagedBothSides { first } else { second };
                let factor = if (at / pace) % 2 == 0 { 1.0 } else { factor };
                let estimate = chosen.path.cost.estimate(1, BYTES);
                measured.note(chosen.kind(), BYTES, estimate, estimate.mul_f64(factor), now);
                now += Duration::from_millis(step);
            }
            // Each path is left for 30 s at least, and taken again once in that time.
            let most = 4 * (now.as_secs() / MeasuredPaths::FIRST_RETRY.as_secs() + 1);
            prop_assert!(u64::from(changes) <= most, "{changes} in {now:?}");
        }
    }
}
