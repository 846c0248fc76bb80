//! The Dynamo profile: the JSON of Dynamo's `nixl_connect`.

mod decode;
mod encode;
mod serialize;
pub(crate) mod text;

pub(crate) use decode::{decode, deserialize};
pub(crate) use encode::{encode, encoded_len};
pub(crate) use serialize::serialize;

/// What `nixl_metadata` starts with unless it is hexadecimal.
const BASE64_PREFIX: &str = "b64:";
