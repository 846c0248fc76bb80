//! The staging state of one connection: sessions, slot pools and offers.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::Poll;
use std::time::Duration;

use bytes::Bytes;
use metrics::counter;
use nixl_descriptor::{DescriptorList, Leased, Registration};
use nixl_device::{Device, DeviceKind};
use nixl_metadata::{AgentMetadata, Limits, NotificationKey, OperationKind, RdmaMetadata};
use nixl_ops::{
    Claim, CompletionNotifier, ConnectionContext, Execution, Mailbox, Offer, PathReport, PeerId,
    Preparation, Received, TransferRequest, TransportError,
};

use super::chunking::Chunking;
use super::copies::Copier;
use super::message::{Message, MessageError, SessionId};
use super::offers::Offers;
use super::one_sided::{OneSided, StagedFlow};
use super::outbox::Outbox;
use super::pool::{RegisteredSlots, SlotPools, SlotStats};
use super::pull::Pull;
use super::refusal::RefusalReply;
use super::remote_copy::RemoteCopyContext;
use super::request::{Open, PresentedOffer};
use super::session::{Membership, Sessions};
use super::sink::{Sink, SinkMemory};
use super::source::{Source, SourceMemory};
use super::targets::{Grants, Targets};
use super::two_sided::{Begun, Role, TwoSided, path_kind};
use super::{StagingConfig, engine_failed, failed, gone};
use crate::ipc::ImportCache;
use crate::local::{CopyContext, GpuBackend};
use crate::peers::Peers;

/// Staged transfers of one connection: those that this side begins, and those that it serves.
#[derive(Debug)]
pub(crate) struct Staging {
    pub(super) gpus: Arc<dyn GpuBackend>,
    pub(super) remote_copies: RemoteCopyContext,
    link: ConnectionContext,
    config: StagingConfig,
    outgoing: Arc<RegisteredSlots>,
    incoming: Arc<RegisteredSlots>,
    pub(super) sessions: Arc<Sessions>,
    pub(super) peers: Arc<Peers>,
    offers: Mutex<Offers>,
    /// Requests that presented no offer of this side.
    strangers: AtomicU64,
}

/// Who takes part.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum StagingMode {
    /// This side only. The peer's memory must be the host's.
    OneSided,
    /// Both sides. The peer must run this library, with staging.
    TwoSided,
    /// The peer's GPU copies, to or from GPU memory of this side. The peer must run this library, on this machine.
    PeerCopies,
}

/// What staging holds.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct StagingStats {
    pub(crate) outgoing: SlotStats,
    pub(crate) incoming: SlotStats,
    pub(crate) sessions: usize,
    pub(crate) strangers: u64,
    pub(crate) waiting_messages: usize,
}

impl StagingStats {
    /// Of connections that share the pools.
    pub(crate) fn of<'a>(
        pools: &SlotPools,
        connections: impl Iterator<Item = &'a Staging>,
    ) -> Self {
        let (outgoing, incoming) = (pools.outgoing.stats(), pools.incoming.stats());
        let none = Self { outgoing, incoming, ..Self::default() };
        connections.fold(none, |sum, staging| Self {
            sessions: sum.sessions + staging.sessions.len(),
            strangers: sum.strangers + staging.strangers.load(Ordering::Relaxed),
            waiting_messages: sum.waiting_messages + staging.sessions.waiting(),
            ..sum
        })
    }

    /// Slots by which bytes leave.
    #[must_use]
    pub fn outgoing(&self) -> SlotStats {
        self.outgoing
    }

    /// Slots by which bytes arrive.
    #[must_use]
    pub fn incoming(&self) -> SlotStats {
        self.incoming
    }

    /// Transfers under way in which the peer takes part, of both sides.
    #[must_use]
    pub fn sessions(&self) -> usize {
        self.sessions
    }

    /// Requests by senders that hold no offer of this side; nothing was done for them.
    #[must_use]
    pub fn strangers(&self) -> u64 {
        self.strangers
    }

    /// Messages of peers that wait for transfers under way.
    #[must_use]
    pub fn waiting_messages(&self) -> usize {
        self.waiting_messages
    }
}

