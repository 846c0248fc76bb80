//! The executor of one connection.

use std::collections::HashSet;
use std::fmt;
use std::sync::{Arc, Weak};
use std::time::Duration;

use nixl_descriptor::{DescriptorList, Presence, SharedName};
use nixl_device::{Device, ExitWatch, ProcessExits};
use nixl_metadata::{Doorbell, NotificationKey, PeerInfo, RdmaMetadata, Share};
use nixl_ops::{
    ConnectionContext, DirectTransfer, EndedOffer, EngineSetting, Execution, Executor, Offer,
    PathKind, PathPolicy, PeerId, Prefault, Preparation, Received, Rejected, SettingSource,
    TransferRequest, TransportError, WaitFor,
};

use super::intra_process::IntraProcessCopy;
use super::path_executor::{PeerStats, Shared};
use super::path_transfer::PathTransfer;
use crate::DirectExecutor;
use crate::direct::{agree, is_host};
use crate::ipc::{
    ImportCache, ImportError, OwnerId, PeerCopy, RemoteMemoryKey, copier, memory_key, owner_gone,
    prefaults, shares,
};
use crate::local::{CopyContext, MemoryKind, kind_of};
use crate::offers::Offers;
use crate::paths::{
    Engine, LocalFacts, OfferFacts, PathHistory, PathPlan, PathQuery, ShareForm, Successes,
    UcxTransports,
};
use crate::peers::{Peer, Peers};
use crate::staged::{RemoteCopyContext, Staging, StagingMode};

pub(super) struct ConnectionExecutor {
    /// For operations, which go on with the next path by themselves.
    me: Weak<Self>,
    shared: Arc<Shared>,
    /// What is known of this process, with the transports that UCX was given for this connection.
    facts: Arc<LocalFacts>,
    pub(super) link: ConnectionContext,
    context: CopyContext,
    pub(super) staging: Arc<Staging>,
    pub(super) imports: Arc<ImportCache>,
    peers: Arc<Peers>,
    engine: Engine,
    pub(super) successes: Successes,
}

/// The facts of the process, but for transports that an option of the connection's names: the environment, which goes before, is
/// among the facts.
fn facts_of(process: &Arc<LocalFacts>, settings: &[EngineSetting]) -> Arc<LocalFacts> {
    let is_transports =
        |s: &&EngineSetting| s.name == "UCX_TLS" && s.source == SettingSource::Option;
    match settings.iter().find(is_transports) {
        Some(transports) => {
            let ucx = UcxTransports::parse(&transports.value);
            Arc::new(LocalFacts { ucx, ..LocalFacts::clone(process) })
        }
        None => Arc::clone(process),
    }
}

impl ConnectionExecutor {
    pub(super) fn new(shared: Arc<Shared>, link: ConnectionContext) -> Arc<Self> {
        Arc::new_cyclic(|me| Self::with(Weak::clone(me), shared, link))
    }

    fn with(me: Weak<Self>, shared: Arc<Shared>, link: ConnectionContext) -> Self {
        let gpus = &shared.gpus;
        let context = CopyContext {
            gpus: Arc::clone(gpus),
            threads: shared.threads.clone(),
            costs: shared.costs.clone(),
            waker: link.waker.clone(),
        };
        let facts = facts_of(&shared.facts, &link.transport.settings());
        let imports = ImportCache::new(Arc::clone(gpus), Arc::clone(&link.background));
        let remote_copies = RemoteCopyContext {
            imports: Arc::clone(&imports),
            context: context.clone(),
            facts: Arc::clone(&facts),
        };
        let peers = Arc::<Peers>::default();
        Self {
            me,
            facts,
            context,
            staging: Staging::new(
                remote_copies,
                link.clone(),
                Arc::clone(&peers),
                (shared.staging, &shared.slots),
            ),
            imports,
            peers,
            engine: Engine::of(link.transport.name()),
            successes: Successes::default(),
            link,
            shared,
        }
    }

    pub(super) fn peer_stats(&self) -> PeerStats {
        let (imports, pinned_bytes) = self.imports.held();
        let mapped_bytes = self.imports.mapped();
        PeerStats { peers: self.peers.len(), imports, pinned_bytes, mapped_bytes }
    }

