//! This agent's metadata as it was exported before.

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
    /// Exports of memories by themselves that are kept. Whoever offers more lists of regions again and again exports them anew.
    const KEPT: usize = 256;

    /// What covers these registrations, if it was exported since the cache has made `registered` of them.
    pub(crate) fn of(&self, held: &[Registration], registered: u64) -> Option<AgentMetadata> {
        let metadata = self.lock().of.get(&numbers(held)).cloned();
        metadata.or_else(|| self.all(registered))
    }

    /// What covers all, if it was exported since the cache has made `registered` registrations.
    pub(crate) fn all(&self, registered: u64) -> Option<AgentMetadata> {
        let state = self.lock();
        let all = state.all.as_ref().filter(|all| all.registered == registered)?;
        Some(all.metadata.clone())
    }

    /// **Blocks.** Exports what covers these registrations.
    pub(crate) fn export(
        &self,
        transport: &dyn Transport,
        registrations: &RegistrationCache,
        held: &[Registration],
    ) -> Result<AgentMetadata, ConnectorError> {
        if let Some(metadata) = self.of(held, registrations.stats().misses) {
            return Ok(metadata);
        }
        let Some(raw) = transport.metadata_of(held)? else {
            return self.export_all(transport, registrations);
        };
        let metadata = AgentMetadata::compress(&raw)?;
        let mut state = self.lock();
        if state.of.len() >= Self::KEPT {
            state.of.clear();
        }
        state.of.insert(numbers(held), metadata.clone());
        Ok(metadata)
    }

    /// **Blocks.** Exports what covers all that is registered. To be called on the thread that registers.
    pub(crate) fn export_all(
        &self,
        transport: &dyn Transport,
        registrations: &RegistrationCache,
    ) -> Result<AgentMetadata, ConnectorError> {
        // Registrations are made on this thread too, so none comes between these two lines.
        let registered = registrations.stats().misses;
        let metadata = AgentMetadata::compress(&transport.local_metadata()?)?;
        self.lock().all = Some(All { registered, metadata: metadata.clone() });
        Ok(metadata)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Every critical section leaves the state consistent.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn numbers(held: &[Registration]) -> Box<[u64]> {
    held.iter().map(Registration::number).collect()
}
