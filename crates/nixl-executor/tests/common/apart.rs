//! Two connectors of one process as peers of each other.

use std::sync::Arc;

use nixl_descriptor::DescriptorList;
use nixl_device::Device;
use nixl_metadata::{ExportId, HostIdentity, NotificationKey, PeerInfo, RdmaMetadata, Share};
use nixl_ops::{
    ConnectionContext, ConnectionExecutor, Execution, Executor, GrantTable, Offer, OfferRegistry,
    PeerService, Prefault, Preparation, TransferRequest, TransportError,
};

/// The same executor, but for one thing: what this process offers is not copied inside it. So two connectors of one
/// process are peers like any others.
#[derive(Debug)]
pub(crate) struct Apart {
    pub(crate) executor: Arc<dyn Executor>,
    /// The process that it says it is, so that it shares memory with itself; or what it is.
    pub(crate) poses: Option<u32>,
}

#[deny(clippy::missing_trait_methods, reason = "a wrapper forwards every method")]
impl Executor for Apart {
    fn connect(&self, link: ConnectionContext) -> Arc<dyn ConnectionExecutor> {
        Arc::new(ApartConnection { executor: self.executor.connect(link), poses: self.poses })
    }

    fn check_process(&self) -> Result<(), TransportError> {
        self.executor.check_process()
    }
}

#[derive(Debug)]
struct ApartConnection {
    executor: Arc<dyn ConnectionExecutor>,
    poses: Option<u32>,
}

#[deny(clippy::missing_trait_methods, reason = "a wrapper forwards every method")]
impl ConnectionExecutor for ApartConnection {
    fn execute(&self, request: TransferRequest<'_>) -> Result<Box<dyn Execution>, TransportError> {
        self.executor.execute(request)
    }

    fn is_local(&self, _: &DescriptorList, _: &RdmaMetadata) -> bool {
        false
    }

    fn prepare(
        &self,
        local: &DescriptorList,
        remote: Option<&RdmaMetadata>,
    ) -> Option<Preparation> {
        self.executor.prepare(local, remote)
    }

    fn prefault(&self, remote: &RdmaMetadata, at_most: u64) -> Option<Prefault> {
        self.executor.prefault(remote, at_most)
    }

    fn can_access(&self, device: Device) -> bool {
        self.executor.can_access(device)
    }

    fn needs_local_metadata(&self, local: &DescriptorList, remote: &RdmaMetadata) -> bool {
        self.executor.needs_local_metadata(local, remote)
    }

    fn offers(&self) -> Option<&dyn OfferRegistry> {
        Some(self)
    }

    fn peers(&self) -> Option<&dyn PeerService> {
        self.executor.peers()
    }
}

impl ApartConnection {
    fn inner(&self) -> &dyn OfferRegistry {
        self.executor.offers().unwrap()
    }
}

impl OfferRegistry for ApartConnection {
    fn offer_created(&self, offer: Offer) {
        self.inner().offer_created(offer);
    }

    fn offer_ended(&self, key: &NotificationKey) {
        self.inner().offer_ended(key);
    }

    fn export_opened(&self, export: ExportId, table: &Arc<GrantTable>) {
        self.inner().export_opened(export, table);
    }

    fn describe(&self, info: PeerInfo) -> PeerInfo {
        let info = self.inner().describe(info);
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

    fn shares(&self, local: &DescriptorList) -> Vec<Share> {
        self.inner().shares(local)
    }
}