    /// What is known of the peer of this name, that says this of itself. The first time that it does, its process is watched
    /// if that is one of this PID namespace.
    fn peer(&self, name: &str, info: Option<&PeerInfo>) -> Arc<Peer> {
        let peer = self.peers.of(name);
        if let Some(info) = info {
            peer.watch(|| self.watch(name, self.pid_here(info)?));
        }
        peer
    }

    fn watch(&self, name: &str, pid: u32) -> Option<ExitWatch> {
        if pid == std::process::id() {
            return None;
        }
        let (me, background) = (Weak::clone(&self.me), Arc::clone(&self.link.background));
        let name = name.to_owned();
        let ended = move || {
            background.run(Box::new(move || {
                me.upgrade().into_iter().for_each(|me| me.forget(&name));
            }));
        };
        let watch = ProcessExits::global().watch(pid, None, ended);
        // It has ended already, which the operation finds out, or there are no descriptors left.
        watch.inspect_err(|error| tracing::debug!(%error, "a peer's process is not watched")).ok()
    }

    /// *Blocking.* The peer is gone: what is kept for it goes, but for what operations under way use.
    fn forget(&self, peer: &str) {
        self.peers.forget(peer);
        self.staging.peer_gone(peer);
        self.imports.close_of(peer);
    }

    /// The process of a peer, if its number means the same process here.
    fn pid_here(&self, info: &PeerInfo) -> Option<u32> {
        let host = self.facts.host.as_ref()?;
        host.same_pid_namespace(info.host()).then(|| info.host().pid())
    }

    /// Periodic maintenance, once a second: closes memory that peers have released, in the background, and checks for peers that
    /// stalled.
    pub(super) fn maintain(&self) {
        self.imports.sweep_soon();
        self.staging.look_for_stalled();
    }

    /// Releases pinned slots, in the background.
    pub(super) fn release_slots(&self) {
        let staging = Arc::downgrade(&self.staging);
        self.link.background.run(Box::new(move || {
            staging.upgrade().into_iter().for_each(|staging| staging.release_slots());
        }));
    }

    /// What the operation asks; of the engine it says what is so for any peer.
    fn query(&self, request: &TransferRequest<'_>) -> PathQuery {
        let remote = request
            .remote
            .descriptors()
            .iter()
            .map(|d| d.device())
            .find(|device| !device.is_host())
            .unwrap_or(Device::HOST);
        PathQuery {
            operation: request.kind,
            local: self.local_kind(request.local, remote),
            remote,
            engine: self.engine,
            offered: OfferFacts::by_a_peer(request.remote),
            policy: request.policy,
        }
    }

