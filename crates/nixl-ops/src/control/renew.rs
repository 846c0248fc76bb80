//! The renewal of offers of an export's blocks.

use std::sync::Arc;

use nixl_metadata::NotificationKey;

use super::decline::Message;
use super::message::{ControlMessage, ControlVerb};
use crate::{Driver, Mailbox, OperationError, OperationOptions, PeerId, TransportError};

impl Driver {
    /// Gives an offer of this connection's, of an export's blocks, its time to live anew. Returns `false` if it has ended.
    pub fn renew_offer(&self, key: &NotificationKey, token: u64) -> bool {
        self.shared().passive.renew(key.as_bytes(), token)
    }

    /// Sends the request to the owner of such an offer, a connected peer.
    ///
    /// Cancel safe: the message is sent or it is not.
    ///
    /// # Errors
    ///
    /// As [`Mailbox::post`] and [`Transport::notify`](crate::Transport::notify), [`OperationError::TimedOut`] if the mailbox stays
    /// full for the time of `options`, or [`OperationError::QueueFull`].
    pub async fn ask_to_renew_offer(
        self: &Arc<Self>,
        (key, token): (&NotificationKey, u64),
        (peer, mailbox): (&PeerId, Option<Mailbox>),
        options: OperationOptions,
    ) -> Result<(), OperationError> {
        let transport = self.shared().transport().ok_or(TransportError::Closed)?;
        let verb = ControlVerb::Renew;
        let payload = ControlMessage { key: key.as_bytes(), token, verb }.encode();
        Message::new(transport, peer.clone(), payload).by(mailbox).send(self, options).await
    }
}
