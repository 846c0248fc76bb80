//! Staging as an executor of its own.

use std::sync::Arc;

use nixl_descriptor::DescriptorList;
use nixl_device::Device;
use nixl_metadata::{NotificationKey, PeerInfo, RdmaMetadata};
use nixl_ops::{
    Execution, Executor, Link, Offer, Preparation, Received, TransferRequest, TransportError,
    TransportExecutor,
};

use super::StagingConfig;
use super::staging::{Manner, Staging, StagingStats, involves_gpu};
use crate::local::Gpus;

/// Stages every operation in which either side is GPU memory, and hands all others to the transport as they are.
///
/// Peers whose memory is a GPU's must use it too.
#[derive(Debug)]
pub struct StagedExecutor {
    gpus: Arc<dyn Gpus>,
    config: StagingConfig,
    /// Once it is attached to a connection.
    staging: Option<Arc<Staging>>,
}

impl StagedExecutor {
    /// Stages with these GPUs.
    pub fn new(gpus: Arc<dyn Gpus>, config: StagingConfig) -> Self {
        Self { gpus, config, staging: None }
    }

    pub(super) fn attached(staging: Arc<Staging>) -> Self {
        let gpus = Arc::clone(staging.gpus());
        Self { gpus, config: *staging.config(), staging: Some(staging) }
    }

    /// What it holds; all zero before it is attached.
    pub fn stats(&self) -> StagingStats {
        self.staging.as_ref().map(|staging| staging.stats()).unwrap_or_default()
    }
}

impl Executor for StagedExecutor {
    fn announce(&self, offer: Offer) {
        if let Some(staging) = &self.staging {
            staging.announce(offer);
        }
    }

    fn withdraw(&self, key: &NotificationKey) {
        if let Some(staging) = &self.staging {
            staging.withdraw(key);
        }
    }

    fn attach(&self, link: Link) -> Option<Arc<dyn Executor>> {
        let staging = Staging::new(Arc::clone(&self.gpus), link, self.config);
        Some(Arc::new(Self::attached(staging)))
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
        self.staging.as_ref()?.prepare(local, remote)
    }

    fn reaches(&self, device: Device) -> bool {
        self.staging.as_ref().is_some_and(|staging| staging.reaches(device))
    }

    fn introduces(&self, _: &DescriptorList, remote: &RdmaMetadata) -> bool {
        remote.descriptors().iter().any(|d| !d.device().is_host())
    }

    fn listens(&self) -> bool {
        self.staging.as_ref().is_some_and(|staging| staging.listens())
    }

    fn receive(&self, from: &str, payload: &[u8]) -> Received {
        self.staging.as_ref().map_or(Received::Ignored, |staging| staging.receive(from, payload))
    }

    fn execute(&self, request: TransferRequest<'_>) -> Result<Box<dyn Execution>, TransportError> {
        let remote = request.remote.descriptors();
        match &self.staging {
            Some(staging) if involves_gpu(request.local, remote) => {
                let there = remote.iter().any(|d| !d.device().is_host());
                let manner = if there { Manner::Together } else { Manner::Alone };
                staging.begin(&request, manner)
            }
            _ => TransportExecutor.execute(request),
        }
    }
}
