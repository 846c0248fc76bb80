//! The layers of grants that are known to be ready.

use std::sync::{Mutex, MutexGuard};

use nixl_device::locks::lock;
use nixl_metadata::Ticket;
use nixl_ops::RecentMap;

/// How many layers were ready, for grants whose layers are filled one after the other. A layer that is ready stays so, and no
/// generation is used twice: what was seen once counts for every later read by the ticket.
pub(super) struct ReadyLayers {
    by_generation: Mutex<RecentMap<u64, u64>>,
}

impl ReadyLayers {
    /// Grants that are kept, those of the latest uses. Of others, the words are looked at again.
    const MOST: usize = 4096;

    /// Notes what the words of the ticket's grant say while that stands.
    pub(super) fn note(&self, ticket: &Ticket, ready: u64) {
        let mut known = self.lock();
        match known.get(&ticket.generation()) {
            Some(most) => *most = ready.max(*most),
            None => _ = known.insert(ticket.generation(), ready),
        }
    }

    /// Whether the layers below this one are known to be ready.
    pub(super) fn covers(&self, ticket: &Ticket, layers: u64) -> bool {
        self.lock().get(&ticket.generation()).is_some_and(|ready| *ready >= layers)
    }

    fn lock(&self) -> MutexGuard<'_, RecentMap<u64, u64>> {
        lock(&self.by_generation)
    }
}

impl Default for ReadyLayers {
    fn default() -> Self {
        Self { by_generation: Mutex::new(RecentMap::new(Self::MOST)) }
    }
}
