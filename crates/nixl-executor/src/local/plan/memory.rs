//! Kinds of memory, as copies distinguish them.

use std::fmt;

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

impl fmt::Display for MemoryKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Pageable => f.write_str("pageable"),
            Self::Pinned => f.write_str("pinned"),
            Self::Gpu(ordinal) => write!(f, "cuda:{ordinal}"),
        }
    }
}
