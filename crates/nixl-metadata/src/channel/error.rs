//! Errors of channels.

use std::sync::Arc;
use std::time::Duration;

use nixl_device::Advice;
use serde::{Deserialize, Serialize};

use super::{Incarnation, WorkerName};
use crate::MetadataError;
#[cfg(feature = "seal")]
use crate::seal::SealError;

/// The cause of a failure of a backend, shared by the copies of its error.
type Cause = Arc<dyn std::error::Error + Send + Sync>;

/// A call on a channel failed.
///
/// No variant quotes a payload, a password, a token or a key. Text of a server is cut short and escaped.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ChannelError {
    /// A text cannot be the name of a worker.
    #[error("a worker cannot have that name")]
    BadName(#[from] MetadataError),
    /// The channel cannot be reached; nothing was sent.
    #[error("{place} cannot be reached: start it, or check its address")]
    Down {
        /// The server.
        place: String,
        /// The backend's error, where it has one.
        #[source]
        source: Option<Cause>,
    },
    /// The connection ended before the answer. The call may have taken effect.
    #[error("the connection to {place} ended before its answer: the call may have taken effect")]
    Lost {
        /// The server.
        place: String,
        /// The backend's error, where it has one.
        #[source]
        source: Option<Cause>,
    },
    /// No answer came in time. The call may have taken effect.
    #[error(
        "{place} gave no answer to `{call}` within {within:?}: the channel or the worker is slow"
    )]
    TimedOut {
        /// The server.
        place: String,
        /// What was called.
        call: &'static str,
        /// The time that it had.
        within: Duration,
    },
    /// A message is longer than a limit.
    #[error(
        "a message of {len} bytes is longer than the limit of {limit}: send less or raise `max_bytes`"
    )]
    TooLarge {
        /// Its length in bytes; a lower bound where reading stopped at the limit.
        len: usize,
        /// The limit, in bytes.
        limit: usize,
    },
    /// There is no entry, or no worker that takes requests, of that name.
    #[error("no worker `{name}` is there: wait for it, or watch its name")]
    NotFound {
        /// The name.
        name: WorkerName,
    },
    /// The channel answered with the entry of another worker.
    #[error(
        "the channel returned an entry of `{found}` for `{wanted}`: its store is damaged or forged"
    )]
    WrongEntry {
        /// The requested name.
        wanted: WorkerName,
        /// The name in the entry.
        found: WorkerName,
    },
    /// A later start of the worker has published.
    #[error(
        "`{name}` has started anew: {current} has replaced {offered}; end this one, or wait if a clock was set back"
    )]
    OlderIncarnation {
        /// The worker's name.
        name: WorkerName,
        /// The start that tried to publish.
        offered: Incarnation,
        /// The start that is there.
        current: Incarnation,
    },
    /// The same start of the worker has published again.
    #[error("`{name}` was published again: drop the `Published` of the earlier call")]
    Republished {
        /// The worker's name.
        name: WorkerName,
    },
    /// A bounded store or queue has no room.
    #[error("{what} is full: wait, or raise its limit")]
    Full {
        /// What has no room.
        what: String,
    },
    /// The server or the worker refused.
    #[error("refused: {reason}")]
    Refused {
        /// Its reason, cut short and escaped.
        reason: String,
    },
    /// The server does not accept the credentials.
    #[error(
        "{place} does not accept the credentials: check the user, the token or the certificate"
    )]
    Unauthorized {
        /// The server.
        place: String,
    },
    /// A message that should be one of the channel's protocol is none.
    #[error("{what} is malformed: the other side is no channel of this kind, or sends forged data")]
    Malformed {
        /// Which message.
        what: &'static str,
    },
    /// Metadata would pass to or from another host in the clear.
    #[error(
        "metadata would travel unsealed to {host} without TLS: use TLS, seal it, or allow the host by `allow_unsealed`"
    )]
    Unsealed {
        /// The other host.
        host: String,
    },
    /// A message could not be sealed, or its seal does not hold.
    #[cfg(feature = "seal")]
    #[error("the seal of a message is not valid")]
    Sealed(#[from] SealError),
}

