//! The layers of grants that are known to be ready.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use nixl_metadata::Ticket;

/// How many layers were ready, for grants whose layers are filled one after the other. A layer that is ready stays so, and no
/// generation is used twice: what was seen once counts for every later read by the ticket.
#[derive(Default)]
pub(super) struct ReadyLayers {
    by_generation: Mutex<HashMap<u64, u64>>,
}

impl ReadyLayers {
    /// Grants that are kept. Of others, the words are looked at again.
    const MOST: usize = 4096;

    /// Notes what the words of the ticket's grant say while that stands.
    pub(super) fn note(&self, ticket: &Ticket, ready: u64) {
        let mut known = self.lock();
        if known.len() >= Self::MOST && !known.contains_key(&ticket.generation()) {
            known.clear();
        }
        let most = known.entry(ticket.generation()).or_default();
        *most = ready.max(*most);
    }

    /// Whether the layers below this one are known to be ready.
    pub(super) fn covers(&self, ticket: &Ticket, layers: u64) -> bool {
        self.lock().get(&ticket.generation()).is_some_and(|ready| *ready >= layers)
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<u64, u64>> {
        self.by_generation.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
