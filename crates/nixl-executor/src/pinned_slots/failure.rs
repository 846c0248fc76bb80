//! Reasons for which no slot is available.

use std::borrow::Cow;
use std::time::Duration;

use nixl_device::SharedError;
use nixl_ops::TransportError;

/// A failed allocation or registration.
#[derive(Clone)]
pub(super) struct Failure {
    pub(super) reason: String,
    pub(super) at: Duration,
}

impl Failure {
    /// How long no other allocation is tried.
    const RETRY: Duration = Duration::from_secs(1);

    pub(super) fn is_recent(&self, now: Duration) -> bool {
        now.saturating_sub(self.at) < Self::RETRY
    }
}

pub(super) const EXHAUSTED: &str = "every slot may still be used by peers that stalled: they come back when those peers go on or end";

pub(super) fn failed(reason: impl Into<Cow<'static, str>>) -> TransportError {
    failed_by(SharedError::text(reason))
}

pub(super) fn failed_by(error: impl Into<SharedError>) -> TransportError {
    TransportError::Engine { engine: "staging", call: "prepare", reason: error.into() }
}