impl ChannelError {
    /// What to do about it: [`AskAgain`](Advice::AskAgain) for what time may mend, else [`GiveUp`](Advice::GiveUp).
    #[must_use]
    pub fn advice(&self) -> Advice {
        match self {
            Self::Down { .. }
            | Self::Lost { .. }
            | Self::TimedOut { .. }
            | Self::NotFound { .. }
            | Self::Full { .. } => Advice::AskAgain,
            #[cfg(feature = "seal")]
            Self::Sealed(error) => error.advice(),
            Self::BadName(_)
            | Self::TooLarge { .. }
            | Self::WrongEntry { .. }
            | Self::OlderIncarnation { .. }
            | Self::Republished { .. }
            | Self::Refused { .. }
            | Self::Unauthorized { .. }
            | Self::Malformed { .. }
            | Self::Unsealed { .. } => Advice::GiveUp,
        }
    }

    pub(crate) fn down(
        place: &str,
        source: impl std::error::Error + Send + Sync + 'static,
    ) -> Self {
        Self::Down { place: place.to_owned(), source: Some(Arc::new(source)) }
    }

    pub(crate) fn lost(
        place: &str,
        source: impl std::error::Error + Send + Sync + 'static,
    ) -> Self {
        Self::Lost { place: place.to_owned(), source: Some(Arc::new(source)) }
    }

    pub(crate) fn refused(reason: &str) -> Self {
        Self::Refused { reason: short(reason) }
    }
}

/// The start of a text of the other side, without control characters.
pub(crate) fn short(text: &str) -> String {
    text.chars().take(200).flat_map(char::escape_debug).take(400).collect()
}

/// An error as it travels from a server.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Fault {
    NotFound { name: WorkerName },
    OlderIncarnation { name: WorkerName, offered: Incarnation, current: Incarnation },
    TooLarge { len: u64, limit: u64 },
    Full { what: String },
    Refused { reason: String },
    Unsealed,
    TimedOut { within_ms: u64 },
    Malformed,
    Republished { name: WorkerName },
}

impl Fault {
    pub(crate) fn of(error: &ChannelError) -> Self {
        match error {
            ChannelError::NotFound { name } => Self::NotFound { name: name.clone() },
            ChannelError::OlderIncarnation { name, offered, current } => {
                Self::OlderIncarnation { name: name.clone(), offered: *offered, current: *current }
            }
            ChannelError::TooLarge { len, limit } => {
                Self::TooLarge { len: *len as u64, limit: *limit as u64 }
            }
            ChannelError::Full { what } => Self::Full { what: what.clone() },
            ChannelError::Refused { reason } => Self::Refused { reason: reason.clone() },
            ChannelError::Unsealed { .. } => Self::Unsealed,
            ChannelError::TimedOut { within, .. } => {
                Self::TimedOut { within_ms: u64::try_from(within.as_millis()).unwrap_or(u64::MAX) }
            }
            ChannelError::Malformed { .. } => Self::Malformed,
            ChannelError::Republished { name } => Self::Republished { name: name.clone() },
            other => Self::Refused { reason: short(&other.to_string()) },
        }
    }

    pub(crate) fn into_error(self, place: &str) -> ChannelError {
        let size = |len| usize::try_from(len).unwrap_or(usize::MAX);
        match self {
            Self::NotFound { name } => ChannelError::NotFound { name },
            Self::OlderIncarnation { name, offered, current } => {
                ChannelError::OlderIncarnation { name, offered, current }
            }
            Self::TooLarge { len, limit } => {
                ChannelError::TooLarge { len: size(len), limit: size(limit) }
            }
            Self::Full { what } => ChannelError::Full { what: short(&what) },
            Self::Refused { reason } => ChannelError::refused(&reason),
            Self::Unsealed => ChannelError::Unsealed { host: place.to_owned() },
            Self::TimedOut { within_ms } => ChannelError::TimedOut {
                place: place.to_owned(),
                call: "request",
                within: Duration::from_millis(within_ms),
            },
            Self::Malformed => ChannelError::Malformed { what: "the call, by the server's reply," },
            Self::Republished { name } => ChannelError::Republished { name },
        }
    }
}
