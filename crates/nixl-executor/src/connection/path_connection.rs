//! The state of one connection, and the begin of a transfer by one kind of path.

use std::fmt;
use std::sync::{Arc, Weak};

use nixl_device::SharedError;
use nixl_metadata::RdmaMetadata;
use nixl_ops::{
    ConnectionContext, DirectTransfer, EngineSetting, PathKind, SettingSource, TransferRequest,
    TransportError, WaitFor,
};

use super::attempt::Attempt;
use super::common::Common;
use super::peer_stats::PeerStats;
use super::telemetry::Successes;
use crate::facts::{Engine, LocalFacts, ShareForm, UcxTransports};
use crate::local::{CopyContext, MemoryKind};
use crate::peers::Peers;
use crate::planner::PathQuery;
use crate::remote_memory::ImportCache;
use crate::transfers::{PeerCopy, RemoteCopyContext, Services, StagingMode};

/// One connection of a [`PathExecutor`](super::PathExecutor): its engine, the slots of staging, what is known of peers and their memory
/// that is open here.
pub(super) struct PathConnection {
    /// For operations, which go on with the next path by themselves.
    pub(super) me: Weak<Self>,
    pub(super) shared: Arc<Common>,
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

/// The facts of the process, but for transports that an option, a file or the connector's choice names: the environment, which goes
/// before, is among the facts.
fn facts_of(process: &Arc<LocalFacts>, settings: &[EngineSetting]) -> Arc<LocalFacts> {
    let is_transports =
        |s: &&EngineSetting| s.name() == "UCX_TLS" && s.source() != SettingSource::Environment;
    match settings.iter().find(is_transports) {
        Some(transports) => {
            let ucx = UcxTransports::parse(transports.value());
            Arc::new(LocalFacts { ucx, ..LocalFacts::clone(process) })
        }
        None => Arc::clone(process),
    }
}

impl PathConnection {
    pub(super) fn new(shared: Arc<Common>, link: ConnectionContext) -> Arc<Self> {
        Arc::new_cyclic(|me| Self::with(Weak::clone(me), shared, link))
    }

    fn with(me: Weak<Self>, shared: Arc<Common>, link: ConnectionContext) -> Self {
        let gpus = &shared.gpus;
        let context = CopyContext {
            gpus: Arc::clone(gpus),
            threads: shared.threads.clone(),
            costs: shared.settings.costs.clone(),
            waker: link.waker().clone(),
        };
        let facts = facts_of(&shared.facts, &link.transport().settings());
        let imports =
            ImportCache::with(shared.settings.imports, Arc::clone(gpus), Arc::clone(link.work()));
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
                (shared.settings.staging, &shared.slots),
            ),
            imports,
            peers,
            engine: Engine::of(link.transport().name()),
            successes: Successes::new(),
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
        query: &PathQuery,
        request: &TransferRequest<'_>,
    ) -> Result<Attempt, TransportError> {
        let pending = request.local().pending();
        let gate = |execution| Attempt::Other(WaitFor::before(execution, pending));
        match kind {
            PathKind::CudaIpc if is_copied_by_owner(query) => {
                self.services.remote_copies.begin(request).map(gate)
            }
            // Their copies wait by themselves, as those of the transport below.
            PathKind::CudaIpc | PathKind::SharedMemory => {
                let copy = self.peer_copy(kind, query.local, request, u64::MAX)?;
                Ok(Attempt::Other(Box::new(copy)))
            }
            PathKind::StagedOneSide | PathKind::StagedBothSides => {
                let there = !is_host_memory(request.remote());
                let mode = if there { StagingMode::TwoSided } else { StagingMode::OneSided };
                self.services.staging.begin(request, mode).map(gate)
            }
            PathKind::StagedOnGpu => {
                self.services.staging.begin(request, StagingMode::OnGpu).map(gate)
            }
            PathKind::GpuDirect | PathKind::Direct | PathKind::EngineStaged => {
                let transfer = DirectTransfer::prepare(kind, request)?;
                match pending.is_empty() {
                    true => Ok(Attempt::Direct(transfer)),
                    false => Ok(gate(Box::new(transfer))),
                }
            }
            other => {
                let reason =
                    SharedError::text(format!("{other} is no path between these memories"));
                Err(TransportError::Engine { engine: "executor", call: "begin", reason })
            }
        }
    }

    /// A copy by this process of the first `most` bytes. The peer is notified only of a copy of all bytes.
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

impl fmt::Debug for PathConnection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PathConnection")
            .field("gpus", &self.shared.gpus)
            .field("services", &self.services)
            .finish_non_exhaustive()
    }
}

/// Whether the owner of an offer carries it out where a GPU copies: nothing of the offer can be opened here.
pub(super) fn is_copied_by_owner(query: &PathQuery) -> bool {
    !query.offered.share.is_some_and(ShareForm::is_of_gpus)
}

/// Whether all of the offered memory is the host's.
pub(super) fn is_host_memory(remote: &RdmaMetadata) -> bool {
    remote.descriptors().iter().all(|d| d.device().is_host())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_setting_says_which_transports_a_connection_has() {
        let process = Arc::new(LocalFacts::default());
        let with = |source| facts_of(&process, &[EngineSetting::new("UCX_TLS", "tcp", source)]);
        for source in [SettingSource::Option, SettingSource::File, SettingSource::Chosen] {
            assert_eq!(with(source).ucx, UcxTransports::parse("tcp"));
        }
        assert_eq!(with(SettingSource::Environment).ucx, process.ucx);
        assert!(Arc::ptr_eq(&facts_of(&process, &[]), &process));
    }
}
