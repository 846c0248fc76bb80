//! Telling a peer that its request cannot be served.

use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use nixl_ops::{Execution, PathKind, PathReport, TransportError};

use super::message::Message;
use super::outbox::Outbox;
use super::session::Membership;
use super::staging::Staging;

/// One message, once the peer has been met.
pub(super) struct Refusal {
    staging: Arc<Staging>,
    /// Keeps the session's name taken.
    _session: Membership,
    outbox: Outbox,
    begun: Duration,
}

impl Refusal {
    pub(super) fn new(
        staging: Arc<Staging>,
        session: Membership,
        mut outbox: Outbox,
        word: &Message,
    ) -> Self {
        outbox.push(word);
        let begun = staging.link().clock.now();
        Self { staging, _session: session, outbox, begun }
    }
}

impl Execution for Refusal {
    fn poll(&mut self) -> Poll<Result<(), TransportError>> {
        let link = self.staging.link();
        let now = link.clock.now();
        self.outbox.flush(link, now)?;
        let waited = now.saturating_sub(self.begun) >= self.staging.config().silence;
        match self.outbox.is_empty() || waited {
            true => Poll::Ready(Ok(())),
            false => Poll::Pending,
        }
    }

    fn abandon(&mut self) -> bool {
        true
    }

    fn report(&self) -> PathReport {
        PathReport::new(PathKind::StagedOneSide, "refusal", 0, 0)
    }
}
