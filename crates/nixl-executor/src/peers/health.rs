//! Path health: results of past use, with a cooldown after failures.

use std::borrow::Cow;
use std::time::Duration;

use nixl_ops::PathKind;

use crate::planner::{MemoryPair, PathHistory, same};

/// Key of a path: its kind, between two memories.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct PathKey {
    kind: PathKind,
    memories: MemoryPair,
}

impl PathKey {
    /// A kind of path between memory of this side and of the peer.
    pub const fn new(kind: PathKind, memories: MemoryPair) -> Self {
        Self { kind, memories }
    }

    fn is(&self, other: &Self) -> bool {
        same(self.kind, other.kind) && self.memories == other.memories
    }
}

/// The record of a path's use.
#[derive(Clone, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub enum HealthState {
    /// Not used, or forgotten.
    Unproven,
    /// The last use succeeded.
    Proven,
    /// The last use failed.
    Failed {
        /// The number of cooldowns in a row.
        times: u32,
        /// The time since the failure.
        ago: Duration,
        /// The rest of the cooldown. Zero once it may be tried again.
        retry_in: Duration,
        /// The text of the failure.
        reason: Cow<'static, str>,
    },
}

/// Record of successes and failures of the paths to one peer. A failure demotes a path for a cooldown, which doubles with each
/// further failure after it; a success resets it. Bounded: the paths whose last record is the oldest are forgotten. Times are those of one
/// [`Clock`](nixl_ops::Clock).
///
/// ```
/// use std::time::Duration;
/// use nixl_device::Device;
/// use nixl_executor::paths::{PathHealth, MemoryPair, PathKey};
/// use nixl_ops::PathKind;
///
/// let mut health = PathHealth::new();
/// let memories = MemoryPair::new(Device::cuda(0), Device::cuda(1));
/// let path_key = PathKey::new(PathKind::CudaIpc, memories);
/// health.failed(path_key, "the driver refused the handle", Duration::from_secs(5));
/// let at = |seconds| health.history(memories, Duration::from_secs_f64(seconds));
/// assert_eq!(
///     at(5.4).in_cooldown(PathKind::CudaIpc).unwrap(),
///     "failed 400.0ms ago, not tried again for 600.0ms: the driver refused the handle"
/// );
/// assert!(at(6.0).in_cooldown(PathKind::CudaIpc).is_none());
/// ```
#[derive(Clone, Debug, Default)]
pub struct PathHealth {
    records: Vec<Record>,
}

#[derive(Clone, Debug)]
struct Record {
    path_key: PathKey,
    failure: Option<Failure>,
}

#[derive(Clone, Debug)]
struct Failure {
    times: u32,
    at: Duration,
    until: Duration,
    reason: Cow<'static, str>,
}

impl PathHealth {
    /// The cooldown after a first failure.
    pub const FIRST_COOLDOWN: Duration = Duration::from_secs(1);
    /// The longest cooldown.
    pub const LONGEST_COOLDOWN: Duration = Duration::from_secs(300);
    /// Bound on remembered paths.
    pub const MAX_PATHS: usize = 128;

    /// Nothing is known.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Records a success.
    pub fn succeeded(&mut self, path_key: PathKey) {
        record(&mut self.records, path_key).failure = None;
    }

    /// Records a failure. Failures of concurrent operations count as one: during its cooldown, a path's further failures change
    /// the reason only.
    pub fn failed(
        &mut self,
        path_key: PathKey,
        reason: impl Into<Cow<'static, str>>,
        now: Duration,
    ) {
        let reason = reason.into();
        let record = record(&mut self.records, path_key);
        match &mut record.failure {
            Some(failure) if now < failure.until => {
                failure.at = failure.at.max(now);
                failure.reason = reason;
            }
            failure => {
                let times = failure.as_ref().map_or(0, |f| f.times).saturating_add(1);
                let until = now.saturating_add(cooldown(times));
                *failure = Some(Failure { times, at: now, until, reason });
            }
        }
    }

