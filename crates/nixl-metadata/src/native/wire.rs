//! The payload's layout, version 1: the structs as bincode writes them, apart from those that the program uses.
//!
//! bincode does not describe itself: any change of a field, its type or its order needs a new version.

use std::fmt;
use std::marker::PhantomData;

use bytes::Bytes;
use nixl_device::{Device, DeviceKind};
use serde::de::{Deserializer, SeqAccess, Visitor};
use serde::{Deserialize, Serialize, Serializer};

use crate::{
    AgentMetadata, Capabilities, HostIdentity, Limits, MetadataError, NotificationKey,
    OperationKind, PeerInfo, RdmaMetadata, SerializedDescriptor,
};

#[derive(Serialize, Deserialize)]
pub(super) struct Document<'a> {
    operation_kind: u8,
    notification_key: &'a str,
    #[serde(deserialize_with = "sequence")]
    descriptors: Vec<Descriptor>,
    #[serde(serialize_with = "blob")]
    agent_metadata: &'a [u8],
    #[serde(borrow)]
    peer: Option<Peer<'a>>,
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
    boot_id: &'a str,
    pid: u32,
    capabilities: u32,
    #[serde(borrow, deserialize_with = "sequence")]
    transports: Vec<&'a str>,
}

impl<'a> Document<'a> {
    pub(super) fn new(metadata: &'a RdmaMetadata) -> Result<Self, MetadataError> {
        Ok(Self {
            operation_kind: metadata.operation_kind().to_wire(),
            notification_key: metadata.notification_key().as_str(),
            descriptors: metadata
                .descriptors()
                .iter()
                .enumerate()
                .map(|(index, descriptor)| Descriptor::new(index, descriptor))
                .collect::<Result<_, _>>()?,
            agent_metadata: metadata.agent_metadata().compressed(),
            peer: metadata.peer().map(Peer::new),
        })
    }

    /// Makes what the program uses, by the same constructors that check local values.
    pub(super) fn validate(self, limits: &Limits) -> Result<RdmaMetadata, MetadataError> {
        if self.descriptors.len() > limits.descriptors {
            return Err(MetadataError::TooManyDescriptors { limit: limits.descriptors });
        }
        let descriptors = self
            .descriptors
            .iter()
            .enumerate()
            .map(|(index, descriptor)| descriptor.validate(index))
            .collect::<Result<_, _>>()?;
        let peer = self.peer.map(|peer| peer.validate(limits)).transpose()?;
        let operation_kind = OperationKind::from_wire(self.operation_kind.into())?;
        let notification_key = NotificationKey::new(self.notification_key)?;
        // The blob is the big part: it is copied after all else was found good.
        let blob = Bytes::copy_from_slice(self.agent_metadata);
        let agent_metadata = AgentMetadata::from_compressed(blob, limits)?;
        let metadata =
            RdmaMetadata::new(operation_kind, descriptors, agent_metadata, notification_key)?;
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
            boot_id: host.boot_id(),
            pid: host.pid(),
            capabilities: peer.capabilities().to_bits(),
            transports: peer.transports().iter().map(String::as_str).collect(),
        }
    }

    fn validate(self, limits: &Limits) -> Result<PeerInfo, MetadataError> {
        let host = HostIdentity::new(self.hostname, self.boot_id, self.pid)?;
        let peer = PeerInfo::new(self.agent_name, self.incarnation, host)?
            .with_transports(self.transports)?
            .with_capabilities(Capabilities::from_bits(self.capabilities));
        peer.check_names(limits)?;
        Ok(peer)
    }
}

/// The same layout as serde's for a slice, in one piece instead of byte by byte.
fn blob<S: Serializer>(bytes: &&[u8], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_bytes(bytes)
}

/// Reads a list whose claimed length is not believed: memory grows with the elements that are really there.
fn sequence<'de, D, T>(deserializer: D) -> Result<Vec<T>, D::Error>
where
    D: Deserializer<'de>,
    T: Deserialize<'de>,
{
    struct Elements<T>(PhantomData<T>);

    impl<'de, T: Deserialize<'de>> Visitor<'de> for Elements<T> {
        type Value = Vec<T>;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("a list")
        }

        fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Vec<T>, A::Error> {
            const TRUSTED: usize = 64;
            let mut list = Vec::with_capacity(seq.size_hint().unwrap_or(0).min(TRUSTED));
            while let Some(element) = seq.next_element()? {
                list.push(element);
            }
            Ok(list)
        }
    }

    deserializer.deserialize_seq(Elements(PhantomData))
}
