//! The exports of a connection, in reads of which peers may ask this side to take part.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::{Arc, Weak};

use nixl_descriptor::layout::Layout;
use nixl_metadata::ExportId;
use nixl_ops::GrantTable;

/// The exports with memory of GPUs, by their numbers.
#[derive(Default)]
pub(super) struct Exports {
    by_id: HashMap<u64, Export>,
    /// In the order in which they were opened.
    order: VecDeque<u64>,
}

struct Export {
    table: Weak<GrantTable>,
    /// Agents to which the engine was connected for the answers.
    introduced: HashSet<Box<str>>,
}

impl Export {
    fn is_closed(&self) -> bool {
        self.table.strong_count() == 0
    }
}

impl Exports {
    /// Agents of one export to which the engine is connected.
    const INTRODUCED: usize = 4096;
    /// The same of a closed one.
    const INTRODUCED_LATE: usize = 16;
    /// Closed exports that are remembered: their late readers get an answer.
    const CLOSED: usize = 1024;

    pub(super) fn opened(&mut self, export: ExportId, table: &Arc<GrantTable>) {
        // Memory of the host is read without its owner.
        if table.layouts().map(Layout::device).all(|device| device.is_host()) {
            return;
        }
        let opened = Export { table: Arc::downgrade(table), introduced: HashSet::new() };
        if self.by_id.insert(export.value(), opened).is_none() {
            self.order.push_back(export.value());
        }
        let Self { by_id, order } = self;
        let is_closed = |id: &u64| by_id.get(id).is_none_or(|export| export.is_closed());
        if order.iter().filter(|id| is_closed(id)).count() > Self::CLOSED
            && let Some(at) = order.iter().position(is_closed)
        {
            order.remove(at).and_then(|id| by_id.remove(&id));
        }
        let closed = by_id.values_mut().filter(|export| export.is_closed());
        let crowded = closed.filter(|export| export.introduced.len() > Self::INTRODUCED_LATE);
        crowded.for_each(|export| export.introduced = HashSet::new());
    }

    /// Whether there is or was such an export: its number is known to holders of its metadata alone.
    pub(super) fn know(&self, export: u64) -> bool {
        self.by_id.contains_key(&export)
    }

    /// Its grants, if the export is open. The caller drops the handle, which may be the last, outside locks.
    pub(super) fn table(&self, export: u64) -> Option<Arc<GrantTable>> {
        self.by_id.get(&export)?.table.upgrade()
    }

    /// Whether the engine may be connected to an agent that holds the export's metadata.
    pub(super) fn may_introduce(&mut self, export: u64, agent: &str) -> bool {
        let Some(export) = self.by_id.get_mut(&export) else { return false };
        let most = match export.is_closed() {
            true => Self::INTRODUCED_LATE,
            false => Self::INTRODUCED,
        };
        let introduced = &mut export.introduced;
        introduced.contains(agent) || (introduced.len() < most && introduced.insert(agent.into()))
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

#[cfg(test)]
mod tests {
    use std::num::NonZeroU32;

    use nixl_descriptor::Region;
    use nixl_descriptor::layout::{Dimensions, Inner, LayoutGeometry};
    use nixl_ops::{GrantTableOptions, ManualClock};

    use super::*;
    use crate::local::{GpuCapabilities, MemoryKind, SimulatedGpus};

    fn table(memory: Region) -> Arc<GrantTable> {
        let (blocks, layers, outer, page_size) = (1, 1, 1, 1);
        let (inner, element_width) = (Inner::Elements(8), 1);
        let dimensions = Dimensions { blocks, layers, outer, page_size, inner, element_width };
        let geometry = LayoutGeometry::try_from(dimensions).unwrap();
        let layout = Layout::fully_contiguous(geometry, memory).unwrap();
        let options = GrantTableOptions::default().with_slots(NonZeroU32::MIN);
        Arc::new(GrantTable::new(&[layout], options, Arc::new(ManualClock::new())).unwrap())
    }

    #[test]
    fn exports_and_agents_are_bounded() {
        let gpus = SimulatedGpus::new(GpuCapabilities::new(1)).unwrap();
        let on_gpu = || table(gpus.region(MemoryKind::Gpu(0), 8).unwrap());
        let mut exports = Exports::default();
        exports.opened(ExportId::new(1), &table(Region::zeroed(8).unwrap()));
        assert!(!exports.know(1), "memory of the host");
        let kept = on_gpu();
        exports.opened(ExportId::new(2), &kept);
        let introduced = |exports: &mut Exports, export| {
            (0..5000).filter(|agent| exports.may_introduce(export, &agent.to_string())).count()
        };
        assert_eq!(introduced(&mut exports, 2), Exports::INTRODUCED);
        assert!(exports.may_introduce(2, "0") && !exports.may_introduce(3, "0"));
        let more = Exports::CLOSED as u64 + 9;
        (0..more).for_each(|id| exports.opened(ExportId::new(100 + id), &on_gpu()));
        assert!(exports.table(2).is_some() && exports.table(100 + more - 1).is_none());
        let known = (0..more).filter(|id| exports.know(100 + id)).count();
        assert!((Exports::CLOSED..Exports::CLOSED + 2).contains(&known), "{known}");
        assert!(!exports.know(100) && exports.know(100 + more - 1));
        assert_eq!(exports.tables().len(), 1);
        let mut exports = Exports::default();
        exports.opened(ExportId::new(2), &kept);
        introduced(&mut exports, 2);
        drop(kept);
        exports.opened(ExportId::new(3), &on_gpu());
        assert_eq!(introduced(&mut exports, 2), Exports::INTRODUCED_LATE);
    }
}
