//! The importer's side of notifications: sending.

use std::sync::Arc;

use crate::control::{ControlMessage, ControlVerb, Message};
use crate::{Driver, Mailbox, OperationError, OperationOptions, PeerId, TransportError};

impl Driver {
    /// The version of the messages about offers and exports ([`MessageVersions::claims`](nixl_metadata::MessageVersions::claims))
    /// that has notifications of exports. Owners of earlier releases ignore them.
    pub const NOTIFICATIONS_SINCE: u16 = 2;

    /// Sends the owner of an export, a connected peer, a notification of an import; its number is one higher than that of the
    /// import's last. Those of one import go through the owner's mailbox, or none does: nothing orders it with the engine.
    ///
    /// Cancel safe: the message is sent or it is not.
    ///
    /// # Errors
    ///
    /// As [`Mailbox::post`] and [`Transport::notify`](crate::Transport::notify), [`OperationError::TimedOut`] if the mailbox stays
    /// full for the time of `options`, or [`OperationError::QueueFull`].
    pub async fn notify_export(
        self: &Arc<Self>,
        export: u64,
        import: [u8; 16],
        (sequence, payload): (u64, &[u8]),
        (peer, mailbox): (&PeerId, Option<Mailbox>),
        options: OperationOptions,
    ) -> Result<(), OperationError> {
        let transport = self.shared().transport().ok_or(TransportError::Closed)?;
        let verb = ControlVerb::Notification { sequence, payload };
        let payload = ControlMessage { key: &import, token: export, verb }.encode();
        Message::new(transport, peer.clone(), payload).by(mailbox).send(self, options).await
    }
}
