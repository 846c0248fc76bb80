//! Capabilities of a peer beyond its engine.

/// What a peer can do beyond moving bytes with its engine.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Capabilities {
    pub(crate) staging: bool,
    ipc: bool,
    shared_memory: bool,
}

impl Capabilities {
    const STAGING: u32 = 1 << 0;
    const IPC: u32 = 1 << 1;
    const SHARED_MEMORY: u32 = 1 << 2;

    /// Sets whether the peer takes part in staged transfers.
    #[must_use]
    pub const fn with_staging(mut self, staging: bool) -> Self {
        self.staging = staging;
        self
    }

    /// Sets whether the peer can share device memory within its host.
    #[must_use]
    pub const fn with_ipc(mut self, ipc: bool) -> Self {
        self.ipc = ipc;
        self
    }

    /// Sets whether the peer can map host memory that others share within its host.
    #[must_use]
    pub const fn with_shared_memory(mut self, shared_memory: bool) -> Self {
        self.shared_memory = shared_memory;
        self
    }

    pub(crate) const fn to_bits(self) -> u32 {
        (if self.staging { Self::STAGING } else { 0 })
            | (if self.ipc { Self::IPC } else { 0 })
            | (if self.shared_memory { Self::SHARED_MEMORY } else { 0 })
    }

    /// Ignores bits that it does not know: a capability that we know nothing of is one that we do not use.
    pub(crate) const fn from_bits(bits: u32) -> Self {
        Self {
            staging: bits & Self::STAGING != 0,
            ipc: bits & Self::IPC != 0,
            shared_memory: bits & Self::SHARED_MEMORY != 0,
        }
    }

    /// It takes part in staged transfers through pinned host memory.
    #[must_use]
    pub fn staging(&self) -> bool {
        self.staging
    }

    /// It can share device memory with other processes of its host.
    #[must_use]
    pub fn ipc(&self) -> bool {
        self.ipc
    }

    /// It can map host memory that another process of its host shares.
    #[must_use]
    pub fn shared_memory(&self) -> bool {
        self.shared_memory
    }
}
