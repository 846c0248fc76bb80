//! Who the target is and what it can do: the native profile's additions.

use uuid::Uuid;

use crate::limits::at_most;
use crate::{Field, Limits, MetadataError, name};

/// Who offers the memory and how it can be reached. Travels in the native profile only.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerInfo {
    agent_name: String,
    incarnation: Uuid,
    host: HostIdentity,
    transports: Vec<String>,
    capabilities: Capabilities,
}

impl PeerInfo {
    /// The longest agent name, host name, boot id or transport name, in bytes.
    pub const MAX_NAME_BYTES: usize = 255;

    /// The most transports that a peer can list.
    pub const MAX_TRANSPORTS: usize = 32;

    /// Describes a peer with no transports and no capabilities yet.
    ///
    /// `incarnation` is a random number that the peer draws when it starts, so that a restarted peer of the same name
    /// is known to be another.
    ///
    /// # Errors
    ///
    /// [`MetadataError::Empty`], [`MetadataError::TooLarge`] or [`MetadataError::BadName`] for the name.
    pub fn new(
        agent_name: impl Into<String>,
        incarnation: u128,
        host: HostIdentity,
    ) -> Result<Self, MetadataError> {
        let agent_name = agent_name.into();
        name::check(Field::AgentName, &agent_name, Self::MAX_NAME_BYTES)?;
        Ok(Self {
            agent_name,
            incarnation: Uuid::from_u128(incarnation),
            host,
            transports: Vec::new(),
            capabilities: Capabilities::default(),
        })
    }

    /// Sets the names of the transports by which the peer can be reached, best first.
    ///
    /// # Errors
    ///
    /// [`MetadataError::TooManyTransports`] beyond [`MAX_TRANSPORTS`](Self::MAX_TRANSPORTS), and for a name
    /// [`MetadataError::Empty`], [`MetadataError::TooLarge`] or [`MetadataError::BadName`].
    pub fn with_transports<T: Into<String>>(
        mut self,
        transports: impl IntoIterator<Item = T>,
    ) -> Result<Self, MetadataError> {
        self.transports.clear();
        for (index, transport) in transports.into_iter().enumerate() {
            if index == Self::MAX_TRANSPORTS {
                return Err(MetadataError::TooManyTransports { limit: Self::MAX_TRANSPORTS });
            }
            let transport = transport.into();
            name::check(Field::Transport(index), &transport, Self::MAX_NAME_BYTES)?;
            self.transports.push(transport);
        }
        Ok(self)
    }

    /// Sets what the peer can do.
    #[must_use]
    pub const fn with_capabilities(mut self, capabilities: Capabilities) -> Self {
        self.capabilities = capabilities;
        self
    }

    /// The name of the peer's agent.
    #[must_use]
    pub fn agent_name(&self) -> &str {
        &self.agent_name
    }

    /// Which start of the peer this is.
    #[must_use]
    pub const fn incarnation(&self) -> u128 {
        self.incarnation.as_u128()
    }

    /// Where the peer runs.
    #[must_use]
    pub const fn host(&self) -> &HostIdentity {
        &self.host
    }

    /// The names of the peer's transports, best first.
    #[must_use]
    pub fn transports(&self) -> &[String] {
        &self.transports
    }

    /// What the peer can do.
    #[must_use]
    pub const fn capabilities(&self) -> Capabilities {
        self.capabilities
    }

    /// Refuses names that are longer than a receiver allows.
    pub(crate) fn check_names(&self, limits: &Limits) -> Result<(), MetadataError> {
        let names = [
            (Field::AgentName, &self.agent_name),
            (Field::HostName, &self.host.hostname),
            (Field::BootId, &self.host.boot_id),
        ];
        let transports = self.transports.iter().enumerate();
        names
            .into_iter()
            .chain(transports.map(|(index, name)| (Field::Transport(index), name)))
            .try_for_each(|(field, name)| at_most(field, name.len(), limits.name_bytes))
    }
}

/// Where a peer runs: enough to tell whether two peers share a host, and which process one is.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct HostIdentity {
    hostname: String,
    boot_id: String,
    pid: u32,
}

impl HostIdentity {
    /// Names a process on a host.
    ///
    /// `boot_id` is what the kernel drew when the host started (on Linux `/proc/sys/kernel/random/boot_id`): containers
    /// have host names of their own but share it. `pid` is the process as it sees itself.
    ///
    /// # Errors
    ///
    /// [`MetadataError::Empty`], [`MetadataError::TooLarge`] or [`MetadataError::BadName`] for either text.
    pub fn new(
        hostname: impl Into<String>,
        boot_id: impl Into<String>,
        pid: u32,
    ) -> Result<Self, MetadataError> {
        let (hostname, boot_id) = (hostname.into(), boot_id.into());
        name::check(Field::HostName, &hostname, PeerInfo::MAX_NAME_BYTES)?;
        name::check(Field::BootId, &boot_id, PeerInfo::MAX_NAME_BYTES)?;
        Ok(Self { hostname, boot_id, pid })
    }

    /// The host's name.
    #[must_use]
    pub fn hostname(&self) -> &str {
        &self.hostname
    }

    /// The boot that the host is in.
    #[must_use]
    pub fn boot_id(&self) -> &str {
        &self.boot_id
    }

    /// The process, in its own numbering.
    #[must_use]
    pub const fn pid(&self) -> u32 {
        self.pid
    }
}

/// What a peer can do beyond moving bytes with its engine.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct Capabilities {
    /// It takes part in staged transfers through pinned host memory.
    pub staging: bool,
    /// It can share device memory with other processes of its host.
    pub ipc: bool,
}

impl Capabilities {
    const STAGING: u32 = 1 << 0;
    const IPC: u32 = 1 << 1;

    /// Says whether the peer takes part in staged transfers.
    #[must_use]
    pub const fn with_staging(mut self, staging: bool) -> Self {
        self.staging = staging;
        self
    }

    /// Says whether the peer can share device memory within its host.
    #[must_use]
    pub const fn with_ipc(mut self, ipc: bool) -> Self {
        self.ipc = ipc;
        self
    }

    pub(crate) const fn to_bits(self) -> u32 {
        (if self.staging { Self::STAGING } else { 0 }) | (if self.ipc { Self::IPC } else { 0 })
    }

    /// Ignores bits that it does not know: a capability that we know nothing of is one that we do not use.
    pub(crate) const fn from_bits(bits: u32) -> Self {
        Self { staging: bits & Self::STAGING != 0, ipc: bits & Self::IPC != 0 }
    }
}
