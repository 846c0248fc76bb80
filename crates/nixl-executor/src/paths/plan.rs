//! Every kind of path: whether it is there, and at what cost.

use std::borrow::Cow;
use std::fmt;
use std::mem::discriminant;
use std::sync::Arc;
use std::time::Duration;

use nixl_ops::{Carrier, PathKind, Rejected, TransportError};

use super::check::Check;
use super::{LocalFacts, PathCosts, PeerFacts, Question, Ranking, Standing};
use crate::Cost;

/// A path that is there.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct AblePath {
    /// Its kind.
    pub kind: PathKind,
    /// What carries the bytes. `None` if they stay in the process, or if nobody knows.
    pub carrier: Option<Carrier>,
    /// The fixed part in microseconds, and the rate.
    pub cost: Cost,
    /// What makes it possible.
    pub why: Cow<'static, str>,
}

/// A path that is not there, or not allowed.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct RefusedPath {
    /// Its kind.
    pub kind: PathKind,
    /// What sort of reason it is.
    pub refusal: Refusal,
    /// The reason.
    pub reason: Cow<'static, str>,
}

/// The sort of reason against a path.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub enum Refusal {
    /// It is no path between memories like these, whatever the machines.
    Inapplicable,
    /// Something is missing that other machines, peers or settings have.
    Missing,
    /// The policy does not allow it.
    Forbidden,
}

/// All kinds of path for one [`Question`]. It depends on facts alone: not on the size of an operation, nor on what
/// happened before.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct PathPlan {
    /// What it answers.
    pub question: Question,
    /// The paths that are there, in the order of [`PathKind::ALL`].
    pub able: Vec<AblePath>,
    /// The others, in the same order.
    pub refused: Vec<RefusedPath>,
    /// What an operation says of the others, if only one path is there.
    only: Option<Arc<[Rejected]>>,
}

/// The path to take.
#[derive(Clone, Copy, Debug, PartialEq)]
#[non_exhaustive]
pub struct Chosen<'a> {
    /// The path.
    pub path: &'a AblePath,
    /// From begin to awaited completion, for the size that was asked about.
    pub estimate: Duration,
}

impl PathPlan {
    /// Judges every kind of path.
    #[must_use]
    pub fn new(question: Question, here: &LocalFacts, peer: &PeerFacts, costs: &PathCosts) -> Self {
        let check = Check { question: &question, here, peer, costs };
        let policy = question.policy;
        let (mut able, mut refused) = (Vec::new(), Vec::new());
        for kind in PathKind::ALL {
            let mut refuse = |refusal, reason| refused.push(RefusedPath { kind, refusal, reason });
            match (check.verdict(kind), policy.check(kind, None, None)) {
                (Err(missing), Ok(())) => refuse(missing.refusal, missing.reason),
                (Err(missing), Err(_)) if missing.refusal == Refusal::Inapplicable => {
                    refuse(missing.refusal, missing.reason);
                }
                (_, Err(reason)) => refuse(Refusal::Forbidden, reason),
                (Ok(ability), Ok(())) => {
                    match policy.check(kind, ability.carrier, Some(ability.cost.gbps)) {
                        Ok(()) => able.push(AblePath {
                            kind,
                            carrier: ability.carrier,
                            cost: ability.cost,
                            why: ability.why,
                        }),
                        Err(reason) => refuse(Refusal::Forbidden, reason),
                    }
                }
            }
        }
        let mut plan = Self { question, able, refused, only: None };
        if let [path] = &*plan.able {
            plan.only = Some(plan.better_than(path.kind, 0, &Standing::new()).into());
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
    pub fn choose(&self, bytes: u64, standing: &Standing) -> Result<Chosen<'_>, TransportError> {
        let best = self
            .able
            .iter()
            .filter(|path| standing.tried(path.kind).is_none())
            .map(|path| (path, self.place(path, bytes, standing)))
            // The first of equals.
            .min_by_key(|(_, place)| *place);
        match best {
            Some((path, place)) => Ok(Chosen { path, estimate: place.estimate }),
            None => Err(TransportError::NoPath { rejected: self.rejected(standing) }),
        }
    }

    /// All paths in the order in which they would be taken, to be shown.
    #[must_use]
    pub fn rank(&self, bytes: u64, standing: &Standing) -> Ranking<'_> {
        Ranking::new(self, bytes, standing)
    }

