//! Information about the target and its capabilities: the native profile's additions.

use std::collections::HashSet;

use uuid::Uuid;

use crate::limits::at_most;
use crate::{
    Capabilities, Field, HostIdentity, Limits, MessageVersions, MetadataError, PeerDevice, name,
};

/// Who offers the memory and how it can be reached. Travels in the native profile only.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerInfo {
    agent_name: String,
    incarnation: Uuid,
    host: HostIdentity,
    transports: Vec<String>,
    capabilities: Capabilities,
    devices: Vec<PeerDevice>,
    versions: MessageVersions,
}

impl PeerInfo {
    /// The longest agent name, host name, boot id or transport name, in bytes.
    pub const MAX_NAME_BYTES: usize = 255;

    /// The most transports that a peer can list.
    pub const MAX_TRANSPORTS: usize = 32;

    /// The most devices that a peer can list.
    pub const MAX_DEVICES: usize = 64;

    /// Describes a peer with no transports, capabilities and devices yet, and the default message versions.
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
            devices: Vec::new(),
            versions: MessageVersions::default(),
        })
    }

    /// Whether a text can be the name of an agent: 1 to [`MAX_NAME_BYTES`](Self::MAX_NAME_BYTES) bytes without control characters
    /// and Unicode's format characters.
    #[must_use]
    pub fn is_name(text: &str) -> bool {
        name::check(Field::AgentName, text, Self::MAX_NAME_BYTES).is_ok()
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

    /// Sets the peer's devices, in any order.
    ///
    /// # Errors
    ///
    /// [`MetadataError::TooManyDevices`] beyond [`MAX_DEVICES`](Self::MAX_DEVICES), and
    /// [`MetadataError::DuplicateDevice`] if two have the same ordinal.
    pub fn with_devices(
        mut self,
        devices: impl IntoIterator<Item = PeerDevice>,
    ) -> Result<Self, MetadataError> {
        let mut seen = HashSet::new();
        self.devices.clear();
        for (index, device) in devices.into_iter().enumerate() {
            if index == Self::MAX_DEVICES {
                return Err(MetadataError::TooManyDevices { limit: Self::MAX_DEVICES });
            }
            if !seen.insert(device.device()) {
                return Err(MetadataError::DuplicateDevice { index, device: device.device() });
            }
            self.devices.push(device);
        }
        Ok(self)
    }

    /// Sets the versions of the messages that the peer speaks. The native profile carries them from version 4.
    #[must_use]
    pub const fn with_versions(mut self, versions: MessageVersions) -> Self {
        self.versions = versions;
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

    /// The peer's devices, no two with the same ordinal.
    #[must_use]
    pub fn devices(&self) -> &[PeerDevice] {
        &self.devices
    }

    /// The versions of the messages that the peer speaks.
    #[must_use]
    pub const fn versions(&self) -> MessageVersions {
        self.versions
    }

    /// Refuses names that are longer than a receiver allows.
    pub(crate) fn check_names(&self, limits: &Limits) -> Result<(), MetadataError> {
        let names = [
            (Field::AgentName, &*self.agent_name),
            (Field::HostName, self.host.hostname()),
            (Field::BootId, self.host.boot_id().unwrap_or_default()),
        ];
        let transports = self.transports.iter().enumerate();
        names
            .into_iter()
            .chain(transports.map(|(index, name)| (Field::Transport(index), &**name)))
            .try_for_each(|(field, name)| at_most(field, name.len(), limits.name_bytes))
    }
}
