//! Lists that the simulated engine keeps: the ranges of both sides, as long as the peer stays loaded as it is.

use std::sync::{Arc, Weak};

use nixl_descriptor::Span;
use nixl_ops::{EngineLists, Listed};

use super::job::Pair;

/// The ranges of both sides: of the peer's, the registration and where in it.
pub(super) struct SimulatedLists {
    pub(super) local: Vec<Span>,
    pub(super) remote: Vec<(u64, u64)>,
    /// What was loaded of the peer.
    pub(super) loaded: Weak<()>,
}

impl EngineLists for SimulatedLists {
    fn is_stale(&self) -> bool {
        self.loaded.strong_count() == 0
    }
}

impl SimulatedLists {
    /// The pairs at these positions. `None` if the lists are another engine's, or of what is loaded no more.
    pub(super) fn pairs(listed: Listed<'_>, loaded: &Arc<()>) -> Option<Vec<Pair>> {
        let lists = listed.lists().of_engine::<Self>()?;
        if !std::ptr::eq(lists.loaded.as_ptr(), Arc::as_ptr(loaded)) {
            return None;
        }
        let pair = |&[here, there]: &[u32; 2]| {
            let &(registration, offset) = lists.remote.get(there as usize)?;
            Some(Pair { local: *lists.local.get(here as usize)?, registration, offset })
        };
        listed.positions().iter().map(pair).collect()
    }
}
