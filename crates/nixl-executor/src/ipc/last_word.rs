//! The word that ends an operation.

use std::sync::Arc;
use std::task::Poll;

use nixl_metadata::{NotificationKey, RdmaMetadata};
use nixl_ops::{PeerId, Transport, TransportError};

use super::{Bell, PeerBoards};

/// What tells a target that all bytes are in place: its doorbell if it can be reached, else a notification of the engine's.
pub(crate) struct LastWord {
    bell: Option<Bell>,
    transport: Arc<dyn Transport>,
    peer: PeerId,
    key: NotificationKey,
}

impl LastWord {
    /// For an offer of this peer.
    pub(crate) fn about(
        remote: &RdmaMetadata,
        (transport, peer): (&Arc<dyn Transport>, &PeerId),
        boards: &PeerBoards,
    ) -> Self {
        Self {
            bell: remote.doorbell().and_then(|doorbell| boards.get(doorbell)),
            transport: Arc::clone(transport),
            peer: peer.clone(),
            key: remote.notification_key().clone(),
        }
    }

    /// Whether there is a doorbell for it.
    pub(crate) fn rings(&self) -> bool {
        self.bell.is_some()
    }

    /// Says it. `Pending`: not now, ask again.
    ///
    /// # Errors
    ///
    /// [`TransportError::NotificationFailed`].
    pub(crate) fn say(&self) -> Poll<Result<(), TransportError>> {
        if self.bell.as_ref().is_some_and(Bell::ring) {
            return Poll::Ready(Ok(()));
        }
        let failed = |error: TransportError| TransportError::NotificationFailed {
            reason: error.to_string().into(),
        };
        self.transport.notify(&self.peer, self.key.as_bytes()).map_err(failed)
    }
}
