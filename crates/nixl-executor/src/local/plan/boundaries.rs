//! Boundaries between allocations, which a single copy must not cross.

use std::sync::Arc;

use nixl_descriptor::DescriptorList;

/// The addresses at which the allocations of a copy begin, on both sides.
///
/// Bytes on either side are not one copy: the driver refuses a copy across two allocations, even if their addresses are
/// adjacent.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub(crate) struct AllocationBoundaries(Arc<[u64]>);

impl AllocationBoundaries {
    /// Boundaries at these starts of allocations.
    pub(crate) fn of(starts: impl IntoIterator<Item = u64>) -> Self {
        let mut starts: Vec<u64> = starts.into_iter().collect();
        starts.sort_unstable();
        starts.dedup();
        Self(starts.into())
    }

    /// Whether an allocation begins at this address.
    pub(crate) fn is_at(&self, address: u64) -> bool {
        self.0.binary_search(&address).is_ok()
    }
}

/// The starts of a list's regions, possibly with repetitions.
pub(crate) fn starts(list: &DescriptorList) -> impl Iterator<Item = u64> {
    let runs = list.as_slice().chunk_by(|a, b| a.region().id() == b.region().id());
    runs.filter_map(|run| Some(run.first()?.region().address()))
}
