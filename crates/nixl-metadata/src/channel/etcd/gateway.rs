//! Calls of etcd's gateway.

use std::fmt;
use std::time::Duration;

use reqwest::{Client, Response};
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::sync::Mutex;
use tokio::time::timeout;

use super::messages::{
    Authenticated, Failed, KeyValue, Lease, Line, Range, Txn, Watched, after, base64, read,
};
use crate::channel::request::{accepted, body};
use crate::channel::{ChannelError, backend::MAX_LISTED};

/// Codes of gRPC.
const UNAUTHENTICATED: i64 = 16;
const PERMISSION_DENIED: i64 = 7;
const INVALID_ARGUMENT: i64 = 3;
const NOT_FOUND: i64 = 5;
const RESOURCE_EXHAUSTED: i64 = 8;
const UNAVAILABLE: i64 = 14;

/// Cancelled, deadline exceeded, aborted, internal: of a server that ends, or has no leader.
const IN_THE_MIDDLE: [i64; 4] = [1, 4, 10, 13];

/// How long a call may take before it is repeated: a server that was killed may have taken a connection and not answer on it.
const CALL: Duration = Duration::from_secs(3);

/// A server's gateway.
pub(super) struct Gateway {
    client: Client,
    base: String,
    pub(super) place: String,
    /// The longest answer, in bytes.
    limit: usize,
    user: Option<(String, String)>,
    token: Mutex<Option<String>>,
}

impl fmt::Debug for Gateway {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Gateway").field("place", &self.place).finish_non_exhaustive()
    }
}

impl Gateway {
    pub(super) fn new(
        client: Client,
        base: String,
        place: String,
        limit: usize,
        user: Option<(String, String)>,
    ) -> Self {
        Self { client, base, place, limit, user, token: Mutex::new(None) }
    }

    /// A token for the user, which etcd ends after a while.
    async fn token(&self) -> Result<Option<String>, ChannelError> {
        let Some((name, password)) = &self.user else { return Ok(None) };
        let mut token = self.token.lock().await;
        if token.is_none() {
            let user = json!({"name": name, "password": password});
            let response = self.send("auth/authenticate", &user, None).await?;
            let answer = body(response, &self.place, self.limit).await?;
            *token = Some(read::<Authenticated>(&answer)?.token);
        }
        Ok(token.clone())
    }

    async fn send(
        &self,
        call: &str,
        argument: &Value,
        token: Option<&str>,
    ) -> Result<Response, ChannelError> {
        let url = format!("{}/v3/{call}", self.base);
        let mut request = self.client.post(url).json(argument);
        if let Some(token) = token {
            request = request.header(reqwest::header::AUTHORIZATION, token);
        }
        let sent = request.send().await;
        let Ok(response) = sent else { return accepted(sent, &self.place, self.limit) };
        if response.status().is_success() {
            return Ok(response);
        }
        let status = response.status();
        if matches!(status.as_u16(), 502..=504) && !is_json(&response) {
            // Of proxies before a server that is down.
            return accepted(Ok(response), &self.place, self.limit);
        }
        let told = body(response, &self.place, 1 << 16).await?;
        let failed: Failed = read(&told).unwrap_or_default();
        Err(match failed.code {
            UNAUTHENTICATED | PERMISSION_DENIED => {
                ChannelError::Unauthorized { place: self.place.clone() }
            }
            // A wrong password, no token where users have to have one, or a token from before a change of users.
            INVALID_ARGUMENT
                if call == "auth/authenticate"
                    || failed.text().contains("user name is empty")
                    || failed.text().contains("revision of auth store is old") =>
            {
                ChannelError::Unauthorized { place: self.place.clone() }
            }
            INVALID_ARGUMENT if failed.text().contains("too large") => {
                ChannelError::TooLarge { len: argument.to_string().len(), limit: 3 << 19 }
            }
            RESOURCE_EXHAUSTED => ChannelError::Full { what: self.place.clone() },
            // A server that starts, or has no leader.
            UNAVAILABLE => ChannelError::Down { place: self.place.clone(), source: None },
            code if IN_THE_MIDDLE.contains(&code) => {
                ChannelError::Lost { place: self.place.clone(), source: None }
            }
            NOT_FOUND => ChannelError::Lost { place: self.place.clone(), source: None },
            _ => {
                let text = failed.text();
                if text.contains("database space exceeded") {
                    ChannelError::Full { what: self.place.clone() }
                } else {
                    ChannelError::refused(&format!("etcd answered {status}: {text}"))
                }
            }
        })
    }

