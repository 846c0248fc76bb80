//! The JSON of etcd's gateway, as far as a channel reads it. Bytes are base64, 64-bit numbers are text.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;

use crate::channel::ChannelError;

const ANSWER: ChannelError = ChannelError::Malformed { what: "an answer of etcd" };

/// A key with its value.
#[derive(Debug, Default, Deserialize)]
pub(super) struct KeyValue {
    #[serde(default)]
    key: String,
    #[serde(default)]
    value: String,
    #[serde(default)]
    mod_revision: String,
    #[serde(default)]
    lease: String,
}

impl KeyValue {
    pub(super) fn key(&self) -> Result<Vec<u8>, ChannelError> {
        STANDARD.decode(&self.key).map_err(|_| ANSWER)
    }

    pub(super) fn value(&self) -> Result<Vec<u8>, ChannelError> {
        STANDARD.decode(&self.value).map_err(|_| ANSWER)
    }

    pub(super) fn revision(&self) -> Result<i64, ChannelError> {
        self.mod_revision.parse().map_err(|_| ANSWER)
    }

    /// The lease by which it ends, if there is one.
    pub(super) fn lease(&self) -> Option<i64> {
        self.lease.parse().ok()
    }
}

#[derive(Debug, Default, Deserialize)]
pub(super) struct Header {
    #[serde(default)]
    revision: String,
}

impl Header {
    pub(super) fn revision(&self) -> Result<i64, ChannelError> {
        self.revision.parse().map_err(|_| ANSWER)
    }
}

/// The answer of `kv/range`.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Range {
    pub(super) header: Header,
    pub(super) kvs: Vec<KeyValue>,
}

/// The answer of `kv/txn`.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Txn {
    pub(super) succeeded: bool,
}

/// The answer of `lease/grant`.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Lease {
    #[serde(rename = "ID")]
    id: String,
    #[serde(rename = "TTL")]
    ttl: String,
}

impl Lease {
    pub(super) fn id(&self) -> Result<i64, ChannelError> {
        self.id.parse().map_err(|_| ANSWER)
    }

    /// Seconds; 0 if the lease has ended.
    pub(super) fn ttl(&self) -> u64 {
        self.ttl.parse().unwrap_or(0)
    }
}

/// A line of a stream.
#[derive(Debug, Deserialize)]
pub(super) struct Line<T> {
    pub(super) result: Option<T>,
}

/// A message of a watch.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Watched {
    pub(super) canceled: bool,
    pub(super) events: Vec<Event>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Event {
    #[serde(rename = "type")]
    kind: String,
    pub(super) kv: KeyValue,
}

impl Event {
    pub(super) fn is_delete(&self) -> bool {
        self.kind == "DELETE"
    }
}

/// The answer of `auth/authenticate`.
#[derive(Deserialize)]
pub(super) struct Authenticated {
    #[serde(default)]
    pub(super) token: String,
}

/// An error of the gateway.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Failed {
    pub(super) code: i64,
    message: String,
    error: String,
}

impl Failed {
    pub(super) fn text(&self) -> &str {
        if self.message.is_empty() { &self.error } else { &self.message }
    }
}

pub(super) fn read<'a, T: Deserialize<'a>>(bytes: &'a [u8]) -> Result<T, ChannelError> {
    serde_json::from_slice(bytes).map_err(|_| ANSWER)
}

pub(super) fn base64(bytes: impl AsRef<[u8]>) -> String {
    STANDARD.encode(bytes)
}

/// The end of the range of keys that begin so.
pub(super) fn after(prefix: &str) -> Vec<u8> {
    let mut end = prefix.as_bytes().to_vec();
    // Prefixes end with ASCII.
    if let Some(last) = end.last_mut() {
        *last += 1;
    }
    end
}
