//! The Dynamo profile: the JSON of Dynamo's `nixl_connect`.

mod decode;
mod encode;

pub(crate) use decode::decode;
pub(crate) use encode::{encode, encoded_len};

/// What `nixl_metadata` starts with unless it is hexadecimal.
const BASE64_PREFIX: &str = "b64:";
