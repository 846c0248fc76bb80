//! Kinds of memory, as copies distinguish them.

use std::fmt;

use nixl_descriptor::{Descriptor, DescriptorList};

use super::GpuBackend;

/// Where bytes are, as far as the way to copy them is concerned.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
#[allow(clippy::exhaustive_enums, reason = "the strategy matrix is total over it")]
pub enum MemoryKind {
    /// Ordinary host memory.
    Pageable,
    /// Host memory that the GPUs can reach: page-locked and mapped.
    Pinned,
    /// Memory of the GPU of this ordinal.
    Gpu(u32),
}

impl MemoryKind {
    /// Whether the host can copy it.
    pub fn is_host(self) -> bool {
        !matches!(self, Self::Gpu(_))
    }
}

/// The kind of memory of a list that one plan can copy: `None` if it mixes several.
pub(crate) fn kind_of(list: &DescriptorList, gpus: &dyn GpuBackend) -> Option<MemoryKind> {
    let kind = |d: &Descriptor| gpus.memory_kind(d.device(), d.address());
    let mut kinds = list.as_slice().chunk_by(|a, b| a.region().id() == b.region().id());
    let first = kinds.next().and_then(<[_]>::first).map(kind);
    first.filter(|_| kinds.all(|run| run.first().map(kind) == first))
}

impl fmt::Display for MemoryKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Pageable => f.write_str("pageable"),
            Self::Pinned => f.write_str("pinned"),
            Self::Gpu(ordinal) => write!(f, "cuda:{ordinal}"),
        }
    }
}
