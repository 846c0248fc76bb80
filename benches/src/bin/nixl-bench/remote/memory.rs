//! Kinds of memory, as the two processes and the reports name them.

use std::fmt;

use nixl_executor::MemoryKind;
use serde::{Deserialize, Serialize};

/// `MemoryKind`, for the channel and the reports.
#[derive(Clone, Copy, Debug, Deserialize, Eq, Hash, PartialEq, Serialize)]
pub(crate) enum Memory {
    Host,
    /// The host's, in a file that the other process can map; pinned where there are GPUs.
    Shared,
    Pinned,
    Gpu(u32),
    /// A GPU's, of the driver's pool: no other process can open it.
    Pool(u32),
    /// A GPU's, of the VMM API, without a handle: nor this.
    Vmm(u32),
    /// A GPU's, of the VMM API, with file descriptors, by which other processes open it.
    VmmFd(u32),
    /// Managed memory, on a GPU, which no other process can open.
    Managed(u32),
}

impl Memory {
    /// All that a machine with so many GPUs has. Of more than two, the others are like the second.
    pub(crate) fn all(gpus: usize) -> &'static [Self] {
        const ALL: [Memory; 5] =
            [Memory::Host, Memory::Shared, Memory::Pinned, Memory::Gpu(0), Memory::Gpu(1)];
        match gpus {
            0 => &ALL[..2],
            1 => &ALL[..4],
            _ => &ALL,
        }
    }

    pub(crate) fn kind(self) -> MemoryKind {
        match self {
            Self::Host | Self::Shared => MemoryKind::Pageable,
            Self::Pinned => MemoryKind::Pinned,
            Self::Gpu(ordinal)
            | Self::Pool(ordinal)
            | Self::Vmm(ordinal)
            | Self::VmmFd(ordinal)
            | Self::Managed(ordinal) => MemoryKind::Gpu(ordinal),
        }
    }
}

impl fmt::Display for Memory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Host => f.write_str("host"),
            Self::Shared => f.write_str("shared"),
            Self::Pinned => f.write_str("pinned"),
            Self::Gpu(ordinal) => write!(f, "cuda:{ordinal}"),
            Self::Pool(ordinal) => write!(f, "pool:{ordinal}"),
            Self::Vmm(ordinal) => write!(f, "vmm:{ordinal}"),
            Self::VmmFd(ordinal) => write!(f, "vmmfd:{ordinal}"),
            Self::Managed(ordinal) => write!(f, "managed:{ordinal}"),
        }
    }
}