    /// The paths that are better by nature than the one that was taken, with the reasons against them, best first; and
    /// those that failed. For the report of an operation. What never was a path between memories like these is left
    /// out.
    #[must_use]
    pub fn not_taken(&self, taken: PathKind, bytes: u64, standing: &Standing) -> Arc<[Rejected]> {
        match &self.only {
            // The same for every operation.
            Some(rejected) if standing.is_clean() => Arc::clone(rejected),
            _ => self.better_than(taken, bytes, standing).into(),
        }
    }

    fn better_than(&self, taken: PathKind, bytes: u64, standing: &Standing) -> Vec<Rejected> {
        let mut rejected: Vec<_> = self
            .refused
            .iter()
            .filter(|path| path.refusal != Refusal::Inapplicable)
            .filter(|path| order(path.kind) < order(taken))
            .map(|path| Rejected::new(path.kind, path.reason.clone()))
            .collect();
        for path in self.able.iter().filter(|path| !same(path.kind, taken)) {
            if let Some(failure) = standing.tried(path.kind).or(standing.cooling(path.kind)) {
                rejected.push(Rejected::new(path.kind, failure.clone()));
            } else if order(path.kind) < order(taken) {
                let estimate = path.cost.estimate(1, bytes);
                let reason = match self.question.policy.preferred() {
                    Some(preferred) if same(preferred, taken) => {
                        format!("the policy prefers {taken}")
                    }
                    _ => format!("estimated at {estimate:.1?}"),
                };
                rejected.push(Rejected::new(path.kind, reason));
            }
        }
        rejected.sort_by_key(|rejected| order(rejected.kind));
        rejected
    }

    /// Why a path that was taken is not what the hardware could do: the engine has to copy GPU memory by itself, since
    /// staging is not there for this reason.
    #[must_use]
    pub fn degraded(&self, taken: &AblePath) -> Option<&Cow<'static, str>> {
        if taken.kind != PathKind::Emulated || taken.carrier == Some(Carrier::Gpu) {
            return None;
        }
        let staged = |path: &&RefusedPath| {
            matches!(path.kind, PathKind::StagedOneSide | PathKind::StagedBothSides)
                && path.refusal == Refusal::Missing
        };
        self.refused.iter().find(staged).map(|path| &path.reason)
    }

    pub(super) fn place(&self, path: &AblePath, bytes: u64, standing: &Standing) -> Place {
        let preferred = self.question.policy.preferred();
        Place {
            cooling: standing.cooling(path.kind).is_some(),
            not_preferred: !preferred.is_some_and(|kind| same(kind, path.kind)),
            estimate: path.cost.estimate(1, bytes),
        }
    }

    /// Why none is left: what was tried, then what is missing, then what cannot be, then what is not allowed.
    fn rejected(&self, standing: &Standing) -> Vec<Rejected> {
        let tried = self.able.iter().filter_map(|path| {
            let reason = standing.tried(path.kind)?;
            Some(Rejected::new(path.kind, reason.clone()))
        });
        let allowed = |kind| self.question.policy.check(kind, None, None).is_ok();
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
pub(super) struct Place {
    cooling: bool,
    not_preferred: bool,
    pub(super) estimate: Duration,
}

/// Whether two kinds are the same, whatever the strategy inside the process.
pub(super) fn same(a: PathKind, b: PathKind) -> bool {
    discriminant(&a) == discriminant(&b)
}

/// From the best by nature to the last.
fn order(kind: PathKind) -> usize {
    PathKind::ALL.iter().position(|known| same(*known, kind)).unwrap_or(PathKind::ALL.len())
}

impl fmt::Display for PathPlan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Question { operation, local, remote, .. } = self.question;
        write!(f, "{operation:?} {local} and the peer's {remote}")?;
        for path in &self.able {
            write!(f, "\n  {path}")?;
        }
        for path in &self.refused {
            write!(f, "\n  {path}")?;
        }
        Ok(())
    }
}

impl fmt::Display for AblePath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.kind)?;
        if let Some(carrier) = self.carrier {
            write!(f, " by {carrier}")?;
        }
        write!(f, ", {} us + {} GB/s: {}", self.cost.fixed_us, self.cost.gbps, self.why)
    }
}

impl fmt::Display for RefusedPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "not {}: {}", self.kind, self.reason)
    }
}