    /// The record of a path.
    #[must_use]
    pub fn state(&self, path_key: PathKey, now: Duration) -> HealthState {
        match self.records.iter().find(|record| record.path_key.is(&path_key)) {
            None => HealthState::Unproven,
            Some(Record { failure: None, .. }) => HealthState::Proven,
            Some(Record { failure: Some(failure), .. }) => HealthState::Failed {
                times: failure.times,
                ago: now.saturating_sub(failure.at),
                retry_in: failure.until.saturating_sub(now),
                reason: failure.reason.clone(),
            },
        }
    }

    /// The state of the paths between two memories. Allocates only if one of them is in its cooldown.
    #[must_use]
    pub fn history(&self, memories: MemoryPair, now: Duration) -> PathHistory {
        let mut history = PathHistory::new();
        for record in &self.records {
            if record.path_key.memories != memories {
                continue;
            }
            let Some(failure) = &record.failure else {
                history.note_proven(record.path_key.kind);
                continue;
            };
            if now < failure.until {
                let ago = now.saturating_sub(failure.at);
                let wait = failure.until - now;
                history.note_cooldown(
                    record.path_key.kind,
                    format!(
                        "failed {ago:.1?} ago, not tried again for {wait:.1?}: {}",
                        failure.reason
                    ),
                );
            }
        }
        history
    }
}

/// The cooldown after so many failures in a row.
fn cooldown(times: u32) -> Duration {
    let factor = 1u32.checked_shl(times.saturating_sub(1)).unwrap_or(u32::MAX);
    PathHealth::FIRST_COOLDOWN.saturating_mul(factor).min(PathHealth::LONGEST_COOLDOWN)
}

