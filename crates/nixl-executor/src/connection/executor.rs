//! The executor of one connection.

use std::fmt;
use std::sync::{Arc, Weak};
use std::time::Duration;

use nixl_descriptor::DescriptorList;
use nixl_device::Device;
use nixl_metadata::{NotificationKey, PeerInfo, RdmaMetadata, Share};
use nixl_ops::{
    ConnectionContext, ConnectionExecutor, DirectTransfer, EngineSetting, Execution, Offer,
    OfferRegistry, PathKind, PeerId, PeerService, Prefault, Preparation, Received, SettingSource,
    TransferRequest, TransportError, WaitFor,
};

use super::path_executor::{PeerStats, Shared};
use super::path_transfer::PathTransfer;
use super::planning::{is_copied_by_owner, is_host_memory};
use super::telemetry::Successes;
use crate::facts::{Engine, LocalFacts, UcxTransports};
use crate::local::{self, CopyContext, MemoryKind, ProcessOffers, is_host};
use crate::peers::Peers;
use crate::remote_memory::{ImportCache, prefault, shares};
use crate::transfers::{PeerCopy, RemoteCopyContext, Services, StagingMode};

pub(super) struct PathConnection {
    /// For operations, which go on with the next path by themselves.
    pub(super) me: Weak<Self>,
    pub(super) shared: Arc<Shared>,
    /// What is known of this process, with the transports that UCX was given for this connection.
    pub(super) facts: Arc<LocalFacts>,
    pub(super) link: ConnectionContext,
    pub(super) context: CopyContext,
    pub(super) services: Services,
    pub(super) imports: Arc<ImportCache>,
    pub(super) peers: Arc<Peers>,
    pub(super) engine: Engine,
    pub(super) successes: Successes,
}

/// The facts of the process, but for transports that an option of the connection's names: the environment, which goes before, is
/// among the facts.
fn facts_of(process: &Arc<LocalFacts>, settings: &[EngineSetting]) -> Arc<LocalFacts> {
    let is_transports =
        |s: &&EngineSetting| s.name() == "UCX_TLS" && s.source() == SettingSource::Option;
    match settings.iter().find(is_transports) {
        Some(transports) => {
            let ucx = UcxTransports::parse(transports.value());
            Arc::new(LocalFacts { ucx, ..LocalFacts::clone(process) })
        }
        None => Arc::clone(process),
    }
}

impl PathConnection {
    pub(super) fn new(shared: Arc<Shared>, link: ConnectionContext) -> Arc<Self> {
        Arc::new_cyclic(|me| Self::with(Weak::clone(me), shared, link))
    }

