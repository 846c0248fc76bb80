//! The kind of memory of a list.

use nixl_descriptor::{Descriptor, DescriptorList};

use crate::local::{GpuBackend, MemoryKind};

/// The kind of memory of a list that one plan can copy: `None` if it mixes several.
pub(crate) fn kind_of(list: &DescriptorList, gpus: &dyn GpuBackend) -> Option<MemoryKind> {
    let kind = |d: &Descriptor| gpus.memory_kind(d.device(), d.address());
    let mut kinds = list.as_slice().chunk_by(|a, b| a.region().id() == b.region().id());
    let first = kinds.next().and_then(<[_]>::first).map(kind);
    first.filter(|_| kinds.all(|run| run.first().map(kind) == first))
}
