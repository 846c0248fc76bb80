//! Staging alone as an executor.

use std::sync::Arc;
use std::time::Duration;

use nixl_descriptor::DescriptorList;
use nixl_device::Device;
use nixl_metadata::{NotificationKey, PeerInfo, RdmaMetadata};
use nixl_ops::{
    Execution, Executor, Offer, Preparation, Received, TransferRequest, TransportError,
    TransportExecutor,
};

use crate::staged::staging::{Staging, StagingMode};

/// Stages every operation in which either side is GPU memory, and hands all others to the transport as they are: what the
/// tests of staging attach to a connection.
#[derive(Debug)]
pub(super) struct ConnectionExecutor(pub(super) Arc<Staging>);

impl Executor for ConnectionExecutor {
    fn offer_created(&self, offer: Offer) {
        self.0.offer_created(offer);
    }

    fn offer_ended(&self, key: &NotificationKey) {
        self.0.offer_ended(key);
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

    fn can_access(&self, device: Device) -> bool {
        self.0.can_access(device)
    }

    fn needs_local_metadata(&self, _: &DescriptorList, remote: &RdmaMetadata) -> bool {
        remote.descriptors().iter().any(|d| !d.device().is_host())
    }

    fn has_sessions(&self) -> bool {
        self.0.has_sessions()
    }

    fn poll_interval(&self) -> Option<Duration> {
        self.0.poll_interval()
    }

    fn receive(&self, from: &str, payload: &[u8]) -> Received {
        self.0.receive(from, payload)
    }

    fn execute(&self, request: TransferRequest<'_>) -> Result<Box<dyn Execution>, TransportError> {
        let there = request.remote().descriptors().iter().any(|d| !d.device().is_host());
        let here = request.local().iter().any(|d| !d.device().is_host());
        match (here, there) {
            (_, true) => self.0.begin(&request, StagingMode::TwoSided),
            (true, false) => self.0.begin(&request, StagingMode::OneSided),
            (false, false) => TransportExecutor.execute(request),
        }
    }
}
