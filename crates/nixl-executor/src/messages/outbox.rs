//! The ordered queue of outgoing messages of one session.

use std::collections::VecDeque;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use bytes::Bytes;
use nixl_metadata::AgentMetadata;
use nixl_ops::{ConnectionContext, Mailbox, PeerId, TransportError};

use super::message::Message;
use super::pending_connect::PendingConnect;
use super::wire::SessionId;
use crate::peers::Peers;

/// Messages to one peer. A peer that the engine does not know, or has dropped, is connected first.
pub(crate) struct Outbox {
    session: SessionId,
    peer: PeerId,
    /// What carries the messages instead of the engine.
    mailbox: Option<Mailbox>,
    /// A message was sent, or is about to be: what carries it carries the rest.
    begun: bool,
    /// The metadata by which the peer is connected.
    metadata: AgentMetadata,
    connecting: Option<PendingConnect>,
    /// The table that notes the connect.
    peers: Option<Arc<Peers>>,
    reconnects: u32,
    waiting: VecDeque<Bytes>,
    /// When the last message was handed to the engine.
    pub(crate) last: Duration,
}

impl Outbox {
    /// Messages that one call sends at most.
    const BURST: usize = 32;
    /// Reconnects after which the peer counts as gone: the engine drops it each time.
    const CONNECTS: u32 = 4;

    /// To a peer that the engine has loaded.
    pub(crate) fn to(
        session: SessionId,
        peer: PeerId,
        metadata: AgentMetadata,
        now: Duration,
    ) -> Self {
        let waiting = VecDeque::new();
        Self {
            session,
            peer,
            mailbox: None,
            begun: false,
            metadata,
            connecting: None,
            peers: None,
            reconnects: 0,
            waiting,
            last: now,
        }
    }

    /// Through the peer's mailbox, if there is one, unless the first message is too long for it: nothing orders what the mailbox
    /// carries with what the engine does.
    pub(crate) fn by(mut self, mailbox: Option<Mailbox>) -> Self {
        self.mailbox = mailbox;
        self
    }

    /// Whether the engine carries the messages.
    pub(crate) fn is_by_engine(&self) -> bool {
        self.mailbox.is_none()
    }

    /// Whether messages arrive in the order in which they are queued: once a mailbox carries them.
    pub(crate) fn keeps_order(&self) -> bool {
        self.begun && self.mailbox.is_some()
    }

    /// To a peer that is connected first, unless it was.
    pub(crate) fn connecting(mut self, link: &ConnectionContext, peers: &Arc<Peers>) -> Self {
        let is_connected = peers.is_connected_with(self.peer.as_str(), &self.metadata);
        if self.connecting.is_none() && !is_connected {
            self.connecting =
                Some(PendingConnect::begin(link, self.peer.clone(), self.metadata.clone()));
            self.peers = Some(Arc::clone(peers));
        }
        self
    }

    /// Whether the peer is connected.
    pub(crate) fn is_connected(&self) -> bool {
        self.connecting.is_none()
    }

    pub(crate) fn push(&mut self, message: &Message) {
        self.waiting.push_back(message.encode(self.session));
    }

    /// Drops what was not sent.
    pub(crate) fn clear(&mut self) {
        self.waiting.clear();
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    /// Sends what is taken now. Returns whether something was.
    ///
    /// # Errors
    ///
    /// Why nothing more can be sent.
    pub(crate) fn flush(
        &mut self,
        link: &ConnectionContext,
        now: Duration,
    ) -> Result<bool, TransportError> {
        let mut moved = self.poll_connect(link, now)?;
        self.begin(link);
        for _ in 0..Self::BURST {
            let Some(message) = self.waiting.front() else { break };
            match self.send(link, message) {
                Poll::Pending => break,
                Poll::Ready(Ok(())) => {
                    self.waiting.pop_front();
                    self.last = now;
                    moved = true;
                }
                Poll::Ready(Err(TransportError::UnknownPeer { .. }))
                    if self.reconnects < Self::CONNECTS =>
                {
                    self.reconnects += 1;
                    self.connecting =
                        Some(PendingConnect::begin(link, self.peer.clone(), self.metadata.clone()));
                    break;
                }
                Poll::Ready(Err(error)) => return Err(error),
            }
        }
        Ok(moved)
    }

    fn poll_connect(
        &mut self,
        link: &ConnectionContext,
        now: Duration,
    ) -> Result<bool, TransportError> {
        let Some(connecting) = &mut self.connecting else { return Ok(false) };
        let Poll::Ready(connected) = connecting.poll(link, now) else { return Ok(false) };
        self.connecting = None;
        connected?;
        if let Some(peers) = self.peers.take() {
            peers.note_connected(self.peer.as_str(), &self.metadata);
        }
        Ok(true)
    }

    fn begin(&mut self, link: &ConnectionContext) {
        if let Some(first) = self.waiting.front().filter(|_| !self.begun) {
            self.mailbox.take_if(|_| !Mailbox::fits(link.transport().agent_name(), first));
            self.begun = true;
        }
    }

    fn send(&self, link: &ConnectionContext, message: &[u8]) -> Poll<Result<(), TransportError>> {
        let own = link.transport().agent_name();
        match &self.mailbox {
            // What a message leads to may need the engine.
            _ if self.connecting.is_some() => Poll::Pending,
            Some(mailbox) if Mailbox::fits(own, message) => mailbox.post(&self.peer, own, message),
            _ => link.transport().notify(&self.peer, message),
        }
    }
}
