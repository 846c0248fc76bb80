//! The transfers of one connection that need slots or sessions, and the routing of peers' messages to them.

use std::sync::Arc;

use nixl_ops::{ConnectionContext, Received};

use super::remote_copy::{RemoteCopies, RemoteCopyContext};
use super::staged::Staging;
use crate::messages::Message;
use crate::peers::Peers;
use crate::pinned_slots::{SlotPools, StagingConfig};
use crate::sessions::Sessions;

/// The sessions of a connection, and what serves them.
#[derive(Debug)]
pub(crate) struct Services {
    pub(crate) sessions: Arc<Sessions>,
    pub(crate) staging: Arc<Staging>,
    pub(crate) remote_copies: RemoteCopies,
}

impl Services {
    pub(crate) fn new(
        remote_copies: RemoteCopyContext,
        link: ConnectionContext,
        peers: Arc<Peers>,
        (config, pools): (StagingConfig, &SlotPools),
    ) -> Self {
        let sessions = Sessions::new(link, config, peers);
        let staging = Staging::new(&sessions, &remote_copies, pools);
        let remote_copies = RemoteCopies::new(&sessions, remote_copies);
        Self { sessions, staging, remote_copies }
    }

    /// Takes a message of a peer: to its session, or to the kind of transfer that serves the request.
    pub(crate) fn receive(&self, from: &str, payload: &[u8]) -> Received {
        let (id, message) = match self.sessions.read(from, payload) {
            Ok(read) => read,
            Err(answer) => return answer,
        };
        let name = message.name();
        let served = match message {
            Message::Open(open) => self.staging.serve(id, from, open),
            Message::OpenTicket(open) => self.staging.serve_reader(id, from, open),
            Message::RemoteCopyRequest(copy_request) => {
                self.remote_copies.serve(id, from, copy_request)
            }
            Message::CancelCopy(cancel) => match self.remote_copies.cancel(id, from, cancel) {
                Some(execution) => execution,
                None => return Received::Taken,
            },
            message => match self.sessions.deliver(id, from, message) {
                true => return Received::Taken,
                false => None,
            },
        };
        match served {
            Some(execution) => Received::Serve(execution),
            None => {
                tracing::debug!(from, message = name, "a message for no transfer with this peer");
                Received::Ignored
            }
        }
    }
}
