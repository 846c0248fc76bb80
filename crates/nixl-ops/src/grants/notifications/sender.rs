//! A notification, with its import.

use std::fmt;
use std::sync::Arc;

use bytes::Bytes;

/// The identity of an import for the owner of its export.
#[derive(Clone, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct NotificationSender {
    agent: Arc<str>,
    import: [u8; 16],
}

impl NotificationSender {
    /// An import, by its random number, of the agent of this name.
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
        // The number permits sending in the import's name.
        f.debug_struct("NotificationSender").field("agent", &self.agent).finish_non_exhaustive()
    }
}

/// A message of an importer to the owner of the export.
#[derive(Clone, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub struct ExportNotification {
    /// The import that sent it.
    pub sender: NotificationSender,
    /// The payload.
    pub payload: Bytes,
    /// The number of lost notifications of this sender since the one received before.
    pub lost: u64,
}

impl ExportNotification {
    /// The longest payload, in bytes.
    pub const MAX_BYTES: usize = 4096;

    /// A message as its receiver gets it, for instance for the tests of one.
    #[must_use]
    pub fn new(sender: NotificationSender, payload: Bytes, lost: u64) -> Self {
        Self { sender, payload, lost }
    }
}
