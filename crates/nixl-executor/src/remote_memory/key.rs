//! Names of peers' memory, and of its owner.

use nixl_descriptor::{PiecesHandle, SharedName};

use crate::local::SharedHandle;

/// Memory of a peer, as this process opens it.
#[derive(Clone, Copy, Eq, Hash, PartialEq)]
pub(crate) enum RemoteMemoryKey {
    /// An allocation on a GPU, for one GPU here.
    Gpu(u32, SharedHandle),
    /// Host memory.
    File(SharedName),
    /// Host memory for the GPUs here, pinned if it can be.
    Pinned(SharedName),
}

/// Whose memory it is.
#[derive(Clone, Copy, Debug)]
pub(crate) struct OwnerId<'a> {
    /// The peer that named it.
    pub(crate) peer: &'a str,
    /// The process of a GPU's memory, where that is known.
    pub(crate) pid: Option<u32>,
}

impl RemoteMemoryKey {
    /// The name of its pieces, if it is opened by those.
    pub(crate) fn pieces(&self) -> Option<PiecesHandle> {
        match self {
            Self::Gpu(_, handle) => PiecesHandle::from_bytes(handle),
            Self::File(_) | Self::Pinned(_) => None,
        }
    }

    /// Its file, if it is host memory.
    pub(crate) fn name(&self) -> Option<&SharedName> {
        match self {
            Self::Gpu(..) => None,
            Self::File(name) | Self::Pinned(name) => Some(name),
        }
    }
}