/// The record of a key, moved to the end; the one at the front is the oldest.
fn record(records: &mut Vec<Record>, path_key: PathKey) -> &mut Record {
    match records.iter().position(|record| record.path_key.is(&path_key)) {
        Some(index) => records[index..].rotate_left(1),
        None => {
            if records.len() == PathHealth::MAX_PATHS {
                records.remove(0);
            }
            records.push(Record { path_key, failure: None });
        }
    }
    let last = records.len() - 1;
    &mut records[last]
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use nixl_descriptor::AllocationKind;
    use nixl_device::Device;
    use nixl_ops::{OperationKind, PathPolicy};
    use proptest::prelude::*;

    use super::*;
    use crate::facts::{Engine, OfferFacts, ShareForm};
    use crate::local::MemoryKind;
    use crate::planner::{Export, PathQuery};

    fn memories(local: u32) -> MemoryPair {
        MemoryPair::new(Device::cuda(local), Device::HOST)
    }

    fn path_key(kind: usize, local: u32) -> PathKey {
        PathKey { kind: PathKind::ALL[kind], memories: memories(local) }
    }

    #[derive(Clone, Debug)]
    enum Step {
        Succeed(usize, u32),
        Fail(usize, u32),
        Wait(u64),
    }

    fn step() -> impl Strategy<Value = Step> {
        let key = || (2..5usize, 0..2u32);
        prop_oneof![
            2 => key().prop_map(|(k, l)| Step::Succeed(k, l)),
            6 => key().prop_map(|(k, l)| Step::Fail(k, l)),
            4 => (0..400_000u64).prop_map(Step::Wait),
        ]
    }

    /// Failures in a row, the last one, the end of the cooldown; all in milliseconds.
    #[derive(Default)]
    struct Model {
        paths: HashMap<(usize, u32), (u32, u64, u64)>,
        now: u64,
    }

    impl Model {
        fn step(&mut self, step: &Step) {
            match *step {
                Step::Succeed(k, l) => drop(self.paths.insert((k, l), (0, 0, 0))),
                Step::Fail(k, l) => {
                    let (times, at, until) = self.paths.entry((k, l)).or_default();
                    *at = self.now;
                    if *times == 0 || self.now >= *until {
                        *times += 1;
                        let doubled = (1..*times).fold(1000, |all: u64, _| (2 * all).min(300_000));
                        *until = self.now + doubled;
                    }
                }
                Step::Wait(ms) => self.now += ms,
            }
        }

        fn state(&self, key: (usize, u32)) -> HealthState {
            match self.paths.get(&key) {
                None => HealthState::Unproven,
                Some((0, ..)) => HealthState::Proven,
                Some((times, at, until)) => HealthState::Failed {
                    times: *times,
                    ago: Duration::from_millis(self.now - at),
                    retry_in: Duration::from_millis(until.saturating_sub(self.now)),
                    reason: "why".into(),
                },
            }
        }
    }

    proptest! {
        #[test]
        fn it_remembers_as_the_model_does(steps in proptest::collection::vec(step(), 0..60)) {
            let (mut health, mut model) = (PathHealth::new(), Model::default());
            for step in &steps {
                let now = Duration::from_millis(model.now);
                match *step {
                    Step::Succeed(k, l) => health.succeeded(path_key(k, l)),
                    Step::Fail(k, l) => health.failed(path_key(k, l), "why", now),
                    Step::Wait(_) => {}
                }
                model.step(step);
                let now = Duration::from_millis(model.now);
                for l in 0..2 {
                    let history = health.history(memories(l), now);
                    for k in 2..5 {
                        let expected = model.state((k, l));
                        let is_proven = expected == HealthState::Proven;
                        prop_assert_eq!(history.is_proven(PathKind::ALL[k]), is_proven);
                        prop_assert_eq!(health.state(path_key(k, l), now), expected.clone());
                        let in_cooldown = matches!(
                            expected,
                            HealthState::Failed { retry_in, .. } if retry_in > Duration::ZERO
                        );
                        prop_assert_eq!(history.in_cooldown(PathKind::ALL[k]).is_some(), in_cooldown);
                    }
                }
            }
        }

        #[test]
        fn however_many_failures_the_cooldown_is_bounded(times in any::<u32>()) {
            let cooldown = cooldown(times);
            prop_assert!((PathHealth::FIRST_COOLDOWN..=PathHealth::LONGEST_COOLDOWN).contains(&cooldown));
        }
    }

    #[test]
    fn memories_of_other_allocations_are_others() {
        let offered = OfferFacts { share: Some(ShareForm::CudaIpc), ..OfferFacts::default() };
        let query = |offered| {
            let memories = (MemoryKind::Gpu(0), Device::cuda(1));
            let (engine, policy) = (Engine::Ucx, PathPolicy::auto());
            PathQuery::new(OperationKind::Read, memories, engine, offered, policy)
        };
        let of_a_pool = query(OfferFacts::default()).export(Export::Without(AllocationKind::Pool));
        let others = [
            query(OfferFacts::default()).export(Export::ByHandle),
            query(offered).export(Export::Without(AllocationKind::Pool)),
            query(offered),
        ];
        let mut health = PathHealth::new();
        let kind = PathKind::CudaIpc;
        health.failed(PathKey::new(kind, of_a_pool.memories()), "why", Duration::ZERO);
        let is_cooling = |query: PathQuery| {
            health.history(query.memories(), Duration::ZERO).in_cooldown(kind).is_some()
        };
        assert!(is_cooling(of_a_pool));
        assert!(others.into_iter().all(|query| !is_cooling(query)));
    }

    #[test]
    fn the_path_used_the_longest_ago_is_forgotten() {
        let mut health = PathHealth::new();
        let last = u32::try_from(PathHealth::MAX_PATHS).unwrap();
        for local in 0..last {
            health.succeeded(path_key(2, local));
        }
        health.succeeded(path_key(2, 0));
        health.succeeded(path_key(2, last));
        let state = |local| health.state(path_key(2, local), Duration::ZERO);
        assert_eq!(state(1), HealthState::Unproven);
        for local in [0, 2, last] {
            assert_eq!(state(local), HealthState::Proven, "{local}");
        }
    }
}
