//! The message that declines an offer.

use std::sync::Arc;
use std::task::{Context, Poll};

use nixl_metadata::{NotificationKey, OfferTerms};

use super::message::{ControlMessage, ControlVerb};
use crate::{
    CopyOperation, Driver, Execution, OperationError, OperationOptions, PathKind, PathReport,
    PeerId, Transport, TransportError,
};

impl Driver {
    /// Tells the owner of an offer, a connected peer, that this side does not use it.
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
        let message = Box::new(Message::new(transport, peer.clone(), payload));
        let options = OperationOptions::new();
        let mut sent = CopyOperation::begin(self, message, 0, Vec::new(), options)?;
        sent.wait_for_completion().await.map(drop)
    }
}

/// A message that is sent when the engine takes it.
pub(crate) struct Message {
    transport: Arc<dyn Transport>,
    peer: PeerId,
    payload: Vec<u8>,
}

impl Message {
    pub(crate) fn new(transport: Arc<dyn Transport>, peer: PeerId, payload: Vec<u8>) -> Self {
        Self { transport, peer, payload }
    }
}

impl Execution for Message {
    fn poll(&mut self, _: &mut Context<'_>) -> Poll<Result<(), TransportError>> {
        self.transport.notify(&self.peer, &self.payload)
    }

    fn abandon(&mut self) -> bool {
        true
    }

    fn report(&self) -> PathReport {
        PathReport::new(PathKind::Direct, "message", 0, 0)
    }
}
