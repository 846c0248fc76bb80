//! Counts of the state that is kept for peers.

/// What is kept for peers.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct PeerStats {
    pub(crate) peers: usize,
    pub(crate) imports: usize,
    pub(crate) pinned_bytes: usize,
    pub(crate) mapped_bytes: usize,
}

impl PeerStats {
    pub(super) fn plus(self, other: Self) -> Self {
        Self {
            peers: self.peers + other.peers,
            imports: self.imports + other.imports,
            pinned_bytes: self.pinned_bytes + other.pinned_bytes,
            mapped_bytes: self.mapped_bytes + other.mapped_bytes,
        }
    }

    /// Peers of which something is known.
    #[must_use]
    pub fn peers(&self) -> usize {
        self.peers
    }

    /// Pieces of their memory that are open here.
    #[must_use]
    pub fn imports(&self) -> usize {
        self.imports
    }

    /// Bytes of those that are pinned here.
    #[must_use]
    pub fn pinned_bytes(&self) -> usize {
        self.pinned_bytes
    }

    /// Bytes of address space that those of host memory take.
    #[must_use]
    pub fn mapped_bytes(&self) -> usize {
        self.mapped_bytes
    }
}
