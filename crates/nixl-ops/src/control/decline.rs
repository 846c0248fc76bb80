//! The message that declines an offer.

use std::sync::Arc;
use std::task::{Context, Poll};

use nixl_metadata::{NotificationKey, OfferTerms};

use super::message::{ControlMessage, ControlVerb};
use crate::{
    CopyOperation, Driver, Execution, Mailbox, OperationError, OperationOptions, PathKind,
    PathReport, PeerId, Transport, TransportError,
};

impl Driver {
    /// Declines an offer to its owner, a connected peer.
    ///
    /// Cancel safe: the message is sent or it is not.
    ///
    /// # Errors
    ///
    /// As [`Transport::notify`], or [`OperationError::QueueFull`].
    pub async fn decline(
        self: &Arc<Self>,
        key: &NotificationKey,
        terms: &OfferTerms,
        peer: &PeerId,
    ) -> Result<(), OperationError> {
        let transport = self.shared().transport().ok_or(TransportError::Closed)?;
        let (key, token) = (key.as_bytes(), terms.token().get());
        let payload = ControlMessage { key, token, verb: ControlVerb::Decline }.encode();
        Message::new(transport, peer.clone(), payload).send(self, OperationOptions::new()).await
    }
}

/// A message, sent once the mailbox of its peer or the engine accepts it.
pub(crate) struct Message {
    transport: Arc<dyn Transport>,
    peer: PeerId,
    payload: Vec<u8>,
    mailbox: Option<Mailbox>,
}

impl Message {
    pub(crate) fn new(transport: Arc<dyn Transport>, peer: PeerId, payload: Vec<u8>) -> Self {
        Self { transport, peer, payload, mailbox: None }
    }

    /// Through the mailbox, if there is one and the message is short enough.
    pub(crate) fn by(mut self, mailbox: Option<Mailbox>) -> Self {
        let agent = self.transport.agent_name();
        self.mailbox = mailbox.filter(|_| Mailbox::fits(agent, &self.payload));
        self
    }

    /// Sends it: at once if a mailbox accepts it, else by an operation that waits until it is accepted.
    pub(crate) async fn send(
        self,
        driver: &Arc<Driver>,
        options: OperationOptions,
    ) -> Result<(), OperationError> {
        driver.check_process()?;
        if self.mailbox.is_some()
            && let Poll::Ready(sent) = self.post()
        {
            return Ok(sent?);
        }
        let mut sent = CopyOperation::begin(driver, Box::new(self), 0, Vec::new(), options)?;
        sent.wait_for_completion().await.map(drop)
    }

    fn post(&self) -> Poll<Result<(), TransportError>> {
        match &self.mailbox {
            Some(mailbox) => {
                mailbox.post_fitting(&self.peer, self.transport.agent_name(), &self.payload)
            }
            None => self.transport.notify(&self.peer, &self.payload),
        }
    }
}

impl Execution for Message {
    fn poll(&mut self, _: &mut Context<'_>) -> Poll<Result<(), TransportError>> {
        self.post()
    }

    fn abandon(&mut self) -> bool {
        true
    }

    fn report(&self) -> PathReport {
        PathReport::new(PathKind::Direct, "message", 0, 0)
    }
}
