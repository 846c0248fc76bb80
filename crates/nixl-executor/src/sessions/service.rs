//! The sessions of one connection: the protocol between executors, apart from the transfers that use it.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::task::Poll;
use std::time::Duration;

use bytes::Bytes;
use metrics::counter;
use nixl_device::locks::lock;
use nixl_metadata::{AgentMetadata, ExportId, Limits, NotificationKey, OperationKind, Ticket};
use nixl_ops::{
    Claim, ConnectionContext, GrantTable, Mailbox, Offer, PeerId, Received, TransportError,
};

use super::exports::Exports;
use super::offers::Offers;
use super::peer_quiet::PeerQuiet;
use super::table::{Membership, SessionTable};
use super::{failed, gone};
use crate::messages::{self, Message, MessageError, OpenTicket, Outbox, PresentedOffer, SessionId};
use crate::peers::Peers;
use crate::pinned_slots::StagingConfig;

/// Sessions of both sides, and the offers that peers may ask for.
#[derive(Debug)]
pub(crate) struct Sessions {
    link: ConnectionContext,
    config: StagingConfig,
    table: Arc<SessionTable>,
    peers: Arc<Peers>,
    offers: Mutex<Offers>,
    exports: Mutex<Exports>,
    /// Requests that presented no offer and no export of this side.
    strangers: AtomicU64,
    /// Whether a job on the blocking thread is about to prove peers quiet.
    proving: AtomicBool,
}

impl Sessions {
    /// Executions that one connection serves at most; more are ignored.
    const MAX_SERVED: usize = 1 << 13;
    /// How long peers wait at most for the answer of a side that expects no message. Much shorter than their time-out.
    const CHECK: Duration = Duration::from_secs(1);
    /// How long after the end of the last offer peers are expected to ask for one. Nothing ticks for ever.
    const LATE: Duration = Duration::from_secs(120);
    /// How long readers wait at most for the answer of a side whose grants they may read with its help.
    const GRANTED: Duration = Duration::from_millis(2);

    pub(crate) fn new(
        link: ConnectionContext,
        config: StagingConfig,
        peers: Arc<Peers>,
    ) -> Arc<Self> {
        Arc::new(Self {
            link,
            config: config.checked(),
            table: Arc::default(),
            peers,
            offers: Mutex::default(),
            exports: Mutex::default(),
            strangers: AtomicU64::new(0),
            proving: AtomicBool::new(false),
        })
    }

    pub(crate) fn link(&self) -> &ConnectionContext {
        &self.link
    }

    pub(crate) fn config(&self) -> &StagingConfig {
        &self.config
    }

    /// How many there are, of both sides.
    pub(crate) fn len(&self) -> usize {
        self.table.len()
    }

    /// Messages of peers that wait for sessions.
    pub(crate) fn waiting(&self) -> usize {
        self.table.waiting()
    }

    /// Requests that presented no offer and no export of this side.
    pub(crate) fn strangers(&self) -> u64 {
        self.strangers.load(Ordering::Relaxed)
    }

    /// Whether there is such an offer of this side.
    pub(crate) fn offers_any(&self, which: impl Fn(&Offer) -> bool) -> bool {
        self.offers().values().any(which)
    }

    /// Asks peers whose stalled transfers have slots whether they are there, and has those that are not proven quiet.
    pub(crate) fn look_for_stalled(self: &Arc<Self>) {
        for (id, peer, question) in self.table.stalled() {
            let told = self.link.transport().notify(&PeerId::new(&*peer), &question.encode(id));
            if let Poll::Ready(Err(error)) = told
                && gone(&error)
            {
                self.table.peer_gone(&peer);
            }
        }
        if self.table.wants_proof() {
            self.prove_soon();
        }
    }

    /// Has a job prove that peers which cannot be reached are quiet, unless one does already.
    fn prove_soon(self: &Arc<Self>) {
        if self.link.proofs().is_none() || self.proving.swap(true, Ordering::AcqRel) {
            return;
        }
        let sessions = Arc::downgrade(self);
        self.link.background().run(Box::new(move || {
            let Some(sessions) = sessions.upgrade() else { return };
            sessions.proving.store(false, Ordering::Release);
            if let Some(proofs) = sessions.link.proofs()
                && sessions.table.prove(&**proofs, sessions.link.clock().now())
            {
                sessions.link.waker().wake_by_ref();
            }
        }));
    }

    /// Whether peers may still write to slots of transfers that have ended, or memory waits for the proof that they do not.
    pub(crate) fn has_stalled(&self) -> bool {
        self.table.wants_proof()
    }

