//! The description of this process for peers: capabilities, GPUs and media.

use nixl_metadata::{PeerDevice, PeerInfo};
use nixl_ops::Medium;

use super::LocalFacts;

/// The version of staging messages that this release speaks. The form of version 3 is that of version 2; it means that chunks are staged
/// on a GPU, too. Version 4 has the requests of reads by tickets.
pub(crate) const STAGING: u16 = 4;
/// From which version on chunks are staged on the source's GPU if the initiator requests it.
pub(crate) const STAGING_ON_GPU: u16 = 3;
/// From which version on the owner of an export takes part in reads by tickets.
pub(crate) const STAGING_BY_TICKET: u16 = 4;
/// The version of the messages that request a copy by a peer's GPU. The form of versions 3 and 4 is that of version 2. Version 3
/// means that GPU memory is offered for such copies, too; version 4 that handles may be of pieces.
pub(crate) const REMOTE_COPY: u16 = 4;
/// The first version in which memory for such a copy may be opened piece by piece.
pub(crate) const REMOTE_COPY_OF_PIECES: u16 = 4;
/// The first version in which a peer's GPU copies to and from GPU memory of an offer.
pub(crate) const REMOTE_COPY_OF_GPUS: u16 = 3;

impl LocalFacts {
    /// Adds the facts for the peer's planner to `info`: the capabilities, the GPUs, and, after the names of the transports,
    /// those of this side's [media](Medium). `staging` is whether this process takes part in staged transfers.
    #[must_use]
    pub fn describe(&self, info: PeerInfo, staging: bool) -> PeerInfo {
        let capabilities = info
            .capabilities()
            .with_staging(staging)
            .with_ipc(self.cuda.is_ok() && self.ucx.cuda_ipc)
            .with_shared_memory(self.ucx.shared_memory);
        let has = |medium: Medium| match medium {
            Medium::SharedMemory => self.ucx.shared_memory,
            Medium::Rdma => self.ucx.rdma && self.rdma.is_ok(),
            Medium::Tcp => self.ucx.tcp,
            _ => false,
        };
        let media = Medium::ALL.into_iter().filter(|medium| has(*medium));
        let mut transports = info.transports().to_vec();
        for name in media.map(|medium| medium.to_string()) {
            if !transports.contains(&name) && transports.len() < PeerInfo::MAX_TRANSPORTS {
                transports.push(name);
            }
        }
        let devices = self.gpus.iter().take(PeerInfo::MAX_DEVICES).map(|gpu| {
            PeerDevice::cuda(gpu.ordinal)
                .with_uuid(gpu.uuid.unwrap_or_default())
                .with_gpu_direct(gpu.gpu_direct.is_ok())
        });
        let versions = info.versions().with_staging(STAGING).with_remote_copy(REMOTE_COPY);
        let info = info.with_capabilities(capabilities).with_versions(versions);
        // Neither fails: the names come from the info and the carriers, and the ordinals differ.
        let described =
            info.clone().with_transports(transports).and_then(|i| i.with_devices(devices));
        described.unwrap_or(info)
    }
}
