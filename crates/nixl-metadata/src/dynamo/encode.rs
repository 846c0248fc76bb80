//! Prints the JSON in the order and form that Dynamo does.

use std::fmt;

use base64::display::Base64Display;
use base64::engine::general_purpose::STANDARD;

use super::BASE64_PREFIX;
use crate::RdmaMetadata;

pub(crate) fn encode(metadata: &RdmaMetadata) -> String {
    Json(metadata).to_string()
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
