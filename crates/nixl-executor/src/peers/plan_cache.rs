//! The cache of path plans for one peer.

use std::sync::Arc;

use nixl_metadata::PeerInfo;

use super::MeasuredPaths;
use crate::facts::{LocalFacts, PeerFacts};
use crate::planner::{PathCosts, PathPlan, PathQuery};

/// The plans for one peer, valid while the peer's description is unchanged. Bounded: the oldest is forgotten.
#[derive(Clone, Debug, Default)]
pub struct PlanCache {
    info: Option<PeerInfo>,
    plans: Vec<(Arc<PathPlan>, MeasuredPaths)>,
}

impl PlanCache {
    /// Bound on kept plans.
    pub const MAX_PLANS: usize = 64;

    /// No plans yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// The plan of a query for the peer with this description, by this process's facts. A cached plan costs a look-up; all have
    /// the same `here` and `costs`.
    #[must_use]
    pub fn get(
        &mut self,
        (here, costs): (&LocalFacts, &PathCosts),
        info: Option<&PeerInfo>,
        query: PathQuery,
    ) -> Arc<PathPlan> {
        Arc::clone(&self.entry((here, costs), info, query).0)
    }

    /// The plan, with the times of its operations.
    pub(crate) fn entry(
        &mut self,
        (here, costs): (&LocalFacts, &PathCosts),
        info: Option<&PeerInfo>,
        query: PathQuery,
    ) -> &(Arc<PathPlan>, MeasuredPaths) {
        if self.info.as_ref() != info {
            *self = Self { info: info.cloned(), plans: Vec::new() };
        }
        let index = match self.plans.iter().position(|(plan, _)| plan.query == query) {
            Some(index) => index,
            None => {
                let facts = info.map_or_else(PeerFacts::unknown, |info| PeerFacts::new(info, here));
                let plan = Arc::new(PathPlan::new(query, here, &facts, costs));
                if self.plans.len() == Self::MAX_PLANS {
                    self.plans.remove(0);
                }
                self.plans.push((plan, MeasuredPaths::new()));
                self.plans.len() - 1
            }
        };
        &self.plans[index]
    }

    /// The times of this plan's operations, unless it was forgotten.
    pub(crate) fn measured(&mut self, plan: &Arc<PathPlan>) -> Option<&mut MeasuredPaths> {
        let entry = self.plans.iter_mut().find(|(known, _)| Arc::ptr_eq(known, plan));
        entry.map(|(_, measured)| measured)
    }
}

#[cfg(test)]
mod tests {
    use nixl_device::Device;
    use nixl_metadata::{Capabilities, HostIdentity};
    use nixl_ops::{OperationKind, PathKind, PathPolicy};

    use super::*;
    use crate::facts::{Engine, OfferFacts};
    use crate::local::MemoryKind;
    use crate::planner::Export;

    #[test]
    fn plans_are_kept_until_the_peer_says_otherwise() {
        let mut plans = PlanCache::new();
        let (here, costs) = (LocalFacts::default(), PathCosts::default());
        let mut get = |info: &PeerInfo, query| plans.get((&here, &costs), Some(info), query);
        let host = HostIdentity::new("host", "boot", 1).unwrap();
        let info = here.describe(PeerInfo::new("peer", 1, host).unwrap(), true);
        let query = PathQuery {
            operation: OperationKind::Read,
            local: MemoryKind::Gpu(0),
            export: Export::Unknown,
            is_read_only: false,
            remote: Device::cuda(1),
            engine: Engine::Ucx,
            offered: OfferFacts::default(),
            policy: PathPolicy::auto(),
        };
        let first = get(&info, query);
        assert!(Arc::ptr_eq(&first, &get(&info, query)));
        let other =
            PathQuery { policy: PathPolicy::auto().forbid(PathKind::EngineStaged), ..query };
        assert_ne!(get(&info, other), first);
        let changed = info.with_capabilities(Capabilities::default());
        assert!(!Arc::ptr_eq(&get(&changed, query), &first));
    }
}