/// Where one side's memory is.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum MemoryLocation {
    Host,
    Gpu(u32),
}

impl Staging {
    /// Executions that one connection serves at most; more are ignored.
    const MAX_SERVED: usize = 1 << 13;
    /// How long peers wait at most for the answer of a side that expects no message. Much shorter than their time-out.
    const CHECK: Duration = Duration::from_secs(1);
    /// How long after the end of the last offer peers are expected to ask for one. Nothing ticks for ever.
    const LATE: Duration = Duration::from_secs(120);

    pub(crate) fn new(
        remote_copies: RemoteCopyContext,
        link: ConnectionContext,
        peers: Arc<Peers>,
        (config, pools): (StagingConfig, &SlotPools),
    ) -> Arc<Self> {
        let config = config.checked();
        Arc::new(Self {
            gpus: Arc::clone(&remote_copies.context.gpus),
            remote_copies,
            link,
            config,
            outgoing: RegisteredSlots::new(&pools.outgoing),
            incoming: RegisteredSlots::new(&pools.incoming),
            sessions: Arc::default(),
            peers,
            offers: Mutex::default(),
            strangers: AtomicU64::new(0),
        })
    }

    pub(super) fn link(&self) -> &ConnectionContext {
        &self.link
    }

    pub(super) fn config(&self) -> &StagingConfig {
        &self.config
    }

    pub(super) fn imports(&self) -> &Arc<ImportCache> {
        &self.remote_copies.imports
    }

    pub(super) fn context(&self) -> &CopyContext {
        &self.remote_copies.context
    }

    /// Whether an offer of this side may be asked for that needs slots.
    pub(crate) fn may_need_slots(&self) -> bool {
        let on_gpu = |offer: &Offer| offer.descriptors().iter().any(|d| !d.device().is_host());
        self.sessions.len() > 0 || self.offers().values().any(on_gpu)
    }

    /// *Blocking.* Releases the slots' memory, which is registered again when it is needed.
    pub(crate) fn release_slots(&self) {
        self.outgoing.release();
        self.incoming.release();
    }

    /// Asks peers whose stalled transfers have slots whether they are there.
    pub(crate) fn look_for_stalled(&self) {
        for (id, peer) in self.sessions.stalled() {
            let ping = Message::Ping.encode(id);
            let told = self.link.transport().notify(&PeerId::new(&*peer), &ping);
            if let Poll::Ready(Err(error)) = told
                && gone(&error)
            {
                self.sessions.peer_gone(&peer);
            }
        }
    }

    /// Whether peers may still write to slots of transfers that have ended.
    pub(crate) fn has_stalled(&self) -> bool {
        self.sessions.has_stalled()
    }

    #[cfg(test)]
    pub(crate) fn stats(&self) -> StagingStats {
        StagingStats {
            outgoing: self.outgoing.stats(),
            incoming: self.incoming.stats(),
            sessions: self.sessions.len(),
            strangers: self.strangers.load(Ordering::Relaxed),
            waiting_messages: self.sessions.waiting(),
        }
    }

    /// What must be done on the connection's thread first, for an operation that will be staged if it involves GPU
    /// memory: `remote` is what the peer offers, none if this side offers.
    pub(crate) fn prepare(
        self: &Arc<Self>,
        local: &DescriptorList,
        remote: Option<&RdmaMetadata>,
    ) -> Option<Preparation> {
        let Ok(MemoryLocation::Gpu(gpu)) = self.place(local) else { return None };
        let now = self.link.clock().now();
        // A peer learns of the slots in which bytes arrive from the metadata that is exported afterwards.
        let mut wanted = match remote.map(RdmaMetadata::operation_kind) {
            Some(OperationKind::Write) => vec![&self.outgoing],
            Some(OperationKind::Read) => vec![&self.incoming],
            None => vec![&self.outgoing, &self.incoming],
        };
        wanted.retain(|pool| pool.wants_memory(now));
        if wanted.is_empty() {
            return None;
        }
        let pools: Vec<_> = wanted.into_iter().map(Arc::clone).collect();
        let (gpus, registrations) = (Arc::clone(&self.gpus), Arc::clone(self.link.registrations()));
        Some(Box::new(move || {
            // An operation that has another path does without.
            pools.iter().for_each(|pool| pool.make_ready(&*gpus, gpu, &registrations, now));
            Ok(())
        }))
    }