    /// Sends a call, and repeats it with a new token if the old token has expired.
    async fn open(&self, call: &str, argument: &Value) -> Result<Response, ChannelError> {
        let token = self.token().await?;
        let sent = self.send(call, argument, token.as_deref()).await;
        match sent {
            Err(ChannelError::Unauthorized { .. }) if token.is_some() => {
                *self.token.lock().await = None;
                let token = self.token().await?;
                self.send(call, argument, token.as_deref()).await
            }
            sent => sent,
        }
    }

    async fn call<T: for<'a> Deserialize<'a>>(
        &self,
        call: &str,
        argument: Value,
    ) -> Result<T, ChannelError> {
        let answer = self.within(async {
            body(self.open(call, &argument).await?, &self.place, self.limit).await
        });
        read(&answer.await?)
    }

    /// Bounds the time of a call.
    async fn within<T>(
        &self,
        call: impl Future<Output = Result<T, ChannelError>>,
    ) -> Result<T, ChannelError> {
        let lost = || ChannelError::Lost { place: self.place.clone(), source: None };
        timeout(CALL, call).await.unwrap_or_else(|_| Err(lost()))
    }

    pub(super) async fn get(&self, key: &str) -> Result<Range, ChannelError> {
        self.call("kv/range", json!({"key": base64(key)})).await
    }

    /// The lease of a key, without its value.
    pub(super) async fn lease_of(&self, key: &str) -> Result<Option<i64>, ChannelError> {
        let range = json!({"key": base64(key), "keys_only": true});
        let range: Range = self.call("kv/range", range).await?;
        Ok(range.kvs.first().and_then(KeyValue::lease))
    }

    /// The keys that begin so, without their values.
    pub(super) async fn keys(&self, prefix: &str) -> Result<Range, ChannelError> {
        let range = json!({
            "key": base64(prefix), "range_end": base64(after(prefix)),
            "limit": MAX_LISTED.to_string(), "keys_only": true,
        });
        self.call("kv/range", range).await
    }

    /// Puts a key if it has this revision; 0 is none.
    pub(super) async fn put_if(
        &self,
        key: &str,
        revision: i64,
        value: &[u8],
        lease: i64,
    ) -> Result<bool, ChannelError> {
        let compare = json!({
            "key": base64(key), "target": "MOD", "result": "EQUAL", "mod_revision": revision.to_string(),
        });
        self.put_where(compare, key, value, lease).await
    }

    /// Puts a key if another exists.
    pub(super) async fn put_if_exists(
        &self,
        other: &str,
        key: &str,
        value: &[u8],
        lease: i64,
    ) -> Result<bool, ChannelError> {
        let compare = json!({
            "key": base64(other), "target": "VERSION", "result": "GREATER", "version": "0",
        });
        self.put_where(compare, key, value, lease).await
    }

    async fn put_where(
        &self,
        compare: Value,
        key: &str,
        value: &[u8],
        lease: i64,
    ) -> Result<bool, ChannelError> {
        let put = json!({"key": base64(key), "value": base64(value), "lease": lease.to_string()});
        let txn = json!({"compare": [compare], "success": [{"request_put": put}]});
        Ok(self.call::<Txn>("kv/txn", txn).await?.succeeded)
    }

    /// Deletes a key if it is still there and another has this value.
    pub(super) async fn take_if(
        &self,
        other: &str,
        value: &[u8],
        key: &str,
    ) -> Result<bool, ChannelError> {
        let has_value = json!({
            "key": base64(other), "target": "VALUE", "result": "EQUAL", "value": base64(value),
        });
        let is_there = json!({
            "key": base64(key), "target": "VERSION", "result": "GREATER", "version": "0",
        });
        let delete = json!({"request_delete_range": {"key": base64(key)}});
        let txn = json!({"compare": [has_value, is_there], "success": [delete]});
        Ok(self.call::<Txn>("kv/txn", txn).await?.succeeded)
    }

