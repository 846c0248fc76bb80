//! The staged transfers of one connection, begun and served.

use std::sync::Arc;

use nixl_descriptor::{DescriptorList, Leased, Registration};
use nixl_metadata::{NotificationKey, OperationKind, RdmaMetadata};
use nixl_ops::{
    Claim, CompletionNotifier, ConnectionContext, Execution, Offer, PathReport, PeerId,
    Preparation, TransferRequest, TransportError,
};

use super::chunking::Chunking;
use super::copies::{Copier, engine_failed};
use super::one_sided::{OneSided, StagedFlow};
use super::pull::Pull;
use super::sink::{Sink, SinkMemory};
use super::source::{Source, SourceMemory};
use super::targets::{Grants, Targets};
use super::two_sided::{Begun, Role, TwoSided, path_kind};
use crate::local::GpuBackend;
use crate::messages::{Message, Open, Outbox, PresentedOffer, SessionId};
use crate::pinned_slots::{RegisteredSlots, SlotPools};
use crate::sessions::{RefusalReply, Sessions, claim, failed};
use crate::transfers::location::MemoryLocation;

/// Staged transfers of one connection: those that this side begins, and those that it serves.
#[derive(Debug)]
pub(crate) struct Staging {
    sessions: Arc<Sessions>,
    gpus: Arc<dyn GpuBackend>,
    outgoing: Arc<RegisteredSlots>,
    incoming: Arc<RegisteredSlots>,
}

/// Who takes part.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum StagingMode {
    /// This side only. The peer's memory must be the host's.
    OneSided,
    /// Both sides. The peer must run this library, with staging.
    TwoSided,
}

impl Staging {
    pub(crate) fn new(
        sessions: &Arc<Sessions>,
        gpus: &Arc<dyn GpuBackend>,
        pools: &SlotPools,
    ) -> Arc<Self> {
        Arc::new(Self {
            sessions: Arc::clone(sessions),
            gpus: Arc::clone(gpus),
            outgoing: RegisteredSlots::new(&pools.outgoing),
            incoming: RegisteredSlots::new(&pools.incoming),
        })
    }

    /// Whether an offer of this side may be asked for that needs slots.
    pub(crate) fn may_need_slots(&self) -> bool {
        let on_gpu = |offer: &Offer| offer.descriptors().iter().any(|d| !d.device().is_host());
        self.sessions.len() > 0 || self.sessions.offers_any(on_gpu)
    }

    /// *Blocking.* Releases the slots' memory, which is registered again when it is needed.
    pub(crate) fn release_slots(&self) {
        self.outgoing.release();
        self.incoming.release();
    }

    /// What must be done on the connection's thread first, for an operation that will be staged if it involves GPU
    /// memory: `remote` is what the peer offers, none if this side offers.
    pub(crate) fn prepare(
        &self,
        local: &DescriptorList,
        remote: Option<&RdmaMetadata>,
    ) -> Option<Preparation> {
        let Ok(MemoryLocation::Gpu(gpu)) = self.place(local) else { return None };
        let now = self.link().clock().now();
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
        let (gpus, registrations) =
            (Arc::clone(&self.gpus), Arc::clone(self.link().registrations()));
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

    /// Serves a peer's request, or replies with the reason against it.
    pub(crate) fn serve(
        &self,
        id: SessionId,
        from: &str,
        open: Open,
    ) -> Option<Box<dyn Execution>> {
        let (session, outbox) =
            self.sessions.admit(id, from, &open.offer.key, open.initiator_metadata)?;
        let (claim, role) =
            match self.answer(id, from, &open.offer.key, open.kind, open.chunk_bytes) {
                Ok(answer) => answer,
                Err(reason) => {
                    let reason = reason.to_string();
                    let word = match open.kind {
                        OperationKind::Read => Message::Stopped { reason },
                        OperationKind::Write => Message::Stop { reason },
                    };
                    let sessions = Arc::clone(&self.sessions);
                    return Some(Box::new(RefusalReply::new(sessions, session, outbox, &word)));
                }
            };
        let report = PathReport::new(
            path_kind(role.stages(), false),
            self.link().transport().name().to_owned(),
            claim.descriptors().total_bytes(),
            claim.descriptors().len(),
        );
        let begun = (Begun::Serving(Some(claim)), None);
        // The engine carries the bytes in any case.
        let outbox = self.sessions.connecting(outbox);
        Some(Box::new(TwoSided::new(
            Arc::clone(&self.sessions),
            session,
            outbox,
            role,
            begun,
            report,
        )))
    }

    fn answer(
        &self,
        id: SessionId,
        from: &str,
        key: &NotificationKey,
        kind: OperationKind,
        chunk_bytes: u64,
    ) -> Result<(Claim, Role), TransportError> {
        let offer = self.sessions.offer(key, kind)?;
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
        &self,
        request: &TransferRequest<'_>,
        mode: StagingMode,
    ) -> Result<Box<dyn Execution>, TransportError> {
        let Some(route) = request.route() else { return Err(TransportError::Closed) };
        let here = self.place(request.local())?;
        let remote = request.remote();
        let there = remote.descriptors().iter().any(|d| !d.device().is_host());
        let list = request.local().clone();
        let chunking = self.chunking(&list, self.sessions.config().slot_bytes as u64)?;
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
                        (Arc::clone(self.link().transport()), route.peer().clone()),
                        Arc::clone(&chunking),
                        self.copier(gpu, &list)?,
                        self.incoming.join(),
                        remote.descriptors().to_vec(),
                        self.sessions.config().window,
                    ))
                }
                (OperationKind::Read, MemoryLocation::Host) => {
                    return Err(failed("begin", "nothing to stage: both sides are host memory"));
                }
            };
            let notifier = CompletionNotifier::new(route, remote.notification_key());
            let (clock, way) = (Arc::clone(self.link().clock()), (way, request.leased().clone()));
            return Ok(Box::new(OneSided::new(clock, notifier, way, report)));
        }
        let initiator_metadata = self.sessions.initiator_metadata(route.initiator_metadata())?;
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
        let session = self.sessions.session(id, route.peer())?;
        let now = self.link().clock().now();
        let metadata = remote.agent_metadata().clone();
        let mailbox = self.link().mailboxes().of_offer(remote);
        let outbox = Outbox::to(id, route.peer().clone(), metadata, now).by(mailbox);
        let chunk_bytes = self.sessions.config().slot_bytes as u64;
        let offer = PresentedOffer::of(remote);
        let open = Open { offer, kind: request.kind(), chunk_bytes, initiator_metadata };
        let begun = (Begun::Initiator(open), Some(request.leased().clone()));
        Ok(Box::new(TwoSided::new(
            Arc::clone(&self.sessions),
            session,
            outbox,
            role,
            begun,
            report,
        )))
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
        let road = (Arc::clone(self.link().transport()), peer);
        let bytes = (list.clone(), Arc::clone(chunking));
        Ok(Source::new(road, session, bytes, memory, targets, self.sessions.config().window))
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
        Ok(Sink::new(list.clone(), Arc::clone(chunking), memory, self.sessions.config().window))
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
                held.extend(self.link().registrations().get(region));
            }
        }
        held
    }

    fn place(&self, list: &DescriptorList) -> Result<MemoryLocation, TransportError> {
        MemoryLocation::of(list, &*self.gpus)
    }

    fn link(&self) -> &ConnectionContext {
        self.sessions.link()
    }
}