    /// Peers may ask for an offer that is complete, and for a while after it was withdrawn; readers for this side's part as long as
    /// something is granted; sinks for the last message of a source.
    pub(crate) fn poll_interval(&self) -> Option<Duration> {
        if self.is_granted() {
            return Some(Self::GRANTED);
        }
        if !self.offers().is_empty() || self.table.has_stalled() {
            return Some(Self::CHECK);
        }
        let ended = self.offers().last_end().max(self.table.last_stop());
        let now = self.link.clock().now();
        ended.filter(|ended| now.saturating_sub(*ended) < Self::LATE).map(|_| Self::CHECK)
    }

    pub(crate) fn offer_created(&self, offer: Offer) {
        self.offers().offer_created(offer);
    }

    /// Readers may ask this side to take part in reads of this export.
    pub(crate) fn export_opened(&self, export: ExportId, table: &Arc<GrantTable>) {
        lock(&self.exports).opened(export, table);
    }

    /// The grants of an export.
    pub(crate) fn grants_of(&self, export: u64) -> Option<Arc<GrantTable>> {
        lock(&self.exports).table(export)
    }

    /// Whether a grant of an export is alive.
    fn is_granted(&self) -> bool {
        let tables = lock(&self.exports).tables();
        tables.iter().any(|table| table.is_used())
    }

    pub(crate) fn offer_ended(&self, key: &NotificationKey) {
        let now = self.link.clock().now();
        let removed = self.offers().offer_ended(key, now);
        drop(removed);
        if self.table.withdraw(key) {
            self.link.waker().wake_by_ref();
        }
    }

    /// The peer's process has ended, or its connection is dead: its sessions end, and what it was granted comes back once it is
    /// proven quiet.
    pub(crate) fn peer_gone(self: &Arc<Self>, peer: &str) {
        if self.table.peer_gone(peer) {
            self.link.waker().wake_by_ref();
            if self.table.wants_proof() {
                self.prove_soon();
            }
        }
    }

    /// Whether a session with the peer is there.
    pub(crate) fn has_peer(&self, peer: &str) -> bool {
        self.table.has_peer(peer)
    }

    /// A peer has completed an operation that is served here, without the engine.
    pub(crate) fn completed_otherwise(&self, key: &NotificationKey) {
        if !self.table.complete(key) {
            tracing::debug!("a slot completed for no operation");
        }
    }

    /// Reads a message of a peer.
    ///
    /// # Errors
    ///
    /// The answer, if there is nothing to hand on: it is of a stranger, or no message.
    pub(crate) fn read(
        &self,
        from: &str,
        payload: &[u8],
    ) -> Result<(SessionId, Message), Received> {
        let stranger = match (PresentedOffer::peek(payload), OpenTicket::peek(payload)) {
            (Some((id, presented)), _) => (!self.offers().know(&presented)).then_some(id),
            (_, Some((id, export))) => (!lock(&self.exports).know(export)).then_some(id),
            _ => None,
        };
        if stranger.is_some_and(|id| !self.table.has(id, from)) {
            self.strangers.fetch_add(1, Ordering::Relaxed);
            counter!("nixl_requests_of_strangers_total").increment(1);
            return Err(Received::Ignored);
        }
        Message::decode(payload).map_err(|error| match error {
            MessageError::NotAMessage => match self.table.supersede(from, payload) {
                true => Received::Taken,
                false => Received::Ignored,
            },
            error => {
                tracing::debug!(from, %error, "a message that cannot be read");
                Received::Ignored
            }
        })
    }

    /// Hands a message to its session. Returns whether there is one with this peer, or was.
    pub(crate) fn deliver(&self, id: SessionId, from: &str, message: Message) -> bool {
        let is_stop = matches!(message, Message::Stop { .. });
        self.table.deliver(id, from, message, self.link.clock().now())
            || (is_stop && self.say_stopped(id, from))
    }

    /// Answers a sink that missed the last message of a source of this side. Returns whether there was one.
    fn say_stopped(&self, id: SessionId, from: &str) -> bool {
        let has_stopped = self.table.has_stopped(id, from);
        if has_stopped {
            let stopped = Message::Stopped { reason: "the transfer has ended".to_owned() };
            // The sink repeats its message until it is answered.
            let _ = self.link.transport().notify(&PeerId::new(from), &stopped.encode(id));
        }
        has_stopped
    }

    /// A session that a peer requests, and the way to answer it. Only a holder of an offer comes so far: the engine is
    /// connected to it, if it is not yet.
    pub(crate) fn admit(
        &self,
        id: SessionId,
        from: &str,
        key: &NotificationKey,
        initiator_metadata: Bytes,
    ) -> Option<(Membership, Outbox)> {
        let may_introduce = || self.offers().may_introduce(key, from);
        self.admit_if(id, from, (key, initiator_metadata), may_introduce)
    }

