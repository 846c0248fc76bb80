//! The cache of this agent's exported metadata.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use nixl_descriptor::{Registration, RegistrationCache};
use nixl_metadata::AgentMetadata;
use nixl_ops::Transport;

use crate::ConnectorError;

/// What was exported, for the next offer of the same memory.
#[derive(Debug, Default)]
pub(crate) struct Exports {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    all: Option<All>,
    /// By the numbers of the registrations, which are never used twice.
    of: HashMap<Box<[u64]>, AgentMetadata>,
}

/// Metadata that covers all that was registered.
#[derive(Debug)]
struct All {
    /// How many registrations the cache had made by then: a later one is not in it.
    registered: u64,
    metadata: AgentMetadata,
}

impl Exports {
    /// Exports of memories by themselves that are kept; beyond that all are made anew.
    const KEPT: usize = 256;

    /// What covers these registrations, of which `registrations` has made the last: as it was exported before, or if the engine
    /// exports it now without blocking.
    pub(crate) fn of(
        &self,
        transport: &dyn Transport,
        registrations: &RegistrationCache,
        held: &[Registration],
    ) -> Option<AgentMetadata> {
        let numbers: Box<[u64]> = held.iter().map(Registration::number).collect();
        let known = self.lock().of.get(&numbers).cloned();
        if let Some(known) = known.or_else(|| self.all(registrations)) {
            return Some(known);
        }
        // An engine exports more than nothing.
        let metadata = AgentMetadata::compress(&transport.metadata_of(held)?).ok()?;
        let mut state = self.lock();
        if state.of.len() >= Self::KEPT {
            state.of.clear();
        }
        state.of.insert(numbers, metadata.clone());
        Some(metadata)
    }

    /// What covers all registrations made so far, if it was exported since the last.
    pub(crate) fn all(&self, registrations: &RegistrationCache) -> Option<AgentMetadata> {
        let registered = registrations.registered();
        let state = self.lock();
        let all = state.all.as_ref().filter(|all| all.registered == registered)?;
        Some(all.metadata.clone())
    }

    /// **Blocks.** Exports what covers all that is registered.
    pub(crate) fn export_all(
        &self,
        transport: &dyn Transport,
        registrations: &RegistrationCache,
    ) -> Result<AgentMetadata, ConnectorError> {
        // Read first: what is registered from now on may be missing.
        let registered = registrations.registered();
        let metadata = AgentMetadata::compress(&transport.local_metadata()?)?;
        self.lock().all = Some(All { registered, metadata: metadata.clone() });
        Ok(metadata)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Every critical section leaves the state consistent.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
