//! Bounds on memory that transfers take from pools.

/// Bounds on the memory of a GPU back end's pools, for each GPU.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct GpuMemoryLimits {
    pub(super) pinned_bytes: usize,
    pub(super) scratch_bytes: usize,
}

impl Default for GpuMemoryLimits {
    fn default() -> Self {
        Self { pinned_bytes: 512 << 20, scratch_bytes: 512 << 20 }
    }
}

impl GpuMemoryLimits {
    /// Bytes of pinned host memory for slots of rings and tables of the kernel. Default: 512 MiB. They are allocated at first
    /// use. A transfer that needs more fails with [`GpuError::OutOfMemory`](crate::GpuError::OutOfMemory) while others hold them.
    #[must_use]
    pub const fn pinned_bytes(mut self, bytes: usize) -> Self {
        self.pinned_bytes = bytes;
        self
    }

    /// Bytes of device memory for packed copies. Default: 512 MiB. They are allocated at first use, as many as a copy has. A
    /// packed copy that needs more fails with [`GpuError::OutOfMemory`](crate::GpuError::OutOfMemory).
    #[must_use]
    pub const fn scratch_bytes(mut self, bytes: usize) -> Self {
        self.scratch_bytes = bytes;
        self
    }
}
