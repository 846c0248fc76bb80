//! Kinds of memory, as copies distinguish them.

use std::fmt;

/// Kind of memory, for the choice of a copy strategy.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
#[allow(clippy::exhaustive_enums, reason = "the strategy matrix is total over it")]
pub enum MemoryKind {
    /// Ordinary host memory.
    Pageable,
    /// Page-locked and mapped host memory, which the GPUs can reach.
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

impl fmt::Display for MemoryKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Pageable => f.write_str("pageable"),
            Self::Pinned => f.write_str("pinned"),
            Self::Gpu(ordinal) => write!(f, "cuda:{ordinal}"),
        }
    }
}