    /// A session that a reader requests, whose message has the export of its ticket.
    pub(crate) fn admit_reader(
        &self,
        id: SessionId,
        from: &str,
        ticket: &Ticket,
        initiator_metadata: Bytes,
    ) -> Option<(Membership, Outbox)> {
        // Sessions are counted by grants as by offers.
        let key = uuid::Uuid::from_bytes(*ticket.token()).to_string();
        let key = NotificationKey::new(&key).ok()?;
        let export = ticket.export().value();
        let may_introduce = || lock(&self.exports).may_introduce(export, from);
        self.admit_if(id, from, (&key, initiator_metadata), may_introduce)
    }

    fn admit_if(
        &self,
        id: SessionId,
        from: &str,
        (key, initiator_metadata): (&NotificationKey, Bytes),
        may_introduce: impl FnOnce() -> bool,
    ) -> Option<(Membership, Outbox)> {
        if self.table.len() >= Self::MAX_SERVED || from == self.link.transport().agent_name() {
            return None;
        }
        let len = initiator_metadata.len();
        let initiator_metadata =
            AgentMetadata::from_compressed(initiator_metadata, &Limits::default()).ok()?;
        if !self.peers.is_connected_with(from, &initiator_metadata) && !may_introduce() {
            tracing::debug!(
                from,
                "a request in the name of one agent more than the offer or export is for"
            );
            return None;
        }
        let session = self.table.open(id, from, Some((key.clone(), len)), self.quiet_of(from))?;
        let now = self.link.clock().now();
        let outbox =
            Outbox::to(id, PeerId::new(from), initiator_metadata, now).by(self.mailbox_of(from));
        match outbox.is_by_engine() {
            true => Some((session, self.connecting(outbox))),
            false => Some((session, outbox)),
        }
    }

    fn quiet_of(&self, peer: &str) -> PeerQuiet {
        let pid = self.peers.get(peer).and_then(|peer| peer.pid());
        let pid = pid.or_else(|| self.link.mailboxes().process_of(peer));
        PeerQuiet::of(peer, pid, self.link.clock().now())
    }

    /// The mailbox of a peer that has written from its own. The first time it is opened for the next.
    fn mailbox_of(&self, peer: &str) -> Option<Mailbox> {
        let page = self.link.mailboxes().page_of(peer)?;
        if !self.link.mailboxes().knows(&page) {
            let mailboxes = Arc::clone(self.link.mailboxes());
            // Without it the engine answers.
            let _ = self.link.background().run_for_peer(Box::new(move || mailboxes.open(&page)));
        }
        self.link.mailboxes().get(&page)
    }

    pub(crate) fn offer(
        &self,
        key: &NotificationKey,
        kind: OperationKind,
    ) -> Result<Offer, TransportError> {
        let offer = self.offers().get(key).cloned();
        let offer = offer.ok_or_else(|| failed("serve", "the operation has ended"))?;
        if offer.kind() != kind {
            let offered = offer.kind();
            return Err(failed("serve", format!("the operation is a {offered}, not a {kind}")));
        }
        Ok(offer)
    }

    /// The messages' peer is connected first, unless it was.
    pub(crate) fn connecting(&self, outbox: Outbox) -> Outbox {
        outbox.connecting(&self.link, &self.peers)
    }

    /// A session with the peer failed: the engine connects to it anew before the next.
    pub(crate) fn reconnect(&self, peer: &str) {
        self.peers.reconnect(peer);
    }

    pub(crate) fn session(
        &self,
        id: SessionId,
        peer: &PeerId,
    ) -> Result<Membership, TransportError> {
        self.table
            .open(id, peer.as_str(), None, self.quiet_of(peer.as_str()))
            .ok_or_else(|| failed("begin", "too many staged transfers are under way"))
    }

    pub(crate) fn initiator_metadata(
        &self,
        metadata: Option<&AgentMetadata>,
    ) -> Result<Bytes, TransportError> {
        let metadata = metadata.ok_or_else(|| {
            failed("begin", "the peer must reach this side, and nothing was given to tell it how")
        })?;
        let bytes = metadata.compressed().clone();
        if bytes.len() > messages::MAX_INITIATOR_METADATA {
            let (len, most) = (bytes.len(), messages::MAX_INITIATOR_METADATA);
            let reason = format!(
                "what the peer needs to reach this side has {len} bytes, of {most} allowed; register less memory"
            );
            return Err(failed("begin", reason));
        }
        Ok(bytes)
    }

    fn offers(&self) -> MutexGuard<'_, Offers> {
        lock(&self.offers)
    }
}

pub(crate) fn claim(offer: &Offer) -> Result<Claim, TransportError> {
    offer.claim().ok_or_else(|| failed("serve", "the operation has ended, or is being served"))
}
