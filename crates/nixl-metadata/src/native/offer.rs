//! The core of the payload: what every offer has.

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::device;
use super::sequence::{blob, each, sequence};
use crate::{
    AgentMetadata, Limits, MetadataError, NotificationKey, OperationKind, RdmaMetadata,
    SerializedDescriptor,
};

#[derive(Serialize, Deserialize)]
pub(super) struct Offer<'a> {
    operation_kind: u8,
    notification_key: &'a str,
    #[serde(deserialize_with = "sequence::<_, _, { usize::MAX }>")]
    descriptors: Vec<Descriptor>,
    #[serde(serialize_with = "blob")]
    agent_metadata: &'a [u8],
}

#[derive(Serialize, Deserialize)]
struct Descriptor {
    /// Dynamo's numbers: 1 host, 2 CUDA, 3 XPU.
    device_kind: u8,
    device_index: u32,
    ptr: u64,
    size: u64,
}

/// The size of the encoding.
pub(super) fn encoded_len(metadata: &RdmaMetadata) -> u64 {
    const DESCRIPTOR: u64 = 1 + 4 + 8 + 8;
    let key = metadata.notification_key().as_bytes().len() as u64;
    let blob = metadata.agent_metadata().compressed().len() as u64;
    1 + (8 + key) + (8 + DESCRIPTOR * metadata.descriptors().len() as u64) + (8 + blob)
}

impl<'a> Offer<'a> {
    pub(super) fn new(metadata: &'a RdmaMetadata) -> Result<Self, MetadataError> {
        Ok(Self {
            operation_kind: metadata.operation_kind().to_wire(),
            notification_key: metadata.notification_key().as_str(),
            descriptors: each(metadata.descriptors(), Descriptor::new)?,
            agent_metadata: metadata.agent_metadata().compressed(),
        })
    }

    /// How many descriptors it has, if no more than allowed.
    pub(super) fn count(&self, limits: &Limits) -> Result<usize, MetadataError> {
        let count = self.descriptors.len();
        limits.check_descriptors(count)?;
        Ok(count)
    }

    /// Makes what the program uses, by the same constructors that check local values. Comes last: the copy of the
    /// agent's metadata is the big part.
    pub(super) fn validate(self, limits: &Limits) -> Result<RdmaMetadata, MetadataError> {
        self.count(limits)?;
        let descriptors = each(self.descriptors, |index, wire| wire.validate(index))?;
        let operation_kind = OperationKind::from_wire(self.operation_kind.into())?;
        let notification_key = NotificationKey::new(self.notification_key)?;
        let blob = Bytes::copy_from_slice(self.agent_metadata);
        let agent_metadata = AgentMetadata::from_compressed(blob, limits)?;
        RdmaMetadata::new(operation_kind, descriptors, agent_metadata, notification_key)
    }
}

impl Descriptor {
    fn new(index: usize, descriptor: &SerializedDescriptor) -> Result<Self, MetadataError> {
        let device = descriptor.device();
        let Some((device_kind, device_index)) = device::to_wire(device) else {
            let ordinal = device.index();
            return Err(MetadataError::UnsupportedDevice { index, kind: 0, ordinal });
        };
        Ok(Self { device_kind, device_index, ptr: descriptor.ptr(), size: descriptor.size() })
    }

    fn validate(&self, index: usize) -> Result<SerializedDescriptor, MetadataError> {
        let (kind, ordinal) = (self.device_kind, self.device_index);
        let device = device::from_wire(kind, ordinal).ok_or(MetadataError::UnsupportedDevice {
            index,
            kind,
            ordinal,
        })?;
        SerializedDescriptor::at(index, device, self.ptr, self.size)
    }
}
