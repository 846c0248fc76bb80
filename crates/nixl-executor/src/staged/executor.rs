//! Staging as an executor of its own.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use nixl_descriptor::DescriptorList;
use nixl_device::Device;
use nixl_metadata::{NotificationKey, PeerInfo, RdmaMetadata};
use nixl_ops::{
    Execution, Executor, Link, Offer, Preparation, Received, TransferRequest, TransportError,
    TransportExecutor,
};

use super::StagingConfig;
use super::staging::{Manner, Staging, StagingStats};
use crate::local::Gpus;

/// Stages every operation in which either side is GPU memory, and hands all others to the transport as they are.
///
/// Peers whose memory is a GPU's must use it too.
#[derive(Debug)]
pub struct StagedExecutor {
    gpus: Arc<dyn Gpus>,
    config: StagingConfig,
    connections: Mutex<Vec<Weak<Staging>>>,
}

impl StagedExecutor {
    /// Stages with these GPUs.
    pub fn new(gpus: Arc<dyn Gpus>, config: StagingConfig) -> Self {
        Self { gpus, config, connections: Mutex::default() }
    }

    /// What all connections that use it hold together.
    pub fn stats(&self) -> StagingStats {
        let connections = self.connections();
        let each = connections.iter().filter_map(Weak::upgrade).map(|staging| staging.stats());
        each.fold(StagingStats::default(), StagingStats::plus)
    }

    fn connections(&self) -> MutexGuard<'_, Vec<Weak<Staging>>> {
        self.connections.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Executor for StagedExecutor {
    fn attach(&self, link: Link) -> Option<Arc<dyn Executor>> {
        let staging = Staging::new(Arc::clone(&self.gpus), link, self.config);
        let mut connections = self.connections();
        connections.retain(|staging| staging.strong_count() > 0);
        connections.push(Arc::downgrade(&staging));
        Some(Arc::new(Attached(staging)))
    }

    fn execute(&self, request: TransferRequest<'_>) -> Result<Box<dyn Execution>, TransportError> {
        TransportExecutor.execute(request)
    }
}

/// The executor of one connection.
#[derive(Debug)]
pub(super) struct Attached(pub(super) Arc<Staging>);

impl Executor for Attached {
    fn announce(&self, offer: Offer) {
        self.0.announce(offer);
    }

    fn withdraw(&self, key: &NotificationKey) {
        self.0.withdraw(key);
    }

    fn describe(&self, info: PeerInfo) -> PeerInfo {
        let capabilities = info.capabilities().with_staging(true);
        info.with_capabilities(capabilities)
    }

    fn prepare(
        &self,
        local: &DescriptorList,
        remote: Option<&RdmaMetadata>,
    ) -> Option<Preparation> {
        self.0.prepare(local, remote)
    }

    fn reaches(&self, device: Device) -> bool {
        self.0.reaches(device)
    }

    fn introduces(&self, _: &DescriptorList, remote: &RdmaMetadata) -> bool {
        remote.descriptors().iter().any(|d| !d.device().is_host())
    }

    fn listens(&self) -> bool {
        self.0.listens()
    }

    fn receive(&self, from: &str, payload: &[u8]) -> Received {
        self.0.receive(from, payload)
    }

    fn execute(&self, request: TransferRequest<'_>) -> Result<Box<dyn Execution>, TransportError> {
        let there = request.remote.descriptors().iter().any(|d| !d.device().is_host());
        let here = request.local.iter().any(|d| !d.device().is_host());
        match (here, there) {
            (_, true) => self.0.begin(&request, Manner::Together),
            (true, false) => self.0.begin(&request, Manner::Alone),
            (false, false) => TransportExecutor.execute(request),
        }
    }
}
