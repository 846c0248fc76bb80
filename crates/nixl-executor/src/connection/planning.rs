//! The plan of an operation: the query, the peer's state, and the paths that this operation cannot use.

use std::sync::Arc;

use nixl_descriptor::{DescriptorList, ForeignProcess, RendezvousState};
use nixl_device::Device;
use nixl_metadata::{PeerInfo, RdmaMetadata};
use nixl_ops::{OperationKind, PathKind, PathPolicy, TransferRequest, foreign_process};

use super::path_connection::{PathConnection, is_copied_by_owner, is_host_memory};
use crate::facts::{Engine, OfferFacts};
use crate::local::{MemoryKind, is_host, kind_of};
use crate::peers::{EngineEstimate, Peer, PeerState};
use crate::planner::{Export, PathHistory, PathPlan, PathQuery};
use crate::remote_memory::{RemoteMemoryKey, export, memory_key};
use crate::transfers::{copier, why_owner_takes_no_part};

impl PathConnection {
    /// What is known of a peer's offer.
    pub(super) fn offered(&self, remote: &RdmaMetadata) -> OfferFacts {
        let foreign = remote.peer().and_then(|info| self.foreign(info));
        let rendezvous =
            foreign.map_or(RendezvousState::NoFolder, ForeignProcess::rendezvous_state);
        OfferFacts::by_a_peer(remote).with_rendezvous(rendezvous)
    }

    /// The process of a peer of this host in another PID namespace.
    pub(super) fn foreign(&self, info: &PeerInfo) -> Option<ForeignProcess> {
        foreign_process(self.facts.host.as_ref()?, info.host())
    }

    /// The query of an operation, with the facts of the engine that hold for any peer.
    pub(super) fn query(
        &self,
        operation: OperationKind,
        (local, remote): (&DescriptorList, &RdmaMetadata),
        offered: OfferFacts,
        policy: PathPolicy,
    ) -> PathQuery {
        let devices = remote.descriptors().iter().map(|d| d.device());
        let device = devices.into_iter().find(|device| !device.is_host()).unwrap_or(Device::HOST);
        let kind = self.local_kind(local, device);
        let (export, is_read_only) = match kind {
            MemoryKind::Gpu(_) => export(&*self.shared.gpus, local),
            _ => (Export::Unknown, false),
        };
        PathQuery {
            operation,
            local: kind,
            export,
            is_read_only,
            remote: device,
            engine: self.engine,
            offered,
            policy,
        }
    }

    /// The kind of memory of a list. Whether host memory is pinned is queried only where that matters.
    pub(super) fn local_kind(&self, list: &DescriptorList, remote: Device) -> MemoryKind {
        let gpu = list.iter().find(|d| !d.device().is_host());
        match (gpu, list.as_slice().first()) {
            (Some(d), _) => MemoryKind::Gpu(d.device().index()),
            // What is pinned in part only is not reached as a whole.
            (None, Some(_)) if !remote.is_host() => {
                kind_of(list, &*self.shared.gpus).unwrap_or(MemoryKind::Pageable)
            }
            _ => MemoryKind::Pageable,
        }
    }

