//! The reply to a peer whose request is not served.

use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use nixl_ops::{Execution, PathKind, PathReport, TransportError};

use super::{Membership, Sessions};
use crate::messages::{Message, Outbox};

/// One message, once the peer is connected.
pub(crate) struct RefusalReply {
    sessions: Arc<Sessions>,
    session: Membership,
    outbox: Outbox,
    begun: Duration,
    /// The answer to repeated requests. The session's name stays taken for the silence time-out then, so that a request of
    /// this name that comes late is none any more.
    keep_answering: Option<Message>,
}

impl RefusalReply {
    pub(crate) fn new(
        sessions: Arc<Sessions>,
        session: Membership,
        mut outbox: Outbox,
        message: &Message,
    ) -> Self {
        outbox.push(message);
        let begun = sessions.link().clock().now();
        Self { sessions, session, outbox, begun, keep_answering: None }
    }

    /// Says it again and again, as often as it is asked.
    pub(crate) fn keep_answering(self, message: Message) -> Self {
        Self { keep_answering: Some(message), ..self }
    }
}

impl Execution for RefusalReply {
    fn poll(&mut self, _: &mut Context<'_>) -> Poll<Result<(), TransportError>> {
        let link = self.sessions.link();
        let now = link.clock().now();
        let waited = now.saturating_sub(self.begun) >= self.sessions.config().silence;
        let inbox = self.session.take();
        if inbox.peer_gone {
            return Poll::Ready(Ok(()));
        }
        if let Some(message) = &self.keep_answering {
            if !inbox.messages.is_empty() && self.outbox.is_empty() {
                self.outbox.push(message);
            }
            // Dropped on failure; the peer repeats its request.
            if self.outbox.flush(link, now).is_err() {
                self.outbox.clear();
            }
            return if waited { Poll::Ready(Ok(())) } else { Poll::Pending };
        }
        self.outbox.flush(link, now)?;
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
