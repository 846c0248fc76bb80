//! Plans that have been made.

use std::sync::{Arc, Mutex, PoisonError};

use nixl_metadata::PeerInfo;

use super::peer_map::PeerMap;
use super::{LocalFacts, PathCosts, PathPlan, PeerFacts, Question};

/// Makes plans, and keeps them for as long as a peer says the same of itself. Bounded: the peers that were used the
/// longest ago are forgotten. Methods take a short lock.
#[derive(Debug)]
pub struct Plans {
    here: Arc<LocalFacts>,
    costs: PathCosts,
    peers: Mutex<PeerMap<PeerPlans>>,
}

#[derive(Debug, Default)]
struct PeerPlans {
    info: Option<PeerInfo>,
    plans: Vec<Arc<PathPlan>>,
}

impl Plans {
    /// How many peers plans are kept for.
    pub const MAX_PEERS: usize = 1024;
    /// How many plans are kept for one peer.
    pub const MAX_PLANS: usize = 64;

    /// No plans yet.
    #[must_use]
    pub fn new(here: Arc<LocalFacts>, costs: PathCosts) -> Self {
        Self { here, costs, peers: Mutex::new(PeerMap::new(Self::MAX_PEERS)) }
    }

    /// What this process knows of itself.
    #[must_use]
    pub fn here(&self) -> &Arc<LocalFacts> {
        &self.here
    }

    /// The plan for a question to the peer of this name, that says this of itself. One that was made before costs a look.
    #[must_use]
    pub fn get(&self, peer: &str, info: Option<&PeerInfo>, question: Question) -> Arc<PathPlan> {
        let mut peers = self.peers.lock().unwrap_or_else(PoisonError::into_inner);
        peers.update(peer, |kept| {
            if kept.info.as_ref() != info {
                *kept = PeerPlans { info: info.cloned(), plans: Vec::new() };
            }
            if let Some(plan) = kept.plans.iter().find(|plan| plan.question == question) {
                return Arc::clone(plan);
            }
            let facts =
                info.map_or_else(PeerFacts::unknown, |info| PeerFacts::new(info, &self.here));
            let plan = Arc::new(PathPlan::new(question, &self.here, &facts, &self.costs));
            if kept.plans.len() == Self::MAX_PLANS {
                kept.plans.remove(0);
            }
            kept.plans.push(Arc::clone(&plan));
            plan
        })
    }
}
