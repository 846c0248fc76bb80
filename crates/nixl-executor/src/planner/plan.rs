//! Path plans: the available kinds of path for a query, and their costs.

use std::borrow::Cow;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use nixl_ops::{Medium, PathKind, Rejected, TransportError};

use super::check::Check;
use super::kinds::{order, same};
use super::{PathCosts, PathHistory, PathQuery, Ranking, Refusal};
use crate::facts::{LocalFacts, PeerFacts};
use crate::local::Cost;

/// An available path.
#[derive(Clone, Debug, PartialEq)]
pub struct AvailablePath {
    /// Its kind.
    pub(crate) kind: PathKind,
    /// What carries the bytes. `None` if they stay in the process, or if it is unknown.
    pub(crate) medium: Option<Medium>,
    /// The fixed part in microseconds, and the rate.
    pub(crate) cost: Cost,
    /// What makes it possible.
    pub(crate) why: Cow<'static, str>,
}

impl AvailablePath {
    /// Whether the engine copies GPU memory through the host by itself.
    fn is_emulated(&self) -> bool {
        self.kind == PathKind::EngineStaged && self.medium != Some(Medium::Gpu)
    }
}

/// A path that is unavailable or forbidden.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct UnavailablePath {
    /// Its kind.
    pub(crate) kind: PathKind,
    /// What sort of reason it is.
    pub(crate) refusal: Refusal,
    /// The reason.
    pub(crate) reason: Cow<'static, str>,
}

/// All kinds of path for one [`PathQuery`]. It depends on facts alone: not on the size of an operation, nor on what
/// happened before.
#[derive(Clone, Debug, PartialEq)]
pub struct PathPlan {
    /// What it answers.
    pub(crate) query: PathQuery,
    /// The paths that are there, in the order of [`PathKind::ALL`].
    pub(crate) available: Vec<AvailablePath>,
    /// The others, in the same order.
    pub(crate) refused: Vec<UnavailablePath>,
    /// The reason against the others if only one path is available.
    only: Option<Arc<[Rejected]>>,
}

/// The path to take.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Chosen<'a> {
    /// The path.
    pub(crate) path: &'a AvailablePath,
    /// From begin to awaited completion, for the requested size.
    pub(crate) estimate: Duration,
}

impl Chosen<'_> {
    /// The kind of path.
    pub fn kind(&self) -> PathKind {
        self.path.kind
    }

    /// From begin to awaited completion, for the requested size.
    pub fn estimate(&self) -> Duration {
        self.estimate
    }
}

impl PathPlan {
    /// Judges every kind of path.
    #[must_use]
    pub fn new(query: PathQuery, here: &LocalFacts, peer: &PeerFacts, costs: &PathCosts) -> Self {
        let check = Check { query: &query, here, peer, costs };
        let policy = query.policy;
        let (mut available, mut refused) = (Vec::new(), Vec::new());
        for kind in PathKind::ALL {
            let mut refuse =
                |refusal, reason| refused.push(UnavailablePath { kind, refusal, reason });
            match (check.check(kind), policy.check(kind, None, None)) {
                (Err(missing), Ok(())) => refuse(missing.refusal, missing.reason),
                (Err(missing), Err(_)) if missing.refusal == Refusal::Inapplicable => {
                    refuse(missing.refusal, missing.reason);
                }
                (_, Err(reason)) => refuse(Refusal::Forbidden, reason),
                (Ok(ability), Ok(())) => {
                    match policy.check(kind, ability.medium, Some(ability.cost.gbps)) {
                        Ok(()) => available.push(AvailablePath {
                            kind,
                            medium: ability.medium,
                            cost: ability.cost,
                            why: ability.why,
                        }),
                        Err(reason) => refuse(Refusal::Forbidden, reason),
                    }
                }
            }
        }
        let mut plan = Self { query, available, refused, only: None };
        if let [path] = &*plan.available {
            plan.only = Some(plan.better_than(path.kind, 0, &PathHistory::new()).into());
        }
        plan
    }

