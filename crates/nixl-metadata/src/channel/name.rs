//! Names of workers, and the order of their starts.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};

use super::ChannelError;
use crate::{Field, PeerInfo, name};

/// The name of a worker on a channel: by the rule for names of agents, checked once.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct WorkerName(Arc<str>);

impl WorkerName {
    /// Checks a name.
    ///
    /// # Errors
    ///
    /// [`ChannelError::BadName`] unless it is 1 to [`PeerInfo::MAX_NAME_BYTES`] bytes without control and format characters.
    pub fn new(name: impl AsRef<str>) -> Result<Self, ChannelError> {
        let name = name.as_ref();
        name::check(Field::AgentName, name, PeerInfo::MAX_NAME_BYTES)?;
        Ok(Self(name.into()))
    }

    /// The text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for WorkerName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl From<WorkerName> for String {
    fn from(name: WorkerName) -> Self {
        name.as_str().to_owned()
    }
}

impl TryFrom<String> for WorkerName {
    type Error = ChannelError;

    fn try_from(name: String) -> Result<Self, ChannelError> {
        Self::new(name)
    }
}

/// Which start of a worker an entry is of. A later start has a larger number, and replaces the entry of an earlier one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Incarnation(u64);

impl Incarnation {
    /// The start with this number.
    #[must_use]
    pub const fn new(value: u64) -> Self {
        Self(value)
    }

    /// The start at this time of the host's clock, in microseconds since 1970. A host whose clock was set back waits for the
    /// end of its earlier entry's life.
    #[must_use]
    pub fn now() -> Self {
        let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
        let micros = since.as_ref().map_or(0, Duration::as_micros);
        Self(u64::try_from(micros).unwrap_or(u64::MAX))
    }

    /// The number.
    #[must_use]
    pub const fn value(self) -> u64 {
        self.0
    }
}

impl fmt::Display for Incarnation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}
