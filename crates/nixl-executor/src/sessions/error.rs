//! Errors of sessions.

use std::borrow::Cow;

use nixl_ops::TransportError;

/// Staging failed.
pub(crate) fn failed(call: &'static str, reason: impl Into<Cow<'static, str>>) -> TransportError {
    TransportError::Engine { engine: "staging", call, reason: reason.into() }
}

/// The peer did what it must not.
pub(crate) fn violated(what: impl Into<Cow<'static, str>>) -> TransportError {
    let what: Cow<'static, str> = what.into();
    failed("peer", format!("the peer broke the protocol: {what}"))
}

/// Whether an error says that the peer cannot reach this side any more.
pub(crate) fn gone(error: &TransportError) -> bool {
    matches!(error, TransportError::PeerGone { .. } | TransportError::Closed)
}