    pub(super) async fn delete(&self, key: &str) -> Result<(), ChannelError> {
        self.call::<Value>("kv/deleterange", json!({"key": base64(key)})).await.map(drop)
    }

    /// A new lease, and how long it has.
    pub(super) async fn grant(&self, life: Duration) -> Result<(i64, Duration), ChannelError> {
        let seconds = life.as_secs_f64().ceil().max(1.0);
        let lease: Lease =
            self.call("lease/grant", json!({"TTL": format!("{seconds:.0}")})).await?;
        Ok((lease.id()?, Duration::from_secs(lease.ttl().max(1))))
    }

    /// Renews a lease; `None` if it has ended.
    pub(super) async fn keep_alive(&self, lease: i64) -> Result<Option<Duration>, ChannelError> {
        let line: Line<Lease> =
            self.call("lease/keepalive", json!({"ID": lease.to_string()})).await?;
        let ttl = line.result.map_or(0, |lease| lease.ttl());
        Ok((ttl > 0).then(|| Duration::from_secs(ttl)))
    }

    /// Ends a lease, and what has it.
    pub(super) async fn revoke(&self, lease: i64) -> Result<(), ChannelError> {
        self.call::<Value>("lease/revoke", json!({"ID": lease.to_string()})).await.map(drop)
    }

    /// The changes of a key, or of all that begin so, after a revision.
    pub(super) async fn watch(
        &self,
        key: &str,
        is_prefix: bool,
        after_revision: i64,
    ) -> Result<Watch, ChannelError> {
        let start = (after_revision + 1).to_string();
        let mut create = json!({"key": base64(key), "start_revision": start, "fragment": true});
        if is_prefix {
            create["range_end"] = base64(after(key)).into();
        }
        let create = json!({"create_request": create});
        let response = self.within(self.open("watch", &create)).await?;
        // A fragment is as long as a request of etcd may be, in base64.
        let (place, limit) = (self.place.clone(), self.limit.max(4 << 20));
        Ok(Watch { response, buffer: Vec::new(), looked_at: 0, place, limit })
    }
}

/// Whether the gateway itself answered.
fn is_json(response: &Response) -> bool {
    let kind = response.headers().get(reqwest::header::CONTENT_TYPE);
    kind.is_some_and(|kind| kind.as_bytes().starts_with(b"application/json"))
}

/// The stream of a watch: a line of JSON for each message.
pub(super) struct Watch {
    response: Response,
    buffer: Vec<u8>,
    /// Bytes of the buffer in which no line ends.
    looked_at: usize,
    place: String,
    limit: usize,
}

impl Watch {
    /// The next message.
    pub(super) async fn next(&mut self) -> Result<Watched, ChannelError> {
        let lost = |error: reqwest::Error| ChannelError::lost(&self.place, error.without_url());
        loop {
            let rest = &self.buffer[self.looked_at..];
            if let Some(end) = rest.iter().position(|byte| *byte == b'\n') {
                let line: Vec<_> = self.buffer.drain(..=self.looked_at + end).collect();
                self.looked_at = 0;
                let watched = read::<Line<Watched>>(&line)?.result;
                return match watched {
                    Some(watched) if !watched.canceled => Ok(watched),
                    // Compacted, or ended by the server.
                    _ => Err(ChannelError::Lost { place: self.place.clone(), source: None }),
                };
            }
            self.looked_at = self.buffer.len();
            if self.buffer.len() > self.limit {
                return Err(ChannelError::TooLarge { len: self.buffer.len(), limit: self.limit });
            }
            match self.response.chunk().await.map_err(lost)? {
                Some(piece) => self.buffer.extend_from_slice(&piece),
                None => return Err(ChannelError::Lost { place: self.place.clone(), source: None }),
            }
        }
    }
}
