//! Errors of sessions.

use std::borrow::Cow;

use nixl_device::{ProcessError, SharedError};
use nixl_ops::TransportError;

/// Staging failed.
pub(crate) fn failed(call: &'static str, reason: impl Into<Cow<'static, str>>) -> TransportError {
    TransportError::Engine { engine: "staging", call, reason: SharedError::text(reason) }
}

/// Staging failed, by this error.
pub(crate) fn failed_by(call: &'static str, error: impl Into<SharedError>) -> TransportError {
    TransportError::Engine { engine: "staging", call, reason: error.into() }
}

/// The peer's process cannot be watched.
pub(crate) fn unwatched(call: &'static str, error: ProcessError) -> TransportError {
    let text = format!("the peer's process cannot be watched: {error}");
    failed_by(call, SharedError::with_source(text, error))
}

/// The peer did what it must not.
pub(crate) fn violated(what: impl Into<Cow<'static, str>>) -> TransportError {
    let what: Cow<'static, str> = what.into();
    failed("peer", format!("the peer broke the protocol: {what}"))
}

/// Whether an error means that the peer cannot reach this side any more.
pub(crate) fn gone(error: &TransportError) -> bool {
    matches!(error, TransportError::PeerGone { .. } | TransportError::Closed)
}
