//! A notification, and which import it is of.

use std::fmt;
use std::sync::Arc;

use bytes::Bytes;

/// An import of an export, as its owner tells it from others.
#[derive(Clone, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct NotificationSender {
    agent: Arc<str>,
    import: [u8; 16],
}

impl NotificationSender {
    /// An import, by the number that it has at random, of the agent of this name.
    pub fn new(agent: &str, import: [u8; 16]) -> Self {
        Self { agent: agent.into(), import }
    }

    /// The name of the importer's agent, as its engine states it: not authenticated.
    pub fn agent_name(&self) -> &str {
        &self.agent
    }
}

impl fmt::Debug for NotificationSender {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Who knows the import can send in its name.
        f.debug_struct("NotificationSender").field("agent", &self.agent).finish_non_exhaustive()
    }
}

/// A message of an importer to the owner of the export.
#[derive(Clone, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub struct ExportNotification {
    /// Which import sent it.
    pub sender: NotificationSender,
    /// What the importer passed.
    pub payload: Bytes,
    /// How many notifications of this sender, between the one that was received before and this one, are lost.
    pub lost: u64,
}

impl ExportNotification {
    /// The longest payload, in bytes.
    pub const MAX_BYTES: usize = 4096;
}