    /// The peer's memory as this process opens it, and the kind of path that needs it open.
    pub(super) fn memory_key<'a>(
        &self,
        local: &DescriptorList,
        remote: &'a RdmaMetadata,
        offered: OfferFacts,
    ) -> Option<(PathKind, impl Iterator<Item = RemoteMemoryKey> + use<'a>)> {
        let path = match offered.share? {
            form if form.is_of_gpus() => PathKind::CudaIpc,
            _ => PathKind::SharedMemory,
        };
        let device = remote.descriptors().first().map_or(Device::HOST, |d| d.device());
        let (gpus, ours) = (&*self.shared.gpus, (local, self.local_kind(local, device)));
        let (gpu, _) = copier(&self.facts, gpus, ours, remote);
        let gpus = gpus.capabilities().gpus;
        let wanted =
            remote.shares().iter().filter_map(move |share| memory_key(share.kind(), gpu, ours.1));
        let wanted = wanted.filter(move |memory_key| match memory_key {
            RemoteMemoryKey::Gpu(gpu, _) => *gpu < gpus,
            RemoteMemoryKey::File(_) | RemoteMemoryKey::Pinned(_) => true,
        });
        Some((path, wanted))
    }

    /// The plan, how its paths stand for so many bytes, and how many [`failures`](Peer::failures) that takes into account.
    pub(super) fn plan(
        &self,
        peer: &Peer,
        info: Option<&PeerInfo>,
        mut query: PathQuery,
        bytes: u64,
    ) -> (Arc<PathPlan>, PathHistory, u64) {
        let now = self.link.clock().now();
        let here = (&*self.facts, &self.shared.settings.path_costs);
        let mut known = peer.lock();
        query.engine = known.estimate.refine(self.engine);
        let PeerState { plans, health, .. } = &mut *known;
        let (plan, measured) = plans.entry(here, info, query);
        let mut history = health.history(plan.query.memories(), now);
        measured.apply(bytes, now, &mut history);
        (Arc::clone(plan), history, peer.failures())
    }

    /// Queries the engine once for each peer for its estimate of a transfer between host memories.
    pub(super) fn ask_engine(&self, peer: &Peer, request: &TransferRequest<'_>) {
        let (bytes, descriptors) = (request.local().total_bytes(), request.local().len());
        let is_host = || is_host(request.local()) && is_host_memory(request.remote());
        if self.engine != Engine::Ucx
            || !EngineEstimate::tells(bytes, descriptors)
            || !peer.lock().estimate.wants(bytes, descriptors)
            || !is_host()
        {
            return;
        }
        // An error here shows again when the transfer begins.
        let transfer = request.clone().transfer(None).ok();
        let expected = transfer.and_then(|transfer| transfer.estimate());
        peer.lock().estimate.note(bytes, expected);
    }

    /// Notes what this operation cannot use; the path may with other memory.
    pub(super) fn note_memory(
        &self,
        request: &TransferRequest<'_>,
        plan: &PathPlan,
        history: &mut PathHistory,
    ) {
        if let Some(reason) = self.services.staging.why_not(request.local(), request.kind()) {
            for kind in [PathKind::StagedOneSide, PathKind::StagedBothSides] {
                history.note_tried(kind, reason.clone());
            }
        }
        if plan.available.iter().any(|path| path.kind == PathKind::StagedOnGpu)
            && let Some(reason) =
                self.services.staging.why_not_on_gpu(request.local(), request.kind())
        {
            history.note_tried(PathKind::StagedOnGpu, reason);
        }
        if let Some(route) = request.route().as_ref().filter(|route| !route.notifies()) {
            let owner = request.remote().peer();
            let why_not_staged = why_owner_takes_no_part(route.ticket_read(), owner);
            let copied = "the owner's GPU copies for the transfer of an offer, not of a grant";
            for path in &plan.available {
                let why_not = match path.kind {
                    PathKind::StagedBothSides | PathKind::StagedOnGpu => why_not_staged,
                    PathKind::StagedOneSide if !plan.query.remote.is_host() => why_not_staged,
                    PathKind::CudaIpc if is_copied_by_owner(&plan.query) => Some(copied),
                    _ => None,
                };
                why_not.into_iter().for_each(|reason| history.note_tried(path.kind, reason));
            }
        }
        if self.imports.refused.any()
            && let Some((path, mut wanted)) =
                self.memory_key(request.local(), request.remote(), plan.query.offered)
        {
            let now = self.link.clock().now();
            let reason =
                wanted.find_map(|memory_key| self.imports.refused.reason(&memory_key, now));
            if let Some(reason) = reason {
                history.note_tried(path, format!("this memory could not be opened: {reason}"));
            }
        }
    }
}