    /// What kind of memory a list is. Host memory is asked whether it is pinned only where that matters.
    fn local_kind(&self, list: &DescriptorList, remote: Device) -> MemoryKind {
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

    /// The plan, and how its paths stand.
    fn plan(
        &self,
        peer: &Peer,
        info: Option<&PeerInfo>,
        mut query: PathQuery,
    ) -> (Arc<PathPlan>, PathHistory) {
        let now = self.link.clock.now();
        let here = (&*self.facts, &self.shared.path_costs);
        let mut known = peer.lock();
        query.engine = known.estimate.refine(self.engine);
        let plan = known.plans.get(here, info, query);
        let (local, remote) = devices(&plan);
        let history = known.health.history(local, remote, now);
        (plan, history)
    }

    /// Asks the engine once for each peer what it expects of a transfer between host memories.
    fn ask_engine(&self, peer: &Peer, request: &TransferRequest<'_>) {
        let bytes = request.local.total_bytes();
        let is_host = || is_host(request.local) && is_host_memory(request.remote);
        if self.engine != Engine::Ucx
            || !peer.lock().estimate.wants(bytes, request.local.len())
            || !is_host()
        {
            return;
        }
        // An error here shows again when the transfer begins.
        let transfer = request.clone().transfer(None).ok();
        let expected = transfer.and_then(|transfer| transfer.estimate());
        peer.lock().estimate.note(bytes, expected);
    }

    /// Prepares a transfer by one kind of path.
    pub(super) fn begin(
        &self,
        kind: PathKind,
        local: MemoryKind,
        request: &TransferRequest<'_>,
    ) -> Result<Box<dyn Execution>, TransportError> {
        let gate = |execution| WaitFor::before(execution, request.local.pending());
        match kind {
            PathKind::CudaIpc if is_host_memory(request.remote) => {
                self.staging.begin(request, StagingMode::PeerCopies).map(gate)
            }
            // Their copies wait by themselves, as those of the transport below.
            PathKind::CudaIpc | PathKind::SharedMemory => {
                Ok(Box::new(self.peer_copy(kind, local, request, u64::MAX)?))
            }
            PathKind::StagedOneSide | PathKind::StagedBothSides => {
                let there = !is_host_memory(request.remote);
                let mode = if there { StagingMode::TwoSided } else { StagingMode::OneSided };
                self.staging.begin(request, mode).map(gate)
            }
            PathKind::GpuDirect | PathKind::Direct | PathKind::EngineStaged => {
                Ok(gate(Box::new(DirectTransfer::prepare(kind, request)?)))
            }
            other => {
                let reason = format!("{other} is no path between these memories").into();
                Err(TransportError::Engine { engine: "executor", call: "begin", reason })
            }
        }
    }

    /// A copy of the first bytes, `most` of them, by this process. Of all bytes, the peer is told of its end.
    pub(super) fn peer_copy(
        &self,
        kind: PathKind,
        local: MemoryKind,
        request: &TransferRequest<'_>,
        most: u64,
    ) -> Result<PeerCopy, TransportError> {
        let facts = &self.facts;
        PeerCopy::new(kind, (request, most), local, facts, &self.imports, &self.context)
    }

    /// The peer's memory as this process opens it, and the kind of path that needs it open.
    fn memory_key<'a>(
        &self,
        local: &DescriptorList,
        remote: &'a RdmaMetadata,
    ) -> Option<(PathKind, impl Iterator<Item = RemoteMemoryKey> + use<'a>)> {
        let path = match OfferFacts::by_a_peer(remote).share? {
            ShareForm::CudaIpc => PathKind::CudaIpc,
            ShareForm::File => PathKind::SharedMemory,
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

    /// A job that opens the peer's memory, if a path that needs it is there.
    fn opening(&self, local: &DescriptorList, remote: &RdmaMetadata) -> Option<Preparation> {
        let now = self.link.clock.now();
        let (path, wanted) = self.memory_key(local, remote)?;
        let unopened: Vec<_> = wanted
            .filter(|memory_key| !self.imports.has(memory_key))
            .filter(|memory_key| match memory_key {
                RemoteMemoryKey::Gpu(..) => true,
                // A peer cannot have this process reach its own memory.
                RemoteMemoryKey::File(name) | RemoteMemoryKey::Pinned(name) => !name.is_own(),
            })
            .collect();
        if unopened.is_empty() || unopened.iter().any(|f| self.imports.refused.has(f, now)) {
            return None;
        }
        let distinct = || unopened.iter().collect::<HashSet<_>>().len();
        if unopened.len() > ImportCache::KEPT && distinct() > ImportCache::KEPT {
            // They would close each other, and keep the connection's thread busy all the while.
            let (pieces, most) = (distinct(), ImportCache::KEPT);
            let reason = format!("{pieces} pieces of memory are more than stay open: {most}");
            unopened
                .into_iter()
                .take(1)
                .for_each(|f| self.imports.refused.note(f, reason.clone(), now));
            return None;
        }
        let info = remote.peer()?;
        let device = remote.descriptors().first().map(|d| d.device())?;
        let query = PathQuery {
            operation: remote.operation_kind(),
            local: self.local_kind(local, device),
            remote: device,
            engine: self.engine,
            offered: OfferFacts::by_a_peer(remote),
            policy: PathPolicy::auto(),
        };
        let peer = self.peer(info.agent_name(), Some(info));
        let (plan, history) = self.plan(&peer, Some(info), query);
        if !plan.available.iter().any(|available| available.kind == path)
            || history.in_cooldown(path).is_some()
        {
            return None;
        }
        let (imports, pid) = (Arc::clone(&self.imports), self.pid_here(info));
        let page = remote.doorbell().map(page_of);
        Some(Box::new(move || {
            for memory_key in unopened {
                match imports.open(&memory_key, OwnerId { peer: peer.name(), pid }) {
                    Ok(_) => {}
                    // The peer is here, and its memory is not.
                    Err(ImportError::Absent)
                        if page.is_some_and(|page| page.presence() == Presence::Here)
                            || pid.is_some_and(|pid| imports.reaches(pid)) =>
                    {
                        return Err(owner_gone());
                    }
                    Err(error) => {
                        // The operation takes another path, and later ones with this memory do not try for a while.
                        imports.refused.note(memory_key, error.to_string(), now);
                        break;
                    }
                }
            }
            Ok(())
        }))
    }

    /// Notes what this operation cannot use; the path may with other memory.
    fn note_memory(
        &self,
        request: &TransferRequest<'_>,
        plan: &PathPlan,
        history: &mut PathHistory,
    ) {
        if let Some(reason) = self.staging.why_not(request.local, request.kind) {
            for kind in [PathKind::StagedOneSide, PathKind::StagedBothSides] {
                history.note_tried(kind, reason.clone());
            }
        }
        if request.route.as_ref().is_some_and(|route| !route.notifies) {
            let reason = "the owner takes part in the transfer of an offer, not of a grant";
            for path in &plan.available {
                let owner_works = match path.kind {
                    PathKind::StagedBothSides => true,
                    PathKind::CudaIpc => is_host_memory(request.remote),
                    _ => false,
                };
                if owner_works {
                    history.note_tried(path.kind, reason);
                }
            }
        }
        if self.imports.refused.any()
            && let Some((path, mut wanted)) = self.memory_key(request.local, request.remote)
        {
            let now = self.link.clock.now();
            let reason =
                wanted.find_map(|memory_key| self.imports.refused.reason(&memory_key, now));
            if let Some(reason) = reason {
                history.note_tried(path, format!("this memory could not be opened: {reason}"));
            }
        }
    }

    /// Both sides are memory of this process.
    fn intra_process(
        &self,
        request: &TransferRequest<'_>,
    ) -> Result<Box<dyn Execution>, TransportError> {
        let offer = Offers::of_this_process().get(request.remote.notification_key());
        let host = |offer: &Offer| is_host(offer.descriptors());
        if is_host(request.local) && offer.as_ref().is_none_or(host) {
            return DirectExecutor::new().execute(request.clone());
        }
        let kind = PathKind::Local("local");
        if let Err(reason) = request.policy.check(kind, None, None) {
            return Err(TransportError::NoPath { rejected: vec![Rejected::new(kind, reason)] });
        }
        let ended = |why| TransportError::OfferEnded { why };
        let offer = offer.ok_or_else(|| ended(EndedOffer::Revoked))?;
        agree(&offer, request.remote)?;
        let claim = offer.claim_for_copy().map_err(ended)?;
        Ok(Box::new(IntraProcessCopy::new(request, claim, &self.context)?))
    }
}

/// The device of each side.
pub(super) fn devices(plan: &PathPlan) -> (Device, Device) {
    let here = match plan.query.local {
        MemoryKind::Gpu(gpu) => Device::cuda(gpu),
        _ => Device::HOST,
    };
    (here, plan.query.remote)
}

impl Executor for ConnectionExecutor {
    fn offer_created(&self, offer: Offer) {
        Offers::of_this_process().insert(offer.clone());
        self.staging.offer_created(offer);
    }

    fn offer_ended(&self, key: &NotificationKey) {
        Offers::of_this_process().remove(key);
        self.staging.offer_ended(key);
        if self.shared.slots.are_allocated() {
            // They may be idle from now on.
            self.shared.maintenance.note_use();
        }
    }

    fn describe(&self, info: PeerInfo) -> PeerInfo {
        self.facts.describe(info, true)
    }

    fn prepare(
        &self,
        local: &DescriptorList,
        remote: Option<&RdmaMetadata>,
    ) -> Option<Preparation> {
        let staging = self.staging.prepare(local, remote);
        let opening = remote.and_then(|remote| self.opening(local, remote));
        let jobs: Vec<_> = [staging, opening].into_iter().flatten().collect();
        match jobs.is_empty() {
            true => None,
            false => Some(Box::new(move || jobs.into_iter().try_for_each(|job| job()))),
        }
    }

    fn can_access(&self, device: Device) -> bool {
        self.staging.can_access(device)
    }

    fn needs_local_metadata(&self, local: &DescriptorList, remote: &RdmaMetadata) -> bool {
        let Some(peer) = remote.peer().filter(|peer| peer.capabilities().staging) else {
            return false;
        };
        // Staged, or copied by the peer's GPU.
        !is_host_memory(remote) || (peer.capabilities().ipc && !is_host(local))
    }

    fn shares(&self, local: &DescriptorList) -> Vec<Share> {
        shares(&*self.shared.gpus, local)
    }

    fn completed_by_slot(&self, key: &NotificationKey) {
        self.staging.completed_otherwise(key);
    }

    fn has_sessions(&self) -> bool {
        self.staging.has_sessions()
    }

    fn poll_interval(&self) -> Option<Duration> {
        self.staging.poll_interval()
    }

    fn receive(&self, from: &str, payload: &[u8]) -> Received {
        let received = self.staging.receive(from, payload);
        if matches!(received, Received::Serve(_)) {
            self.shared.maintenance.note_use();
        }
        received
    }

    fn prefaults(&self, remote: &RdmaMetadata) -> Vec<Prefault> {
        prefaults(&self.imports, remote)
    }

    fn peer_ended(&self, peer: &PeerId) {
        let (me, name) = (Weak::clone(&self.me), peer.as_str().to_owned());
        self.link.background.run(Box::new(move || {
            me.upgrade().into_iter().for_each(|me| me.forget(&name));
        }));
    }

    fn is_local(&self, local: &DescriptorList, remote: &RdmaMetadata) -> bool {
        let Some(offer) = Offers::of_this_process().get(remote.notification_key()) else {
            return false;
        };
        let theirs = offer.descriptors();
        if is_host(local) && is_host(theirs) {
            return true;
        }
        let gpus = &*self.shared.gpus;
        let reached = |list: &DescriptorList| {
            list.iter().all(|d| d.device().is_host() || self.can_access(d.device()))
                && kind_of(list, gpus).is_some()
        };
        reached(local) && reached(theirs)
    }

    fn execute(&self, request: TransferRequest<'_>) -> Result<Box<dyn Execution>, TransportError> {
        let Some(route) = &request.route else { return self.intra_process(&request) };
        let mut devices = request.local.iter().map(|d| d.device());
        let first = devices.next();
        if devices.any(|device| Some(device) != first) {
            let reason = "the local memory is of several devices; use one operation for each";
            let (engine, call) = ("executor", "begin");
            return Err(TransportError::Engine { engine, call, reason: reason.into() });
        }
        let info = request.remote.peer();
        let peer = self.peer(route.peer.as_str(), info);
        self.ask_engine(&peer, &request);
        let (plan, mut history) = self.plan(&peer, info, self.query(&request));
        self.note_memory(&request, &plan, &mut history);
        self.shared.maintenance.note_use();
        let me = self.me.upgrade().ok_or(TransportError::Closed)?;
        PathTransfer::begin(me, peer, (plan, history), &request)
    }
}

/// The page of offer slots that a peer names.
fn page_of(doorbell: &Doorbell) -> SharedName {
    let &Doorbell { pid, fd, name, length, .. } = doorbell;
    SharedName { pid, fd, name, len: length }
}

pub(super) fn is_host_memory(remote: &RdmaMetadata) -> bool {
    remote.descriptors().iter().all(|d| d.device().is_host())
}

impl fmt::Debug for ConnectionExecutor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ConnectionExecutor")
            .field("gpus", &self.shared.gpus)
            .field("staging", &self.staging)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_option_says_which_transports_a_connection_has() {
        let process = Arc::new(LocalFacts::default());
        let with = |source| facts_of(&process, &[EngineSetting::new("UCX_TLS", "tcp", source)]);
        assert_eq!(with(SettingSource::Option).ucx, UcxTransports::parse("tcp"));
        assert_eq!(with(SettingSource::Environment).ucx, process.ucx);
        assert!(Arc::ptr_eq(&facts_of(&process, &[]), &process));
    }
}
