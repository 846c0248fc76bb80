//! The same object inside a larger message, in any human-readable format of serde.

use base64::display::Base64Display;
use base64::engine::general_purpose::STANDARD;
use nixl_device::Device;
use serde::{Serialize, Serializer};

use super::BASE64_PREFIX;
use crate::{RdmaMetadata, SerializedDescriptor};

#[derive(Serialize)]
struct Document<'a> {
    #[serde(serialize_with = "descriptors")]
    descriptors: &'a [SerializedDescriptor],
    #[serde(serialize_with = "prefixed_base64")]
    nixl_metadata: &'a [u8],
    notification_key: &'a str,
    operation_kind: u8,
}

#[derive(Serialize)]
struct Descriptor {
    device: Device,
    ptr: u64,
    size: u64,
}

pub(crate) fn serialize<S: Serializer>(
    metadata: &RdmaMetadata,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    let document = Document {
        descriptors: metadata.descriptors(),
        nixl_metadata: metadata.agent_metadata().compressed(),
        notification_key: metadata.notification_key().as_str(),
        operation_kind: metadata.operation_kind().to_wire(),
    };
    document.serialize(serializer)
}

fn descriptors<S: Serializer>(
    descriptors: &&[SerializedDescriptor],
    serializer: S,
) -> Result<S::Ok, S::Error> {
    serializer.collect_seq(descriptors.iter().map(|descriptor| Descriptor {
        device: descriptor.device(),
        ptr: descriptor.ptr(),
        size: descriptor.size(),
    }))
}

fn prefixed_base64<S: Serializer>(bytes: &&[u8], serializer: S) -> Result<S::Ok, S::Error> {
    let base64 = Base64Display::new(bytes, &STANDARD);
    serializer.collect_str(&format_args!("{BASE64_PREFIX}{base64}"))
}
