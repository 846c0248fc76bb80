//! The exports of a connection, in reads of which peers may ask this side to take part.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Weak};

use nixl_descriptor::layout::Layout;
use nixl_metadata::ExportId;
use nixl_ops::GrantTable;

/// The exports with memory of GPUs, by their numbers.
#[derive(Default)]
pub(super) struct Exports {
    by_id: HashMap<u64, Export>,
}

struct Export {
    table: Weak<GrantTable>,
    /// Agents to which the engine was connected for the answers.
    introduced: HashSet<Box<str>>,
}

impl Exports {
    /// Agents of one export to which the engine is connected.
    const INTRODUCED: usize = 4096;

    pub(super) fn opened(&mut self, export: ExportId, table: &Arc<GrantTable>) {
        self.by_id.retain(|_, export| export.table.strong_count() > 0);
        // Memory of the host is read without its owner.
        if table.layouts().map(Layout::device).any(|device| !device.is_host()) {
            let export_of = Export { table: Arc::downgrade(table), introduced: HashSet::new() };
            self.by_id.insert(export.value(), export_of);
        }
    }

    /// Its grants, if there is such an export. The caller drops the handle, which may be the last, outside locks.
    pub(super) fn table(&self, export: u64) -> Option<Arc<GrantTable>> {
        self.by_id.get(&export)?.table.upgrade()
    }

    /// Whether the engine may be connected to an agent that holds the export's metadata.
    pub(super) fn may_introduce(&mut self, export: u64, agent: &str) -> bool {
        let Some(Export { introduced, .. }) = self.by_id.get_mut(&export) else { return false };
        introduced.contains(agent)
            || (introduced.len() < Self::INTRODUCED && introduced.insert(agent.into()))
    }

    /// The grants of all exports, as handles of which the same holds.
    pub(super) fn tables(&self) -> Vec<Arc<GrantTable>> {
        self.by_id.values().filter_map(|export| export.table.upgrade()).collect()
    }
}

impl std::fmt::Debug for Exports {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Exports").field("exports", &self.by_id.len()).finish_non_exhaustive()
    }
}
