//! Prints the JSON in the order and form that Dynamo does.

use std::fmt;

use base64::display::Base64Display;
use base64::engine::general_purpose::STANDARD;

use nixl_device::Device;

use super::BASE64_PREFIX;
use crate::RdmaMetadata;

pub(crate) fn encode(metadata: &RdmaMetadata) -> String {
    Json(metadata).to_string()
}

/// The size of the text, computed without printing it.
pub(crate) fn encoded_len(metadata: &RdmaMetadata) -> u64 {
    const FIXED: &str =
        r#"{"descriptors":[],"nixl_metadata":"","notification_key":"","operation_kind":1}"#;
    const DESCRIPTOR: &str = r#"{"device":"","ptr":,"size":},"#;
    let descriptors = metadata.descriptors().iter().map(|descriptor| {
        DESCRIPTOR.len() as u64
            + device_len(descriptor.device())
            + digits(descriptor.ptr())
            + digits(descriptor.size())
    });
    let blob = metadata.agent_metadata().compressed().len() as u64;
    let key = metadata.notification_key().as_bytes();
    // A key has no control character, so these are all that JSON escapes.
    let escaped = key.iter().filter(|&&byte| matches!(byte, b'"' | b'\\')).count() as u64;
    FIXED.len() as u64
        + (descriptors.sum::<u64>() - 1) // no comma after the last
        + (BASE64_PREFIX.len() as u64 + blob.div_ceil(3) * 4)
        + (key.len() as u64 + escaped)
}

fn device_len(device: Device) -> u64 {
    let kind = device.kind().as_str().len() as u64;
    if device.is_host() { kind } else { kind + 1 + digits(device.index().into()) }
}

fn digits(number: u64) -> u64 {
    u64::from(number.checked_ilog10().unwrap_or(0)) + 1
}

struct Json<'a>(&'a RdmaMetadata);

impl fmt::Display for Json<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self(metadata) = self;
        f.write_str(r#"{"descriptors":["#)?;
        for (index, descriptor) in metadata.descriptors().iter().enumerate() {
            write!(
                f,
                r#"{}{{"device":"{}","ptr":{},"size":{}}}"#,
                if index == 0 { "" } else { "," },
                descriptor.device(),
                descriptor.ptr(),
                descriptor.size(),
            )?;
        }
        write!(
            f,
            r#"],"nixl_metadata":"{BASE64_PREFIX}{}","notification_key":{},"operation_kind":{}}}"#,
            Base64Display::new(metadata.agent_metadata().compressed(), &STANDARD),
            serde_json::Value::from(metadata.notification_key().as_str()), // quotes and escapes
            metadata.operation_kind().to_wire(),
        )
    }
}
