//! The answers to readers that request the layers of a grant.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use bytes::Bytes;

use super::message::{ControlMessage, ControlVerb};
use super::owner::Owner;
use crate::grants::Watcher;
use crate::{Mailboxes, PeerId};

/// The latest number for one reader.
#[derive(Default)]
struct Latest {
    layers: AtomicU64,
    /// A message with it is queued.
    queued: AtomicBool,
}

impl Owner {
    /// A watcher that notifies an agent's reader, on the connection's blocking thread: by its mailbox, or through the engine if its
    /// `metadata` came with the request. At most one message is queued at a time. `None` without a way to tell it.
    pub(crate) fn layer_watcher(
        &self,
        (agent, metadata): (&str, Bytes),
        (reader, generation): ([u8; 16], u64),
        mailboxes: Option<&Arc<Mailboxes>>,
    ) -> Option<Arc<Watcher>> {
        let mailboxes = mailboxes.filter(|_| metadata.is_empty()).cloned();
        if metadata.is_empty() && mailboxes.is_none() {
            return None;
        }
        let (me, peer, latest) = (self.clone(), PeerId::new(agent), Arc::<Latest>::default());
        let tell = move |layers| {
            latest.layers.fetch_max(layers, Ordering::SeqCst);
            if latest.queued.swap(true, Ordering::SeqCst) {
                return;
            }
            let said = Arc::clone(&latest);
            let payload = move || {
                // Before the number is read: a later one is queued anew.
                said.queued.store(false, Ordering::SeqCst);
                let layers = said.layers.load(Ordering::SeqCst);
                let verb = ControlVerb::LayersReady { layers };
                ControlMessage { key: &reader, token: generation, verb }.encode()
            };
            let is_queued = match &mailboxes {
                Some(mailboxes) => me.post(&peer, mailboxes, payload),
                None => me.answer_with(peer.as_str(), &metadata, payload),
            };
            if !is_queued {
                // The reader repeats its request.
                latest.queued.store(false, Ordering::SeqCst);
            }
        };
        Some(Watcher::new(agent, reader, tell))
    }

    /// Posts a message to the mailbox of an agent that has written to this one's. Returns whether it is queued. What a full lane
    /// does not take is lost.
    fn post(
        &self,
        to: &PeerId,
        mailboxes: &Arc<Mailboxes>,
        payload: impl FnOnce() -> Vec<u8> + Send + 'static,
    ) -> bool {
        let (mailboxes, transport, to) =
            (Arc::clone(mailboxes), Arc::clone(&self.transport), to.clone());
        self.background.run_for_peer(Box::new(move || {
            let payload = payload();
            let Some(page) = mailboxes.page_of(to.as_str()) else { return };
            if !mailboxes.knows(&page) {
                mailboxes.open(&page);
            }
            let Some(mailbox) = mailboxes.get(&page) else {
                return tracing::debug!(%to, "the mailbox of a reader is not reached");
            };
            let _ = mailbox.post(&to, transport.agent_name(), &payload);
        }))
    }
}
