//! Staging alone as an executor.

use std::sync::Arc;
use std::time::Duration;

use nixl_descriptor::DescriptorList;
use nixl_device::Device;
use nixl_metadata::{ExportId, NotificationKey, PeerInfo, RdmaMetadata, Share};
use nixl_ops::{
    ConnectionExecutor, Execution, GrantTable, Offer, OfferRegistry, PeerId, PeerService,
    Preparation, Received, TransferRequest, TransportError, TransportExecutor,
};

use crate::local::{GpuBackend, can_access};
use crate::transfers::{Services, StagingMode};

/// Stages every operation in which either side is GPU memory, and hands all others to the transport as they are: what the
/// tests of staging give to a connection.
#[derive(Debug)]
pub(super) struct StagingExecutor {
    pub(super) services: Arc<Services>,
    pub(super) gpus: Arc<dyn GpuBackend>,
}

impl ConnectionExecutor for StagingExecutor {
    fn execute(&self, request: TransferRequest<'_>) -> Result<Box<dyn Execution>, TransportError> {
        let there = request.remote().descriptors().iter().any(|d| !d.device().is_host());
        let here = request.local().iter().any(|d| !d.device().is_host());
        match (here, there) {
            (_, true) => self.services.staging.begin(&request, StagingMode::TwoSided),
            (true, false) => self.services.staging.begin(&request, StagingMode::OneSided),
            (false, false) => TransportExecutor.execute(request),
        }
    }

    fn prepare(
        &self,
        local: &DescriptorList,
        remote: Option<&RdmaMetadata>,
    ) -> Option<Preparation> {
        self.services.staging.prepare(local, remote)
    }

    fn can_access(&self, device: Device) -> bool {
        can_access(&*self.gpus, device)
    }

    fn needs_local_metadata(&self, _: &DescriptorList, remote: &RdmaMetadata) -> bool {
        remote.descriptors().iter().any(|d| !d.device().is_host())
    }

    fn offers(&self) -> Option<&dyn OfferRegistry> {
        Some(self)
    }

    fn peers(&self) -> Option<&dyn PeerService> {
        Some(self)
    }
}

impl OfferRegistry for StagingExecutor {
    fn offer_created(&self, offer: Offer) {
        self.services.sessions.offer_created(offer);
    }

    fn offer_ended(&self, key: &NotificationKey) {
        self.services.sessions.offer_ended(key);
    }

    fn export_opened(&self, export: ExportId, table: &Arc<GrantTable>) {
        self.services.sessions.export_opened(export, table);
    }

    fn describe(&self, info: PeerInfo) -> PeerInfo {
        let capabilities = info.capabilities().with_staging(true);
        info.with_capabilities(capabilities)
    }

    fn shares(&self, _: &DescriptorList) -> Vec<Share> {
        Vec::new()
    }
}

impl PeerService for StagingExecutor {
    fn receive(&self, from: &str, payload: &[u8]) -> Received {
        self.services.receive(from, payload)
    }

    fn has_sessions(&self) -> bool {
        self.services.sessions.len() > 0
    }

    fn poll_interval(&self) -> Option<Duration> {
        self.services.sessions.poll_interval()
    }

    fn completed_by_slot(&self, _: &NotificationKey) {}

    fn peer_ended(&self, _: &PeerId) {}
}
