//! The notification that completes an operation at its target.

use std::fmt;
use std::sync::Arc;
use std::task::Poll;

use nixl_metadata::NotificationKey;

use crate::{PeerId, RemoteSlot, Route, Transport, TransportError};

/// Notifies the target of completion: by the offer's slot if it is mapped, else by a notification of the engine.
pub struct CompletionNotifier {
    /// The target waits for no notification.
    is_silent: bool,
    slot: Option<RemoteSlot>,
    transport: Arc<dyn Transport>,
    peer: PeerId,
    key: NotificationKey,
}

impl CompletionNotifier {
    /// A notifier for an offer of this key.
    pub fn new(route: &Route<'_>, key: &NotificationKey) -> Self {
        Self {
            is_silent: !route.notifies,
            slot: route.slot.cloned(),
            transport: Arc::clone(route.transport),
            peer: route.peer.clone(),
            key: key.clone(),
        }
    }

    /// A notifier by the engine, for an offer of this key whose slot is not mapped.
    pub fn of_engine(transport: &Arc<dyn Transport>, peer: &PeerId, key: &NotificationKey) -> Self {
        let (transport, peer, key) = (Arc::clone(transport), peer.clone(), key.clone());
        Self { is_silent: false, slot: None, transport, peer, key }
    }

    /// Notifies the target, if it [waits for that](Route::notifies). `Pending`: try again later.
    ///
    /// # Errors
    ///
    /// [`TransportError::NotificationFailed`]; [`TransportError::Stale`] if the target ended the offer while it was read.
    pub fn notify(&self) -> Poll<Result<(), TransportError>> {
        if self.is_silent {
            return Poll::Ready(Ok(()));
        }
        match self.slot.as_ref().map(RemoteSlot::complete) {
            Some(Ok(())) => return Poll::Ready(Ok(())),
            Some(Err(TransportError::Stale)) => return Poll::Ready(Err(TransportError::Stale)),
            // A slot of the earlier protocol in use, or an overwritten word.
            Some(Err(_)) | None => {}
        }
        let failed = |error: TransportError| TransportError::NotificationFailed {
            reason: error.to_string().into(),
        };
        self.transport.notify(&self.peer, self.key.as_bytes()).map_err(failed)
    }
}

impl fmt::Debug for CompletionNotifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CompletionNotifier").field("peer", &self.peer).finish_non_exhaustive()
    }
}
