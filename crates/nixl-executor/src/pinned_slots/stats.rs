//! Counts of slots and of their memory.

/// What a pool holds.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct SlotStats {
    pub(crate) pinned_bytes: usize,
    pub(crate) gpu_bytes: usize,
    pub(crate) free: usize,
    pub(crate) quarantined: usize,
}

impl SlotStats {
    pub(super) fn plus(self, other: Self) -> Self {
        Self {
            pinned_bytes: self.pinned_bytes + other.pinned_bytes,
            gpu_bytes: self.gpu_bytes + other.gpu_bytes,
            free: self.free + other.free,
            quarantined: self.quarantined + other.quarantined,
        }
    }

    /// Bytes of pinned memory allocated.
    #[must_use]
    pub fn pinned_bytes(&self) -> usize {
        self.pinned_bytes
    }

    /// Bytes of GPU memory allocated.
    #[must_use]
    pub fn gpu_bytes(&self) -> usize {
        self.gpu_bytes
    }

    /// Slots that are free.
    #[must_use]
    pub fn free(&self) -> usize {
        self.free
    }

    /// Slots that a peer may still use, although their transfer has ended. They come back when the peer reports that it does
    /// not, or is gone; those that this process's own GPU or engine may use do not.
    #[must_use]
    pub fn quarantined(&self) -> usize {
        self.quarantined
    }
}
