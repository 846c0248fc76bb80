//! The staged transfers of one connection, begun and served.

use std::num::NonZeroU32;
use std::sync::Arc;

use nixl_descriptor::{Descriptor, DescriptorList, GpuAllocation, Leased, Registration};
use nixl_device::ProcessWatch;
use nixl_metadata::{NotificationKey, OperationKind, RdmaMetadata};
use nixl_ops::{
    Claim, CompletionNotifier, ConnectionContext, Execution, Offer, PathKind, PathReport, PeerId,
    Preparation, TransferRequest, TransportError,
};

use super::chunking::Chunking;
use super::copies::{Copier, engine_failed};
use super::gpu_sink::GpuSink;
use super::gpu_source::GpuSource;
use super::one_sided::{OneSided, StagedFlow};
use super::pull::Pull;
use super::role::Role;
use super::sink::{Sink, SinkMemory};
use super::source::{Source, SourceMemory};
use super::targets::{Grants, Targets};
use super::two_sided::{Begun, TwoSided, path_kind};
use crate::local::{Costs, GpuBackend, allocation_of};
use crate::messages::{Message, Open, Outbox, PresentedOffer, SessionId};
use crate::pinned_slots::{GpuSlotPool, GpuSlots, RegisteredSlots, SlotPools};
use crate::remote_memory::ImportCache;
use crate::sessions::{RefusalReply, Sessions, claim, failed, unwatched};
use crate::transfers::location::MemoryLocation;
use crate::transfers::remote_copy::RemoteCopyContext;

/// Staged transfers of one connection: those that this side begins, and those that it serves.
#[derive(Debug)]
pub(crate) struct Staging {
    sessions: Arc<Sessions>,
    gpus: Arc<dyn GpuBackend>,
    costs: Costs,
    outgoing: Arc<RegisteredSlots>,
    incoming: Arc<RegisteredSlots>,
    on_gpus: Arc<GpuSlots>,
    /// Slots of peers that are open here.
    imports: Arc<ImportCache>,
}

/// The sides that take part.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum StagingMode {
    /// This side only. The peer's memory must be the host's.
    OneSided,
    /// Both sides. The peer must run this library, with staging.
    TwoSided,
    /// Both sides, through slots on the source's GPU. Both sides' memory must be that of GPUs, on one host.
    OnGpu,
}

