//! The messages of waits for layers: how they are sent, and what they do when they arrive.

use std::sync::{Arc, Weak};

use bytes::Bytes;

use super::super::message::GrantMessage;
use super::hints::LayerWatch;
use super::watchers::Watcher;
use crate::control::{ControlMessage, ControlVerb, Message};
use crate::{
    Driver, GrantError, GrantTable, Mailbox, OperationError, OperationOptions, PeerId,
    TransportError,
};

impl Driver {
    /// The version of the messages about offers and exports ([`MessageVersions::claims`](nixl_metadata::MessageVersions::claims))
    /// whose owners notify readers of ready layers. Owners of earlier releases ignore the request.
    pub const LAYER_WAITS_SINCE: u16 = 3;

    /// Takes an owner's messages about the layers of a grant, for a reader of this random number.
    pub fn watch_layers(&self, reader: [u8; 16], generation: u64) -> Arc<LayerWatch> {
        self.shared().hints.watch(reader, generation)
    }

    /// Requests notices of a grant's layers from its owner, a connected peer. `metadata` is that of this connection's agent, as it
    /// travels, unless the owner's `mailbox` takes the message: then its answers come to this connection's mailbox.
    ///
    /// Cancel safe: the message is sent or it is not.
    ///
    /// # Errors
    ///
    /// As [`Mailbox::post`] and [`Transport::notify`](crate::Transport::notify), [`OperationError::TimedOut`] if the mailbox stays
    /// full for the time of `options`, or [`OperationError::QueueFull`].
    pub async fn ask_for_layers(
        self: &Arc<Self>,
        message: &GrantMessage,
        metadata: &[u8],
        (peer, mailbox): (&PeerId, Option<Mailbox>),
        options: OperationOptions,
    ) -> Result<(), OperationError> {
        let transport = self.shared().transport().ok_or(TransportError::Closed)?;
        let (key, verb) = (message.encode(), ControlVerb::Watch { metadata });
        let payload = ControlMessage { key: &key, token: 0, verb }.encode();
        Message::new(transport, peer.clone(), payload).by(mailbox).send(self, options).await
    }
}

impl GrantTable {
    /// Notifies a reader of this process of the layers of a grant.
    ///
    /// # Errors
    ///
    /// As [`done`](Self::done), and [`GrantError::Over`].
    pub fn watch_here(
        &self,
        message: &GrantMessage,
        watch: &Arc<LayerWatch>,
    ) -> Result<(), GrantError> {
        let watch = Arc::downgrade(watch);
        let tell = move |layers| {
            Weak::upgrade(&watch).into_iter().for_each(|watch| watch.note(layers));
        };
        self.watch(message, Watcher::new("", *message.reader(), tell)).map(drop)
    }
}

/// A reader's request for notice of layers.
pub(crate) struct WatchRequest {
    pub(crate) message: GrantMessage,
    /// Of its agent, as it travels; empty if its mailbox takes the answer.
    pub(crate) metadata: Bytes,
}

impl WatchRequest {
    /// `None` if it is damaged.
    pub(crate) fn decode(key: &[u8], metadata: &[u8]) -> Option<Self> {
        let message = GrantMessage::decode(key)?;
        Some(Self { message, metadata: Bytes::copy_from_slice(metadata) })
    }
}
