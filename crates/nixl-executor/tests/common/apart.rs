//! Two connectors of one process as peers of each other.

use std::sync::Arc;
use std::time::Duration;

use nixl_descriptor::DescriptorList;
use nixl_device::Device;
use nixl_metadata::{HostIdentity, NotificationKey, PeerInfo, RdmaMetadata, Share};
use nixl_ops::{
    ConnectionContext, Execution, Executor, Offer, PeerId, Prefault, Preparation, Received,
    TransferRequest, TransportError,
};

/// The same executor, but for one thing: what this process offers is not copied inside it. So two connectors of one
/// process are peers like any others.
#[derive(Debug)]
pub(crate) struct Apart {
    pub(crate) executor: Arc<dyn Executor>,
    /// The process that it says it is, so that it shares memory with itself; or what it is.
    pub(crate) poses: Option<u32>,
}

impl Executor for Apart {
    fn offer_created(&self, offer: Offer) {
        self.executor.offer_created(offer);
    }

    fn offer_ended(&self, key: &NotificationKey) {
        self.executor.offer_ended(key);
    }

    fn attach(&self, link: ConnectionContext) -> Option<Arc<dyn Executor>> {
        let (executor, poses) = (self.executor.attach(link)?, self.poses);
        Some(Arc::new(Self { executor, poses }))
    }

    fn describe(&self, info: PeerInfo) -> PeerInfo {
        let info = self.executor.describe(info);
        let Some(pid) = self.poses else { return info };
        let host = info.host();
        let elsewhere = HostIdentity::new(host.hostname(), host.boot_id().unwrap_or(""), pid)
            .unwrap()
            .with_pid_namespace(host.pid_namespace())
            .with_ipc_namespace(host.ipc_namespace());
        let other = PeerInfo::new(info.agent_name(), info.incarnation(), elsewhere).unwrap();
        let other = other.with_transports(info.transports().to_vec()).unwrap();
        let other = other.with_devices(info.devices().to_vec()).unwrap();
        other.with_capabilities(info.capabilities()).with_versions(info.versions())
    }

    fn prepare(
        &self,
        local: &DescriptorList,
        remote: Option<&RdmaMetadata>,
    ) -> Option<Preparation> {
        self.executor.prepare(local, remote)
    }

    fn can_access(&self, device: Device) -> bool {
        self.executor.can_access(device)
    }

    fn needs_local_metadata(&self, local: &DescriptorList, remote: &RdmaMetadata) -> bool {
        self.executor.needs_local_metadata(local, remote)
    }

    fn shares(&self, local: &DescriptorList) -> Vec<Share> {
        self.executor.shares(local)
    }

    fn has_sessions(&self) -> bool {
        self.executor.has_sessions()
    }

    fn poll_interval(&self) -> Option<Duration> {
        self.executor.poll_interval()
    }

    fn receive(&self, from: &str, payload: &[u8]) -> Received {
        self.executor.receive(from, payload)
    }

    fn prefaults(&self, remote: &RdmaMetadata) -> Vec<Prefault> {
        self.executor.prefaults(remote)
    }

    fn peer_ended(&self, peer: &PeerId) {
        self.executor.peer_ended(peer);
    }

    fn execute(&self, request: TransferRequest<'_>) -> Result<Box<dyn Execution>, TransportError> {
        self.executor.execute(request)
    }
}