impl Staging {
    pub(crate) fn new(
        sessions: &Arc<Sessions>,
        context: &RemoteCopyContext,
        pools: &SlotPools,
    ) -> Arc<Self> {
        Arc::new(Self {
            sessions: Arc::clone(sessions),
            gpus: Arc::clone(&context.context.gpus),
            costs: context.context.costs.clone(),
            outgoing: RegisteredSlots::new(&pools.outgoing),
            incoming: RegisteredSlots::new(&pools.incoming),
            on_gpus: Arc::clone(&pools.on_gpus),
            imports: Arc::clone(&context.imports),
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

    /// Why this side cannot stage an operation with this memory on its GPU, if it has to and that is known.
    pub(crate) fn why_not_on_gpu(
        &self,
        local: &DescriptorList,
        kind: OperationKind,
    ) -> Option<String> {
        match (kind, self.place(local)) {
            (OperationKind::Write, Ok(MemoryLocation::Gpu(gpu))) => {
                self.on_gpus.on(gpu).why_not(self.link().clock().now())
            }
            _ => None,
        }
    }

    /// Serves a peer's request, or replies with the reason against it.
    pub(crate) fn serve(
        &self,
        id: SessionId,
        from: &str,
        open: Open,
    ) -> Option<Box<dyn Execution>> {
        let Open { offer, kind, chunk_bytes, initiator_metadata, on_gpu_by } = open;
        let (session, outbox) = self.sessions.admit(id, from, &offer.key, initiator_metadata)?;
        let asked = (kind, chunk_bytes, on_gpu_by.map(NonZeroU32::get));
        let (claim, role) = match self.answer(id, from, &offer.key, asked) {
            Ok(answer) => answer,
            Err(reason) => {
                let reason = reason.to_string();
                let message = match kind {
                    OperationKind::Read => Message::Stopped { reason },
                    OperationKind::Write => Message::Stop { reason },
                };
                let sessions = Arc::clone(&self.sessions);
                return Some(Box::new(RefusalReply::new(sessions, session, outbox, &message)));
            }
        };
        let list = claim.descriptors();
        let (bytes, count) = (list.total_bytes(), list.len());
        let (report, outbox) = if role.is_on_gpu() {
            (report_on_gpu(bytes, count), outbox)
        } else {
            let engine = self.link().transport().name().to_owned();
            let kind = path_kind(role.stages(), false);
            // The engine carries the bytes in any case.
            (PathReport::new(kind, engine, bytes, count), self.sessions.connecting(outbox))
        };
        let begun = (Begun::Serving(Some(claim)), None);
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
        (kind, chunk_bytes, on_gpu_by): (OperationKind, u64, Option<u32>),
    ) -> Result<(Claim, Role), TransportError> {
        let offer = self.sessions.offer(key, kind)?;
        let peer = PeerId::new(from);
        let list = offer.descriptors().clone();
        let chunking = self.chunking(&list, chunk_bytes)?;
        let claim = claim(&offer)?;
        if let Some(process) = on_gpu_by {
            return Ok((
                claim,
                self.on_gpu(kind == OperationKind::Read, &list, &chunking, process)?,
            ));
        }
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
        let (list, config) = (request.local().clone(), self.sessions.config());
        let chunk_bytes = match mode {
            StagingMode::OnGpu => config.gpu_slot_bytes as u64,
            StagingMode::OneSided | StagingMode::TwoSided => config.slot_bytes as u64,
        };
        let chunking = self.chunking(&list, chunk_bytes)?;
        let report = match mode {
            StagingMode::OnGpu => report_on_gpu(chunking.total(), list.len()),
            StagingMode::OneSided | StagingMode::TwoSided => PathReport::new(
                path_kind(here != MemoryLocation::Host, there),
                route.transport().name().to_owned(),
                chunking.total(),
                list.len(),
            ),
        };
        let report = report.with_chunks(chunking.count());
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
            kind if mode == StagingMode::OnGpu => {
                // Both are in one PID namespace, or this were no path.
                let process = remote.peer().map_or(0, |peer| peer.host().pid());
                self.on_gpu(kind == OperationKind::Write, &list, &chunking, process)?
            }
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
        let (offer, kind) = (PresentedOffer::of(remote), request.kind());
        let on_gpu_by = role.is_on_gpu().then(std::process::id).and_then(NonZeroU32::new);
        let open = Open { offer, kind, chunk_bytes, initiator_metadata, on_gpu_by };
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

    /// The part of this side where chunks go through slots on the source's GPU. `process` is the peer's.
    fn on_gpu(
        &self,
        is_source: bool,
        list: &DescriptorList,
        chunking: &Arc<Chunking>,
        process: u32,
    ) -> Result<Role, TransportError> {
        let MemoryLocation::Gpu(gpu) = self.place(list)? else {
            return Err(failed("begin", "only memory of GPUs is staged on a GPU"));
        };
        let copier = self.copier(gpu, list)?;
        let copier = copier.between_gpus(gpu, self.gpus.capabilities(), &self.costs);
        if !is_source {
            let is_read_only = |d: &Descriptor| {
                allocation_of(&*self.gpus, d.region()).is_some_and(GpuAllocation::is_read_only)
            };
            if list.iter().any(is_read_only) {
                let reason = "the driver lets the GPU only read the memory";
                return Err(failed("begin", reason));
            }
            let of = (gpu, process);
            return Ok(Role::GpuSink(GpuSink::new(
                &self.imports,
                of,
                Arc::clone(chunking),
                copier,
            )));
        }
        let slots = self.on_gpus.on(gpu);
        does_fit(chunking, slots.slot_bytes())?;
        // The end of its process is the only proof that a silent peer's GPU no longer reads a slot.
        let process = ProcessWatch::open(process).map_err(|error| unwatched("begin", error))?;
        self.allocate(&slots);
        let (chunking, window) = (Arc::clone(chunking), self.sessions.config().gpu_window());
        Ok(Role::GpuSource(GpuSource::new(chunking, copier, slots.join(), process, window)))
    }

    /// Has slots allocated on the connection's thread, unless they are. Where it refuses, the transfer fails.
    fn allocate(&self, slots: &Arc<GpuSlotPool>) {
        let now = self.link().clock().now();
        let Some(allocation) = slots.allocation(now) else { return };
        let (gpus, waker) = (Arc::clone(&self.gpus), self.link().waker().clone());
        let _ = self.link().background().run_for_peer(Box::new(move || {
            allocation.make(&*gpus, now);
            waker.wake();
        }));
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
        does_fit(chunking, pool.slot_bytes())?;
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

fn report_on_gpu(bytes: u64, descriptors: usize) -> PathReport {
    PathReport::new(PathKind::StagedOnGpu, "cuda-ipc", bytes, descriptors)
}

fn does_fit(chunking: &Chunking, slot: u64) -> Result<(), TransportError> {
    let longest = chunking.longest();
    if longest <= slot {
        return Ok(());
    }
    let reason =
        format!("chunks of {longest} bytes do not fit slots of {slot}; configure both sides alike");
    Err(failed("begin", reason))
}