    /// Why this side cannot stage an operation with this memory, if it has to and that is known.
    pub(crate) fn why_not(&self, local: &DescriptorList, kind: OperationKind) -> Option<String> {
        let Ok(MemoryLocation::Gpu(_)) = self.place(local) else { return None };
        match kind {
            OperationKind::Write => self.outgoing.why_not(),
            OperationKind::Read => self.incoming.why_not(),
        }
    }

    /// Whether a GPU here reaches memory of this device.
    pub(crate) fn can_access(&self, device: Device) -> bool {
        device.kind() == DeviceKind::Cuda && device.index() < self.gpus.capabilities().gpus
    }

    pub(crate) fn has_sessions(&self) -> bool {
        self.sessions.len() > 0
    }

    /// Peers may ask for an offer that is complete, and for a while after it was withdrawn.
    pub(crate) fn poll_interval(&self) -> Option<Duration> {
        if !self.offers().is_empty() || self.sessions.has_stalled() {
            return Some(Self::CHECK);
        }
        let ended = self.offers().last_end();
        let now = self.link.clock().now();
        ended.filter(|ended| now.saturating_sub(*ended) < Self::LATE).map(|_| Self::CHECK)
    }

    pub(crate) fn offer_created(&self, offer: Offer) {
        self.offers().offer_created(offer);
    }

    pub(crate) fn offer_ended(&self, key: &NotificationKey) {
        let now = self.link.clock().now();
        let removed = self.offers().offer_ended(key, now);
        drop(removed);
        if self.sessions.withdraw(key) {
            self.link.waker().wake_by_ref();
        }
    }

    /// The peer's process has ended, or its connection is dead: its sessions end.
    pub(crate) fn peer_gone(&self, peer: &str) {
        if self.sessions.peer_gone(peer) {
            self.link.waker().wake_by_ref();
        }
    }

    /// A peer has completed an operation that is served here, without the engine.
    pub(crate) fn completed_otherwise(&self, key: &NotificationKey) {
        if !self.sessions.complete(key) {
            tracing::debug!("a slot completed for no operation");
        }
    }

