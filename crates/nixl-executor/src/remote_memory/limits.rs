//! Bounds on peers' memory that stays open here.

/// Bounds on the memory of other processes that each connection of an executor keeps open.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct ImportLimits {
    pub(crate) pieces: usize,
    pub(crate) pinned_bytes: usize,
    pub(crate) mapped_bytes: usize,
}

impl Default for ImportLimits {
    fn default() -> Self {
        Self { pieces: 1024, pinned_bytes: 4 << 30, mapped_bytes: 16 << 40 }
    }
}

impl ImportLimits {
    /// Pieces of memory that stay open: files of host memory and allocations on GPUs; at least one. Default: 1024. The piece whose last
    /// use is longest ago is closed first, and opened again for its next use, by a call of the driver or the system. An
    /// operation on more pieces takes another path.
    #[must_use]
    pub const fn pieces(mut self, pieces: usize) -> Self {
        self.pieces = if pieces == 0 { 1 } else { pieces };
        self
    }

    /// Bytes of peers' host memory that are pinned for GPUs. Default: 4 GiB. A peer states the length of its memory, and pinning takes
    /// every page of it, and 0.1 s for each GiB. Memory beyond the bound is copied through pinned slots.
    #[must_use]
    pub const fn pinned_bytes(mut self, bytes: usize) -> Self {
        self.pinned_bytes = bytes;
        self
    }

    /// Bytes of address space that peers' host memory takes. Default: 16 TiB, an eighth of the address space of a process. Files with
    /// holes may be long and take nothing else. Memory beyond the bound closes other memory, and longer memory takes another path.
    #[must_use]
    pub const fn mapped_bytes(mut self, bytes: usize) -> Self {
        self.mapped_bytes = bytes;
        self
    }
}