    fn with(me: Weak<Self>, shared: Arc<Shared>, link: ConnectionContext) -> Self {
        let gpus = &shared.gpus;
        let context = CopyContext {
            gpus: Arc::clone(gpus),
            threads: shared.threads.clone(),
            costs: shared.costs.clone(),
            waker: link.waker().clone(),
        };
        let facts = facts_of(&shared.facts, &link.transport().settings());
        let imports = ImportCache::new(Arc::clone(gpus), Arc::clone(link.background()));
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
            services: Services::new(
                remote_copies,
                link.clone(),
                Arc::clone(&peers),
                (shared.staging, &shared.slots),
            ),
            imports,
            peers,
            engine: Engine::of(link.transport().name()),
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

    /// Periodic maintenance, once a second: closes memory that peers have released, in the background, and checks for peers that
    /// stalled.
    pub(super) fn maintain(&self) {
        self.imports.sweep_soon();
        self.services.sessions.look_for_stalled();
    }

    /// Releases pinned slots, in the background.
    pub(super) fn release_slots(&self) {
        let staging = Arc::downgrade(&self.services.staging);
        self.link.background().run(Box::new(move || {
            staging.upgrade().into_iter().for_each(|staging| staging.release_slots());
        }));
    }

    /// Prepares a transfer by one kind of path.
    pub(super) fn begin(
        &self,
        kind: PathKind,
        local: MemoryKind,
        request: &TransferRequest<'_>,
    ) -> Result<Box<dyn Execution>, TransportError> {
        let gate = |execution| WaitFor::before(execution, request.local().pending());
        match kind {
            PathKind::CudaIpc if is_copied_by_owner(request.remote()) => {
                self.services.remote_copies.begin(request).map(gate)
            }
            // Their copies wait by themselves, as those of the transport below.
            PathKind::CudaIpc | PathKind::SharedMemory => {
                Ok(Box::new(self.peer_copy(kind, local, request, u64::MAX)?))
            }
            PathKind::StagedOneSide | PathKind::StagedBothSides => {
                let there = !is_host_memory(request.remote());
                let mode = if there { StagingMode::TwoSided } else { StagingMode::OneSided };
                self.services.staging.begin(request, mode).map(gate)
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
}

impl ConnectionExecutor for PathConnection {
    fn execute(&self, request: TransferRequest<'_>) -> Result<Box<dyn Execution>, TransportError> {
        let Some(route) = &request.route() else { return local::begin(&request, &self.context) };
        let mut devices = request.local().iter().map(|d| d.device());
        let first = devices.next();
        if devices.any(|device| Some(device) != first) {
            let reason = "the local memory is of several devices; use one operation for each";
            let (engine, call) = ("executor", "begin");
            return Err(TransportError::Engine { engine, call, reason: reason.into() });
        }
        let info = request.remote().peer();
        let peer = self.peer(route.peer().as_str(), info);
        self.ask_engine(&peer, &request);
        let (plan, mut history) =
            self.plan(&peer, info, self.query(&request), request.local().total_bytes());
        self.note_memory(&request, &plan, &mut history);
        self.shared.maintenance.note_use();
        let me = self.me.upgrade().ok_or(TransportError::Closed)?;
        PathTransfer::begin(me, peer, (plan, history), &request)
    }

    fn is_local(&self, local: &DescriptorList, remote: &RdmaMetadata) -> bool {
        local::is_local(local, remote, &*self.shared.gpus)
    }

    fn prepare(
        &self,
        local: &DescriptorList,
        remote: Option<&RdmaMetadata>,
    ) -> Option<Preparation> {
        let staging = self.services.staging.prepare(local, remote);
        let opening = remote.and_then(|remote| self.opening(local, remote));
        let jobs: Vec<_> = [staging, opening].into_iter().flatten().collect();
        match jobs.is_empty() {
            true => None,
            false => Some(Box::new(move || jobs.into_iter().try_for_each(|job| job()))),
        }
    }

    fn prefault(&self, remote: &RdmaMetadata, at_most: u64) -> Option<Prefault> {
        prefault(&self.imports, remote, at_most)
    }

    fn can_access(&self, device: Device) -> bool {
        local::can_access(&*self.shared.gpus, device)
    }

    fn needs_local_metadata(&self, local: &DescriptorList, remote: &RdmaMetadata) -> bool {
        let Some(peer) = remote.peer().filter(|peer| peer.capabilities().staging()) else {
            return false;
        };
        // Staged, or copied by the peer's GPU.
        !is_host_memory(remote) || (peer.capabilities().ipc() && !is_host(local))
    }

    fn offers(&self) -> Option<&dyn OfferRegistry> {
        Some(self)
    }

    fn peers(&self) -> Option<&dyn PeerService> {
        Some(self)
    }
}

impl OfferRegistry for PathConnection {
    fn offer_created(&self, offer: Offer) {
        ProcessOffers::get().insert(offer.clone());
        self.services.sessions.offer_created(offer);
    }

    fn offer_ended(&self, key: &NotificationKey) {
        ProcessOffers::get().remove(key);
        self.services.sessions.offer_ended(key);
        if self.shared.slots.are_allocated() {
            // They may be idle from now on.
            self.shared.maintenance.note_use();
        }
    }

    fn describe(&self, info: PeerInfo) -> PeerInfo {
        self.facts.describe(info, true)
    }

    fn shares(&self, local: &DescriptorList) -> Vec<Share> {
        shares(&*self.shared.gpus, local)
    }
}

impl PeerService for PathConnection {
    fn receive(&self, from: &str, payload: &[u8]) -> Received {
        let received = self.services.receive(from, payload);
        if matches!(received, Received::Serve(_)) {
            self.shared.maintenance.note_use();
        }
        received
    }

    fn has_sessions(&self) -> bool {
        self.services.sessions.len() > 0
    }

    fn poll_interval(&self) -> Option<Duration> {
        self.services.sessions.poll_interval()
    }

    fn completed_by_slot(&self, key: &NotificationKey) {
        self.services.sessions.completed_otherwise(key);
    }

    fn peer_ended(&self, peer: &PeerId) {
        self.forget_soon(peer.as_str());
    }
}

impl fmt::Debug for PathConnection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PathConnection")
            .field("gpus", &self.shared.gpus)
            .field("services", &self.services)
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
