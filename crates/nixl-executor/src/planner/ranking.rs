//! The ranking of a plan's paths, for display.

use std::borrow::Cow;
use std::fmt;
use std::time::Duration;

use super::{AvailablePath, PathHistory, PathPlan};

/// A plan for one size, ranked. Shown, it is a line for the operation and one for each path, the one to take first.
#[derive(Clone, Debug)]
pub struct Ranking<'a> {
    plan: &'a PathPlan,
    bytes: u64,
    order: Vec<Ranked<'a>>,
}

#[derive(Clone, Debug)]
struct Ranked<'a> {
    path: &'a AvailablePath,
    estimate: Duration,
    failure: Option<Cow<'static, str>>,
    /// How many times its estimate it took.
    slow: Option<f64>,
    tried: bool,
}

impl<'a> Ranking<'a> {
    pub(super) fn new(plan: &'a PathPlan, bytes: u64, history: &PathHistory) -> Self {
        let mut order: Vec<_> = plan
            .available
            .iter()
            .map(|path| {
                let tried = history.tried(path.kind);
                let place = plan.place(path, bytes, history);
                let failure = tried.or(history.in_cooldown(path.kind)).cloned();
                let tried = tried.is_some();
                (
                    (tried, place),
                    Ranked {
                        path,
                        estimate: place.estimate,
                        failure,
                        slow: history.slow(path.kind),
                        tried,
                    },
                )
            })
            .collect();
        order.sort_by_key(|(place, _)| *place);
        Self { plan, bytes, order: order.into_iter().map(|(_, ranked)| ranked).collect() }
    }

    /// The paths that may be taken, the one to take first.
    pub fn paths(&self) -> impl Iterator<Item = (&'a AvailablePath, Duration)> {
        self.order
            .iter()
            .filter(|ranked| !ranked.tried)
            .map(|ranked| (ranked.path, ranked.estimate))
    }
}

impl fmt::Display for Ranking<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let query = &self.plan.query;
        write!(
            f,
            "{:?} of {} bytes, {} and the peer's {}",
            query.operation, self.bytes, query.local, query.remote
        )?;
        let mut word = "take";
        for Ranked { path, estimate, failure, slow, tried } in &self.order {
            let word = if *tried { "not" } else { std::mem::replace(&mut word, "then") };
            write!(f, "\n  {word} {}", path.kind)?;
            if let Some(medium) = path.medium {
                write!(f, " by {medium}")?;
            }
            write!(f, ", estimated at {estimate:.1?} ({} GB/s): {}", path.cost.gbps, path.why)?;
            if let Some(factor) = slow {
                write!(f, "; took {factor:.1} times its estimate lately")?;
            }
            if let Some(failure) = failure {
                write!(f, "; {failure}")?;
            }
        }
        for path in &self.plan.refused {
            write!(f, "\n  {path}")?;
        }
        Ok(())
    }
}