    /// The path to take for so many bytes: among those that did not fail lately, the one that the policy prefers, else
    /// that of the least estimate. A path that failed lately is taken if nothing else is there, one that the operation
    /// has tried is not. Allocates nothing unless it fails.
    ///
    /// # Errors
    ///
    /// [`TransportError::NoPath`], with the missing facts first.
    pub fn choose(&self, bytes: u64, history: &PathHistory) -> Result<Chosen<'_>, TransportError> {
        let best = self
            .available
            .iter()
            .filter(|path| history.tried(path.kind).is_none())
            .map(|path| (path, self.place(path, bytes, history)))
            // The first of equals.
            .min_by_key(|(_, place)| *place);
        match best.map(|best| self.kept(best, bytes, history).unwrap_or(best)) {
            Some((path, place)) => Ok(Chosen { path, estimate: place.estimate }),
            None => Err(TransportError::NoPath { rejected: self.rejected(history) }),
        }
    }

    /// The path of the last operation, if `best` is not better by [`PathHistory::HYSTERESIS`]. The engine's copies of GPU memory through
    /// the host are not kept: their times differ by more than that.
    fn kept(
        &self,
        (_, best): (&AvailablePath, RankKey),
        bytes: u64,
        history: &PathHistory,
    ) -> Option<(&AvailablePath, RankKey)> {
        let current = history.current().filter(|kind| history.tried(*kind).is_none())?;
        let path = self.available.iter().find(|path| same(path.kind, current))?;
        if path.is_emulated() {
            return None;
        }
        let place = self.place(path, bytes, history);
        let is_near = place.estimate <= best.estimate.mul_f64(PathHistory::HYSTERESIS);
        (is_near && place.standing() == best.standing()).then_some((path, place))
    }

    /// All paths in the order in which they would be taken, to be shown.
    #[must_use]
    pub fn rank(&self, bytes: u64, history: &PathHistory) -> Ranking<'_> {
        Ranking::new(self, bytes, history)
    }

    /// The paths that are preferred by kind over the one that was taken, with the reasons against them, best first; and
    /// those that failed. For the report of an operation. What never was a path between memories like these is left
    /// out.
    #[must_use]
    pub fn alternatives(
        &self,
        taken: PathKind,
        bytes: u64,
        history: &PathHistory,
    ) -> Arc<[Rejected]> {
        match &self.only {
            // The same for every operation.
            Some(rejected) if history.is_clean() => Arc::clone(rejected),
            _ => match self.better_than(taken, bytes, history) {
                // Allocates nothing.
                none if none.is_empty() => Arc::default(),
                rejected => rejected.into(),
            },
        }
    }

    fn better_than(&self, taken: PathKind, bytes: u64, history: &PathHistory) -> Vec<Rejected> {
        let mut rejected: Vec<_> = self
            .refused
            .iter()
            .filter(|path| path.refusal != Refusal::Inapplicable)
            .filter(|path| order(path.kind) < order(taken))
            .map(|path| Rejected::new(path.kind, path.reason.clone()))
            .collect();
        for path in self.available.iter().filter(|path| !same(path.kind, taken)) {
            if let Some(failure) = history.tried(path.kind).or(history.in_cooldown(path.kind)) {
                rejected.push(Rejected::new(path.kind, failure.clone()));
            } else if order(path.kind) < order(taken) {
                let estimate = self.place(path, bytes, history).estimate;
                let reason = match self.query.policy.preferred() {
                    Some(preferred) if same(preferred, taken) => {
                        format!("the policy prefers {taken}")
                    }
                    _ => match history.slow(path.kind) {
                        Some(factor) => {
                            format!("took {estimate:.1?} lately, {factor:.1} times its estimate")
                        }
                        None => format!("estimated at {estimate:.1?}"),
                    },
                };
                rejected.push(Rejected::new(path.kind, reason));
            }
        }
        rejected.sort_by_key(|rejected| order(rejected.kind()));
        rejected
    }

    /// Why a path that was taken is not what the hardware could do: the engine has to copy GPU memory by itself, since
    /// staging is not there for this reason.
    #[must_use]
    pub fn degraded(&self, taken: &AvailablePath) -> Option<&Cow<'static, str>> {
        if !taken.is_emulated() {
            return None;
        }
        let staged = |path: &&UnavailablePath| {
            matches!(path.kind, PathKind::StagedOneSide | PathKind::StagedBothSides)
                && path.refusal == Refusal::Missing
        };
        self.refused.iter().find(staged).map(|path| &path.reason)
    }

    pub(super) fn place(&self, path: &AvailablePath, bytes: u64, history: &PathHistory) -> RankKey {
        let preferred = self.query.policy.preferred();
        let estimate = path.cost.estimate(1, bytes);
        let factor = history.slow(path.kind).or(history.fast(path.kind));
        let corrected = factor.map(|factor| estimate.as_secs_f64() * factor);
        let corrected = corrected.and_then(|seconds| Duration::try_from_secs_f64(seconds).ok());
        RankKey {
            in_cooldown: history.in_cooldown(path.kind).is_some(),
            not_preferred: !preferred.is_some_and(|kind| same(kind, path.kind)),
            estimate: corrected.unwrap_or(estimate),
        }
    }

    /// Why none is left: what was tried, then what is missing, then what cannot be, then what is not allowed.
    fn rejected(&self, history: &PathHistory) -> Vec<Rejected> {
        let tried = self.available.iter().filter_map(|path| {
            let reason = history.tried(path.kind)?;
            Some(Rejected::new(path.kind, reason.clone()))
        });
        let allowed = |kind| self.query.policy.check(kind, None, None).is_ok();
        let refused = [Refusal::Missing, Refusal::Inapplicable, Refusal::Forbidden]
            .into_iter()
            .flat_map(|refusal| self.refused.iter().filter(move |path| path.refusal == refusal))
            .filter(|path| path.refusal != Refusal::Inapplicable || allowed(path.kind))
            .map(|path| Rejected::new(path.kind, path.reason.clone()));
        tried.chain(refused).collect()
    }
}

/// What paths are ordered by.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub(super) struct RankKey {
    in_cooldown: bool,
    not_preferred: bool,
    pub(super) estimate: Duration,
}

impl RankKey {
    /// What counts before the estimate.
    fn standing(&self) -> (bool, bool) {
        (self.in_cooldown, self.not_preferred)
    }
}

impl fmt::Display for PathPlan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let PathQuery { operation, local, remote, .. } = self.query;
        write!(f, "{operation:?} {local} and the peer's {remote}")?;
        for path in &self.available {
            write!(f, "\n  {path}")?;
        }
        for path in &self.refused {
            write!(f, "\n  {path}")?;
        }
        Ok(())
    }
}

impl fmt::Display for AvailablePath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.kind)?;
        if let Some(medium) = self.medium {
            write!(f, " by {medium}")?;
        }
        write!(f, ", {} us + {} GB/s: {}", self.cost.fixed_us, self.cost.gbps, self.why)
    }
}

impl fmt::Display for UnavailablePath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "not {}: {}", self.kind, self.reason)
    }
}
