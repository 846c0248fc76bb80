//! Encoding of a peer, without the versions of its messages.

use std::num::NonZeroU64;

use serde::{Deserialize, Serialize};

use super::section::{self, OPTIONAL, PEER, VERSIONS};
use super::sequence::sequence;
use super::versions;
use crate::{Capabilities, HostIdentity, Limits, MetadataError, PeerDevice, PeerInfo, codec};

#[derive(Serialize, Deserialize)]
pub(super) struct Peer<'a> {
    agent_name: &'a str,
    incarnation: u128,
    hostname: &'a str,
    /// Empty if unknown.
    boot_id: &'a str,
    /// 0 if unknown, as are the next two.
    pid: u32,
    pid_namespace: u64,
    ipc_namespace: u64,
    /// 1 staging, 2 IPC, 4 shared memory; others are ignored.
    capabilities: u32,
    #[serde(borrow, deserialize_with = "sequence::<_, _, { PeerInfo::MAX_TRANSPORTS }>")]
    transports: Vec<&'a str>,
    #[serde(deserialize_with = "sequence::<_, _, { PeerInfo::MAX_DEVICES }>")]
    devices: Vec<CudaDevice>,
}

#[derive(Serialize, Deserialize)]
struct CudaDevice {
    ordinal: u32,
    /// All zero if unknown.
    uuid: [u8; 16],
    gpu_direct: bool,
}

/// The size of the encoding.
pub(super) fn encoded_len(peer: &PeerInfo) -> u64 {
    const DEVICE: u64 = 4 + 16 + 1;
    let text = |text: &str| 8 + text.len() as u64;
    let host = peer.host();
    let names =
        text(peer.agent_name()) + text(host.hostname()) + text(host.boot_id().unwrap_or_default());
    let numbers = 16 + 4 + 8 + 8 + 4;
    let transports = 8 + peer.transports().iter().map(|name| text(name)).sum::<u64>();
    let devices = 8 + DEVICE * peer.devices().len() as u64;
    names + numbers + transports + devices
}

/// Appends the sections of a peer: itself, with these flags, and the versions of its messages.
pub(super) fn write(peer: &PeerInfo, flags: u16, out: &mut Vec<u8>) -> Result<(), MetadataError> {
    section::write(out, PEER, flags, |out| codec::encode_to(&Peer::new(peer), out))?;
    section::write(out, VERSIONS, OPTIONAL, |out| {
        versions::write(&peer.versions(), out);
        Ok(())
    })
}

/// The peer and the versions of its messages, by the contents of the two sections. Versions without a peer are ignored:
/// a later release may describe the peer in a section that this one skips.
pub(super) fn read(
    peer: Option<&[u8]>,
    versions: Option<&[u8]>,
    limits: &Limits,
) -> Result<Option<PeerInfo>, MetadataError> {
    let versions = versions.map(versions::read).transpose()?.unwrap_or_default();
    let peer = section::decode::<Peer<'_>>(PEER, peer)?;
    peer.map(|peer| Ok(peer.validate(limits)?.with_versions(versions))).transpose()
}

impl<'a> Peer<'a> {
    pub(super) fn new(peer: &'a PeerInfo) -> Self {
        let host = peer.host();
        Self {
            agent_name: peer.agent_name(),
            incarnation: peer.incarnation(),
            hostname: host.hostname(),
            boot_id: host.boot_id().unwrap_or_default(),
            pid: host.pid(),
            pid_namespace: inode(host.pid_namespace()),
            ipc_namespace: inode(host.ipc_namespace()),
            capabilities: peer.capabilities().to_bits(),
            transports: peer.transports().iter().map(String::as_str).collect(),
            devices: peer.devices().iter().map(CudaDevice::new).collect(),
        }
    }

    pub(super) fn validate(self, limits: &Limits) -> Result<PeerInfo, MetadataError> {
        let host = HostIdentity::new(self.hostname, self.boot_id, self.pid)?
            .with_pid_namespace(NonZeroU64::new(self.pid_namespace))
            .with_ipc_namespace(NonZeroU64::new(self.ipc_namespace));
        let peer = PeerInfo::new(self.agent_name, self.incarnation, host)?
            .with_transports(self.transports)?
            .with_devices(self.devices.iter().map(CudaDevice::validate))?
            .with_capabilities(Capabilities::from_bits(self.capabilities));
        peer.check_names(limits)?;
        Ok(peer)
    }
}

impl CudaDevice {
    fn new(device: &PeerDevice) -> Self {
        Self {
            ordinal: device.device().index(),
            uuid: device.uuid().unwrap_or_default(),
            gpu_direct: device.gpu_direct(),
        }
    }

    fn validate(&self) -> PeerDevice {
        PeerDevice::cuda(self.ordinal).with_uuid(self.uuid).with_gpu_direct(self.gpu_direct)
    }
}

fn inode(known: Option<NonZeroU64>) -> u64 {
    known.map_or(0, NonZeroU64::get)
}
