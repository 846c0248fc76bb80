//! The payload's layout, version 3: the structs as bincode writes them, apart from those that the program uses.
//!
//! bincode does not describe itself: any change of a field, its type or its order needs a new version. It writes fields
//! in the order in which they stand here, without padding and in little endian; before a text or a list its length in
//! 8 bytes; before an optional value a byte, 0 or 1; and before a variant its number in 4 bytes.

use std::num::NonZeroU64;

use bytes::Bytes;
use nixl_device::{Device, DeviceKind};
use serde::{Deserialize, Serialize, Serializer};

use super::sequence::sequence;
use super::share::Share;
use crate::share::check_count;
use crate::{
    AgentMetadata, Capabilities, Doorbell as Checked, HostIdentity, Limits, MetadataError,
    NotificationKey, OperationKind, PeerDevice, PeerInfo, RdmaMetadata, SerializedDescriptor,
};

#[derive(Serialize, Deserialize)]
pub(super) struct Document<'a> {
    operation_kind: u8,
    notification_key: &'a str,
    #[serde(deserialize_with = "sequence::<_, _, { usize::MAX }>")]
    descriptors: Vec<Descriptor>,
    #[serde(serialize_with = "blob")]
    agent_metadata: &'a [u8],
    #[serde(borrow)]
    peer: Option<Peer<'a>>,
    doorbell: Option<Doorbell>,
    #[serde(borrow, deserialize_with = "sequence::<_, _, { usize::MAX }>")]
    shares: Vec<Share<'a>>,
}

#[derive(Serialize, Deserialize)]
struct Descriptor {
    /// Dynamo's numbers: 1 host, 2 CUDA, 3 XPU.
    device_kind: u8,
    device_index: u32,
    ptr: u64,
    size: u64,
}

#[derive(Serialize, Deserialize)]
struct Peer<'a> {
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
struct Doorbell {
    pid: u32,
    fd: u32,
    name: [u8; 16],
    length: u64,
    slot: u32,
    token: u64,
}

#[derive(Serialize, Deserialize)]
struct CudaDevice {
    ordinal: u32,
    /// All zero if unknown.
    uuid: [u8; 16],
    gpu_direct: bool,
}

impl<'a> Document<'a> {
    pub(super) fn new(metadata: &'a RdmaMetadata) -> Result<Self, MetadataError> {
        Ok(Self {
            operation_kind: metadata.operation_kind().to_wire(),
            notification_key: metadata.notification_key().as_str(),
            descriptors: each(metadata.descriptors(), Descriptor::new)?,
            agent_metadata: metadata.agent_metadata().compressed(),
            peer: metadata.peer().map(Peer::new),
            doorbell: metadata.doorbell().map(Doorbell::new),
            shares: each(metadata.shares(), Share::new)?,
        })
    }

    /// Makes what the program uses, by the same constructors that check local values.
    pub(super) fn validate(self, limits: &Limits) -> Result<RdmaMetadata, MetadataError> {
        if self.descriptors.len() > limits.descriptors {
            return Err(MetadataError::TooManyDescriptors { limit: limits.descriptors });
        }
        check_count(self.shares.len(), self.descriptors.len())?;
        let descriptors = each(self.descriptors, |index, wire| wire.validate(index))?;
        let peer = self.peer.map(|peer| peer.validate(limits)).transpose()?;
        let shares = each(self.shares, |_, wire| wire.validate())?;
        let operation_kind = OperationKind::from_wire(self.operation_kind.into())?;
        let notification_key = NotificationKey::new(self.notification_key)?;
        // The blob is the big part: it is copied after all else was found good.
        let blob = Bytes::copy_from_slice(self.agent_metadata);
        let agent_metadata = AgentMetadata::from_compressed(blob, limits)?;
        let metadata =
            RdmaMetadata::new(operation_kind, descriptors, agent_metadata, notification_key)?
                .with_shares(shares)?;
        let metadata = match self.doorbell {
            Some(doorbell) => metadata.with_doorbell(doorbell.unchecked())?,
            None => metadata,
        };
        Ok(match peer {
            Some(peer) => metadata.with_peer(peer),
            None => metadata,
        })
    }
}

impl Descriptor {
    fn new(index: usize, descriptor: &SerializedDescriptor) -> Result<Self, MetadataError> {
        let device = descriptor.device();
        let device_kind = match device.kind() {
            DeviceKind::Host => 1,
            DeviceKind::Cuda => 2,
            DeviceKind::Xpu => 3,
            _ => {
                return Err(MetadataError::UnsupportedDevice {
                    index,
                    kind: 0,
                    ordinal: device.index(),
                });
            }
        };
        Ok(Self {
            device_kind,
            device_index: device.index(),
            ptr: descriptor.ptr(),
            size: descriptor.size(),
        })
    }

    fn validate(&self, index: usize) -> Result<SerializedDescriptor, MetadataError> {
        let device = match (self.device_kind, self.device_index) {
            (1, 0) => Device::HOST,
            (2, ordinal) => Device::cuda(ordinal),
            (3, ordinal) => Device::xpu(ordinal),
            (kind, ordinal) => {
                return Err(MetadataError::UnsupportedDevice { index, kind, ordinal });
            }
        };
        SerializedDescriptor::at(index, device, self.ptr, self.size)
    }
}

impl<'a> Peer<'a> {
    fn new(peer: &'a PeerInfo) -> Self {
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

    fn validate(self, limits: &Limits) -> Result<PeerInfo, MetadataError> {
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

impl Doorbell {
    fn new(doorbell: &Checked) -> Self {
        let &Checked { pid, fd, name, length, slot, token } = doorbell;
        Self { pid, fd, name, length, slot, token }
    }

    /// The offer checks it.
    fn unchecked(self) -> Checked {
        let Self { pid, fd, name, length, slot, token } = self;
        Checked { pid, fd, name, length, slot, token }
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

/// Converts a list into one that is allocated once. The old one is freed if it is given away.
fn each<T, U>(
    list: impl IntoIterator<Item = T, IntoIter: ExactSizeIterator>,
    convert: impl Fn(usize, T) -> Result<U, MetadataError>,
) -> Result<Vec<U>, MetadataError> {
    let list = list.into_iter();
    let mut converted = Vec::with_capacity(list.len());
    for (index, element) in list.enumerate() {
        converted.push(convert(index, element)?);
    }
    Ok(converted)
}

fn inode(known: Option<NonZeroU64>) -> u64 {
    known.map_or(0, NonZeroU64::get)
}

/// The same layout as serde's for a slice, in one piece instead of byte by byte.
pub(super) fn blob<S: Serializer>(bytes: &&[u8], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_bytes(bytes)
}
