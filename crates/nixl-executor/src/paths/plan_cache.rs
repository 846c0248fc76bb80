//! The cache of path plans for one peer.

use std::sync::Arc;

use nixl_metadata::PeerInfo;

use super::{LocalFacts, PathCosts, PathPlan, PathQuery, PeerFacts};

/// The plans for one peer, kept for as long as the peer says the same of itself. Bounded: the oldest is forgotten.
#[derive(Clone, Debug, Default)]
pub struct PlanCache {
    info: Option<PeerInfo>,
    plans: Vec<Arc<PathPlan>>,
}

impl PlanCache {
    /// How many plans are kept.
    pub const MAX_PLANS: usize = 64;

    /// No plans yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// The plan for a question to the peer, that says this of itself, by what this process knows of itself. One that was made
    /// before costs a look; all are of the same `here` and `costs`.
    #[must_use]
    pub fn get(
        &mut self,
        (here, costs): (&LocalFacts, &PathCosts),
        info: Option<&PeerInfo>,
        query: PathQuery,
    ) -> Arc<PathPlan> {
        if self.info.as_ref() != info {
            *self = Self { info: info.cloned(), plans: Vec::new() };
        }
        if let Some(plan) = self.plans.iter().find(|plan| plan.query == query) {
            return Arc::clone(plan);
        }
        let facts = info.map_or_else(PeerFacts::unknown, |info| PeerFacts::new(info, here));
        let plan = Arc::new(PathPlan::new(query, here, &facts, costs));
        if self.plans.len() == Self::MAX_PLANS {
            self.plans.remove(0);
        }
        self.plans.push(Arc::clone(&plan));
        plan
    }
}
