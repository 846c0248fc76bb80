//! The versions of the messages that a peer exchanges besides its metadata.

/// Which version of each kind of message a peer speaks; 0 where it speaks none.
///
/// Version *n* of a kind also speaks *n* − 1. The default is what metadata of the native profile's version 3 means,
/// which states none: staging 1, remote copy 1, doorbell 1, claims 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct MessageVersions {
    staging: u16,
    remote_copy: u16,
    doorbell: u16,
    claims: u16,
}

impl Default for MessageVersions {
    fn default() -> Self {
        Self { staging: 1, remote_copy: 1, doorbell: 1, claims: 0 }
    }
}

impl MessageVersions {
    /// No messages: the meaning of a kind that is absent from a list of versions.
    pub(crate) const NONE: Self = Self { staging: 0, remote_copy: 0, doorbell: 0, claims: 0 };

    /// Sets the version of the messages of staged transfers; from version 3 on chunks are staged on a GPU, too, and from version 4 on
    /// the owner of an export takes part in reads by tickets.
    #[must_use]
    pub const fn with_staging(mut self, version: u16) -> Self {
        self.staging = version;
        self
    }

    /// Sets the version of the messages for copies by the peer's GPU.
    #[must_use]
    pub const fn with_remote_copy(mut self, version: u16) -> Self {
        self.remote_copy = version;
        self
    }

    /// Sets the version of the protocol of [slots](crate::SlotAddress).
    #[must_use]
    pub const fn with_doorbell(mut self, version: u16) -> Self {
        self.doorbell = version;
        self
    }

    /// Sets the version of the messages about offers and exports: claims, questions and their answers; from version 2 on also
    /// notifications of exports, from version 3 on also waits for the layers of grants.
    #[must_use]
    pub const fn with_claims(mut self, version: u16) -> Self {
        self.claims = version;
        self
    }

    /// The version of the messages of staged transfers.
    #[must_use]
    pub const fn staging(&self) -> u16 {
        self.staging
    }

    /// The version of the messages for copies by the peer's GPU.
    #[must_use]
    pub const fn remote_copy(&self) -> u16 {
        self.remote_copy
    }

    /// The version of the protocol of [slots](crate::SlotAddress).
    #[must_use]
    pub const fn doorbell(&self) -> u16 {
        self.doorbell
    }

    /// The version of the messages about offers and exports.
    #[must_use]
    pub const fn claims(&self) -> u16 {
        self.claims
    }
}