    pub(crate) fn receive(self: &Arc<Self>, from: &str, payload: &[u8]) -> Received {
        if let Some((id, presented)) = PresentedOffer::peek(payload)
            && !self.offers().know(&presented)
            && !self.sessions.has(id, from)
        {
            self.strangers.fetch_add(1, Ordering::Relaxed);
            counter!("nixl_requests_of_strangers_total").increment(1);
            return Received::Ignored;
        }
        let (id, message) = match Message::decode(payload) {
            Ok(decoded) => decoded,
            Err(MessageError::NotAMessage) => {
                return match self.sessions.supersede(from, payload) {
                    true => Received::Taken,
                    false => Received::Ignored,
                };
            }
            Err(error) => {
                tracing::debug!(from, %error, "a message that cannot be read");
                return Received::Ignored;
            }
        };
        let name = message.name();
        let served = match message {
            Message::Open(open) => self.serve(id, from, open),
            Message::RemoteCopyRequest(copy_request) => {
                self.serve_remote_copy(id, from, copy_request)
            }
            Message::CancelCopy(cancel) => match self.cancel_remote_copy(id, from, cancel) {
                Some(execution) => execution,
                None => return Received::Taken,
            },
            message => match self.sessions.deliver(id, from, message, self.link.clock().now()) {
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

    /// A session that a peer asks for, and the way to answer it. Only a holder of an offer comes so far: the engine is
    /// connected to it, if it is not yet.
    pub(super) fn admit(
        self: &Arc<Self>,
        id: SessionId,
        from: &str,
        key: &NotificationKey,
        initiator_metadata: Bytes,
    ) -> Option<(Membership, Outbox)> {
        if self.sessions.len() >= Self::MAX_SERVED || from == self.link.transport().agent_name() {
            return None;
        }
        let len = initiator_metadata.len();
        let initiator_metadata =
            AgentMetadata::from_compressed(initiator_metadata, &Limits::default()).ok()?;
        if !self.peers.is_connected_with(from, &initiator_metadata)
            && !self.offers().may_introduce(key, from)
        {
            tracing::debug!(
                from,
                "a request in the name of one agent more than the offer has readers"
            );
            return None;
        }
        let session = self.sessions.open(id, from, Some((key.clone(), len)))?;
        let now = self.link.clock().now();
        let outbox =
            Outbox::to(id, PeerId::new(from), initiator_metadata, now).by(self.mailbox_of(from));
        match outbox.is_by_engine() {
            true => Some((session, outbox.connecting(&self.link, &self.peers))),
            false => Some((session, outbox)),
        }
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

    pub(super) fn offer(
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

    /// Takes part in what a peer asks for, or tells it why not.
    fn serve(
        self: &Arc<Self>,
        id: SessionId,
        from: &str,
        open: Open,
    ) -> Option<Box<dyn Execution>> {
        let (session, outbox) = self.admit(id, from, &open.offer.key, open.initiator_metadata)?;
        let (claim, role) =
            match self.answer(id, from, &open.offer.key, open.kind, open.chunk_bytes) {
                Ok(answer) => answer,
                Err(reason) => {
                    let reason = reason.to_string();
                    let word = match open.kind {
                        OperationKind::Read => Message::Stopped { reason },
                        OperationKind::Write => Message::Stop { reason },
                    };
                    return Some(Box::new(RefusalReply::new(
                        Arc::clone(self),
                        session,
                        outbox,
                        &word,
                    )));
                }
            };
        let report = PathReport::new(
            path_kind(role.stages(), false),
            self.link.transport().name().to_owned(),
            claim.descriptors().total_bytes(),
            claim.descriptors().len(),
        );
        let begun = (Begun::Serving(Some(claim)), None);
        // The engine carries the bytes in any case.
        let outbox = outbox.connecting(&self.link, &self.peers);
        Some(Box::new(TwoSided::new(Arc::clone(self), session, outbox, role, begun, report)))
    }

    fn answer(
        &self,
        id: SessionId,
        from: &str,
        key: &NotificationKey,
        kind: OperationKind,
        chunk_bytes: u64,
    ) -> Result<(Claim, Role), TransportError> {
        let offer = self.offer(key, kind)?;
        let peer = PeerId::new(from);
        let list = offer.descriptors().clone();
        let chunking = self.chunking(&list, chunk_bytes)?;
        let claim = claim(&offer)?;
        let role = match kind {
            OperationKind::Read => Role::Source(self.source(
                peer,
                Some(id),
                (&list, &chunking),
                Targets::Granted(Grants::default()),
                (self.registrations(&list), claim.leased().clone()),
            )?),
            OperationKind::Write => Role::Sink(self.sink(&list, &chunking)?),
        };
        Ok((claim, role))
    }

    /// Prepares a transfer that is staged on the sides that have GPU memory.
    ///
    /// # Errors
    ///
    /// Why it cannot be.
    pub(crate) fn begin(
        self: &Arc<Self>,
        request: &TransferRequest<'_>,
        mode: StagingMode,
    ) -> Result<Box<dyn Execution>, TransportError> {
        if mode == StagingMode::PeerCopies {
            return self.begin_remote_copy(request);
        }
        let Some(route) = request.route() else { return Err(TransportError::Closed) };
        let here = self.place(request.local())?;
        let remote = request.remote();
        let there = remote.descriptors().iter().any(|d| !d.device().is_host());
        let list = request.local().clone();
        let chunking = self.chunking(&list, self.config.slot_bytes as u64)?;
        let report = PathReport::new(
            path_kind(here != MemoryLocation::Host, there),
            route.transport().name().to_owned(),
            chunking.total(),
            list.len(),
        )
        .with_chunks(chunking.count());
        if mode == StagingMode::OneSided {
            let known = Targets::Known(remote.descriptors().to_vec());
            let way = match (request.kind(), here) {
                _ if there => {
                    return Err(failed("begin", "the peer must take part: it has GPU memory"));
                }
                (OperationKind::Write, _) => {
                    let held = (route.registrations().to_vec(), request.leased().clone());
                    let peer = route.peer().clone();
                    StagedFlow::Push(self.source(peer, None, (&list, &chunking), known, held)?)
                }
                (OperationKind::Read, MemoryLocation::Gpu(gpu)) => {
                    self.fits(&self.incoming, &chunking)?;
                    StagedFlow::Pull(Pull::new(
                        (Arc::clone(self.link.transport()), route.peer().clone()),
                        Arc::clone(&chunking),
                        self.copier(gpu, &list)?,
                        self.incoming.join(),
                        remote.descriptors().to_vec(),
                        self.config.window,
                    ))
                }
                (OperationKind::Read, MemoryLocation::Host) => {
                    return Err(failed("begin", "nothing to stage: both sides are host memory"));
                }
            };
            let notifier = CompletionNotifier::new(route, remote.notification_key());
            let (clock, way) = (Arc::clone(self.link.clock()), (way, request.leased().clone()));
            return Ok(Box::new(OneSided::new(clock, notifier, way, report)));
        }
        let initiator_metadata = self.initiator_metadata(route.initiator_metadata())?;
        let id = SessionId::random();
        let role = match request.kind() {
            OperationKind::Write => Role::Source(self.source(
                route.peer().clone(),
                Some(id),
                (&list, &chunking),
                Targets::Granted(Grants::default()),
                (route.registrations().to_vec(), request.leased().clone()),
            )?),
            OperationKind::Read => Role::Sink(self.sink(&list, &chunking)?),
        };
        let session = self.session(id, route.peer())?;
        let now = self.link.clock().now();
        let metadata = remote.agent_metadata().clone();
        let mailbox = self.link.mailboxes().of_offer(remote);
        let outbox = Outbox::to(id, route.peer().clone(), metadata, now).by(mailbox);
        let chunk_bytes = self.config.slot_bytes as u64;
        let offer = PresentedOffer::of(remote);
        let open = Open { offer, kind: request.kind(), chunk_bytes, initiator_metadata };
        let begun = (Begun::Initiator(open), Some(request.leased().clone()));
        Ok(Box::new(TwoSided::new(Arc::clone(self), session, outbox, role, begun, report)))
    }

    pub(super) fn session(
        self: &Arc<Self>,
        id: SessionId,
        peer: &PeerId,
    ) -> Result<Membership, TransportError> {
        self.sessions
            .open(id, peer.as_str(), None)
            .ok_or_else(|| failed("begin", "too many staged transfers are under way"))
    }

    pub(super) fn initiator_metadata(
        &self,
        metadata: Option<&AgentMetadata>,
    ) -> Result<Bytes, TransportError> {
        let metadata = metadata.ok_or_else(|| {
            failed("begin", "the peer must reach this side, and nothing was given to tell it how")
        })?;
        let bytes = metadata.compressed().clone();
        if bytes.len() > Message::MAX_INITIATOR_METADATA {
            let (len, most) = (bytes.len(), Message::MAX_INITIATOR_METADATA);
            let reason = format!(
                "what the peer needs to reach this side has {len} bytes, of {most} allowed; register less memory"
            );
            return Err(failed("begin", reason));
        }
        Ok(bytes)
    }

    fn source(
        &self,
        peer: PeerId,
        session: Option<SessionId>,
        (list, chunking): (&DescriptorList, &Arc<Chunking>),
        targets: Targets,
        (registrations, leased): (Vec<Registration>, Leased),
    ) -> Result<Source, TransportError> {
        let memory = match self.place(list)? {
            MemoryLocation::Host => SourceMemory::Host(registrations, leased),
            MemoryLocation::Gpu(gpu) => {
                self.fits(&self.outgoing, chunking)?;
                SourceMemory::Gpu(self.copier(gpu, list)?, self.outgoing.join())
            }
        };
        let road = (Arc::clone(self.link.transport()), peer);
        let bytes = (list.clone(), Arc::clone(chunking));
        Ok(Source::new(road, session, bytes, memory, targets, self.config.window))
    }

    fn sink(
        &self,
        list: &DescriptorList,
        chunking: &Arc<Chunking>,
    ) -> Result<Sink, TransportError> {
        let memory = match self.place(list)? {
            MemoryLocation::Host => SinkMemory::Host { granted: 0 },
            MemoryLocation::Gpu(gpu) => {
                self.fits(&self.incoming, chunking)?;
                SinkMemory::Gpu(self.copier(gpu, list)?, self.incoming.join())
            }
        };
        Ok(Sink::new(list.clone(), Arc::clone(chunking), memory, self.config.window))
    }

    fn copier(&self, gpu: u32, list: &DescriptorList) -> Result<Copier, TransportError> {
        Copier::new(&self.gpus, gpu, list.clone()).map_err(|e| engine_failed("begin", &e))
    }

    fn fits(&self, pool: &RegisteredSlots, chunking: &Chunking) -> Result<(), TransportError> {
        let (longest, slot) = (chunking.longest(), pool.slot_bytes());
        if longest > slot {
            let reason = format!(
                "chunks of {longest} bytes do not fit slots of {slot}; configure both sides alike"
            );
            return Err(failed("begin", reason));
        }
        if !pool.is_ready() {
            let reason = pool.why_not();
            return Err(failed(
                "begin",
                reason.unwrap_or_else(|| "no slots were allocated".into()),
            ));
        }
        Ok(())
    }

    fn chunking(
        &self,
        list: &DescriptorList,
        chunk_bytes: u64,
    ) -> Result<Arc<Chunking>, TransportError> {
        Chunking::new(list, chunk_bytes).map(Arc::new).ok_or_else(|| {
            let total = list.total_bytes();
            failed("begin", format!("{total} bytes cannot be cut into chunks of {chunk_bytes}"))
        })
    }

    /// Registrations of an offer's memory, which the offer holds too.
    fn registrations(&self, list: &DescriptorList) -> Vec<Registration> {
        let mut held = Vec::new();
        let mut last = None;
        for region in list.iter().map(|d| d.region()) {
            if last.replace(region.id()) != Some(region.id()) {
                held.extend(self.link.registrations().get(region));
            }
        }
        held
    }

    /// Where all of a list is.
    pub(super) fn place(&self, list: &DescriptorList) -> Result<MemoryLocation, TransportError> {
        let mut devices = list.iter().map(|d| d.device());
        let first = devices.next().unwrap_or(Device::HOST);
        if devices.any(|device| device != first) {
            let reason = "one operation cannot mix memory of several devices on one side; split it";
            return Err(failed("begin", reason));
        }
        match first {
            device if device.is_host() => Ok(MemoryLocation::Host),
            device if self.can_access(device) => Ok(MemoryLocation::Gpu(device.index())),
            device => Err(failed("begin", format!("there is no {device} here"))),
        }
    }

    fn offers(&self) -> MutexGuard<'_, Offers> {
        self.offers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

pub(super) fn claim(offer: &Offer) -> Result<Claim, TransportError> {
    offer.claim().ok_or_else(|| failed("serve", "the operation has ended, or is being served"))
}
