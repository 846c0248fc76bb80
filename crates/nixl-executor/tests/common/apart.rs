//! Two connectors of one process as peers of each other.

use std::sync::Arc;
use std::time::Duration;

use nixl_descriptor::DescriptorList;
use nixl_device::Device;
use nixl_metadata::{HostIdentity, NotificationKey, PeerInfo, RdmaMetadata, Share};
use nixl_ops::{
    Execution, Executor, Link, Offer, PeerId, Preparation, Received, TransferRequest,
    TransportError,
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
    fn announce(&self, offer: Offer) {
        self.executor.announce(offer);
    }

    fn withdraw(&self, key: &NotificationKey) {
        self.executor.withdraw(key);
    }

    fn attach(&self, link: Link) -> Option<Arc<dyn Executor>> {
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

    fn reaches(&self, device: Device) -> bool {
        self.executor.reaches(device)
    }

    fn introduces(&self, local: &DescriptorList, remote: &RdmaMetadata) -> bool {
        self.executor.introduces(local, remote)
    }

    fn shares(&self, local: &DescriptorList) -> Vec<Share> {
        self.executor.shares(local)
    }

    fn listens(&self) -> bool {
        self.executor.listens()
    }

    fn checks_every(&self) -> Option<Duration> {
        self.executor.checks_every()
    }

    fn receive(&self, from: &str, payload: &[u8]) -> Received {
        self.executor.receive(from, payload)
    }

    fn peer_ended(&self, peer: &PeerId) {
        self.executor.peer_ended(peer);
    }

    fn execute(&self, request: TransferRequest<'_>) -> Result<Box<dyn Execution>, TransportError> {
        self.executor.execute(request)
    }
}
