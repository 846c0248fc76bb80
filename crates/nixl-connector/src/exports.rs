//! The cache of this agent's exported metadata.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard};

use nixl_descriptor::{Registration, RegistrationCache};
use nixl_device::locks::lock;
use nixl_metadata::AgentMetadata;
use nixl_ops::Transport;

use crate::ConnectorError;

/// Exported metadata, for the next offer of the same memory.
#[derive(Debug, Default)]
pub(crate) struct Exports {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    all: Option<All>,
    /// Keyed by the numbers of registrations, which are never used twice.
    of: HashMap<Box<[u64]>, AgentMetadata>,
}

/// Metadata of all registered memory.
#[derive(Debug)]
struct All {
    /// The number of registrations by then: a later one is not in it.
    registered: u64,
    metadata: AgentMetadata,
}

impl Exports {
    /// Bound on the kept exports of single memories; beyond it all are made anew.
    const KEPT: usize = 256;

    /// Metadata of these registrations, the last of which `registrations` has made: exported before, or exported now if the
    /// engine does not block.
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
        // An engine never exports an empty blob.
        let metadata = AgentMetadata::compress(&transport.metadata_of(held)?).ok()?;
        let mut state = self.lock();
        if state.of.len() >= Self::KEPT {
            state.of.clear();
        }
        state.of.insert(numbers, metadata.clone());
        Some(metadata)
    }

    /// Metadata of all registrations so far, if exported since the last.
    pub(crate) fn all(&self, registrations: &RegistrationCache) -> Option<AgentMetadata> {
        let registered = registrations.registered();
        let state = self.lock();
        let all = state.all.as_ref().filter(|all| all.registered == registered)?;
        Some(all.metadata.clone())
    }

    /// **Blocks.** Exports metadata of all registered memory.
    pub(crate) fn export_all(
        &self,
        transport: &dyn Transport,
        registrations: &RegistrationCache,
    ) -> Result<AgentMetadata, ConnectorError> {
        // Read first: later registrations may be missing.
        let registered = registrations.registered();
        let metadata = AgentMetadata::compress(&transport.local_metadata()?)?;
        self.lock().all = Some(All { registered, metadata: metadata.clone() });
        Ok(metadata)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Every critical section leaves the state consistent.
        lock(&self.state)
    }
}
