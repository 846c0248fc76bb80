//! Entries in etcd.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use tokio::task::{JoinError, JoinSet};
use tokio::time::timeout;

use super::gateway::Gateway;
use crate::channel::backend::{Backend, Edition, Held, Stored};
use crate::channel::hex::{hex, unhex};
use crate::channel::inbox::Delivery;
use crate::channel::request::{HttpOptions, parse, place};
use crate::channel::shared::Shared;
use crate::channel::watch::States;
use crate::channel::wire::{OVERHEAD, decode, encode};
use crate::channel::{
    Channel, ChannelError, ChannelOptions, Entry, Incarnation, Listed, WorkerName,
};

/// How many values of a list are read at one time.
const READS: usize = 16;

/// How long a watch may say nothing before the key is read again.
const QUIET: Duration = Duration::from_secs(5);

/// Options of a client. `Debug` shows no password and no key.
#[derive(Clone)]
pub struct EtcdOptions {
    prefix: String,
    user: Option<(String, String)>,
    http: HttpOptions,
}

impl Default for EtcdOptions {
    fn default() -> Self {
        Self { prefix: "nixl/".to_owned(), user: None, http: HttpOptions::new() }
    }
}

impl EtcdOptions {
    /// Keys below `nixl/`, no user, no TLS.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets the beginning of all keys. It should end with `/`, which is added if it does not.
    #[must_use]
    pub fn prefix(mut self, prefix: impl Into<String>) -> Self {
        self.prefix = prefix.into();
        if !self.prefix.ends_with('/') {
            self.prefix.push('/');
        }
        self
    }

    /// Authenticates as this user.
    #[must_use]
    pub fn user(mut self, name: impl Into<String>, password: impl Into<String>) -> Self {
        self.user = Some((name.into(), password.into()));
        self
    }

    /// The TLS of `https` addresses. A client certificate is part of the configuration.
    #[cfg(feature = "channel-tls")]
    #[must_use]
    pub fn tls(mut self, config: rustls::ClientConfig) -> Self {
        self.http = self.http.tls(config);
        self
    }
}

impl fmt::Debug for EtcdOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EtcdOptions")
            .field("prefix", &self.prefix)
            .field("user", &self.user.as_ref().map(|(name, _)| name))
            .finish_non_exhaustive()
    }
}

/// A channel to the etcd server of this address, as `http://127.0.0.1:2379`.
///
/// # Errors
///
/// [`ChannelError::Refused`] for a text that is no address, [`ChannelError::Unsealed`] for another host without TLS, unless it is
/// allowed or the channel seals.
pub fn connect(
    address: &str,
    etcd: EtcdOptions,
    options: ChannelOptions,
) -> Result<Arc<dyn Channel>, ChannelError> {
    let url = parse(address)?;
    let (client, exposure) = etcd.http.client(&url)?;
    // Values are base64 in JSON.
    let limit = options.limit().saturating_mul(2).saturating_add(1 << 20);
    let base = url.as_str().trim_end_matches('/').to_owned();
    let gateway = Gateway::new(client, base, place(&url), limit, etcd.user);
    let max_value = options.limit().saturating_add(OVERHEAD);
    let backend = Etcd { gateway: Arc::new(gateway), prefix: etcd.prefix, max_value };
    Shared::channel(backend, options, exposure)
}

#[derive(Clone, Debug)]
pub(super) struct Etcd {
    pub(super) gateway: Arc<Gateway>,
    prefix: String,
    /// The longest value, in bytes.
    max_value: usize,
}

impl Etcd {
    pub(super) fn key(&self, kind: &str, name: &WorkerName) -> String {
        format!("{}{kind}/{}", self.prefix, hex(name.as_str()))
    }

    pub(super) fn reply_key(&self, id: &str) -> String {
        format!("{}reply/{id}", self.prefix)
    }

    pub(super) fn value<T: serde::de::DeserializeOwned>(
        &self,
        value: &[u8],
    ) -> Result<T, ChannelError> {
        if value.len() > self.max_value {
            return Err(ChannelError::TooLarge { len: value.len(), limit: self.max_value });
        }
        decode(value, "a value in etcd")
    }

    /// The entry of a worker, and the revision of its key and of the store.
    async fn read(&self, name: &WorkerName) -> Result<(Option<Stored>, i64, i64), ChannelError> {
        let range = self.gateway.get(&self.key("entry", name)).await?;
        let now = range.header.revision()?;
        let Some(found) = range.kvs.first() else { return Ok((None, 0, now)) };
        Ok((Some(self.value(&found.value()?)?), found.revision()?, now))
    }

    async fn put_leased(
        &self,
        entry: &Entry,
        edition: Edition,
        lease: i64,
    ) -> Result<(), ChannelError> {
        let value = encode(&Stored { entry: entry.clone(), edition })?;
        let key = self.key("entry", entry.name());
        loop {
            let (before, revision, _) = self.read(entry.name()).await?;
            if let Some(before) = before {
                before.gives_way(entry, edition)?;
            }
            // Another owner came between: compare anew, as long as the caller waits.
            if self.gateway.put_if(&key, revision, &value, lease).await? {
                return Ok(());
            }
        }
    }

    /// The line of a list. The incarnation is in the value; an entry may have ended since, and a damaged one hides no other.
    async fn listed(&self, name: WorkerName) -> Result<Option<Listed>, ChannelError> {
        match self.get(&name).await {
            Ok(entry) => Ok(entry.map(|entry| Listed::new(name, entry.incarnation()))),
            Err(ChannelError::Malformed { .. } | ChannelError::TooLarge { .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    async fn follow_key(&self, name: &WorkerName, states: &States) -> Result<(), ChannelError> {
        loop {
            let (entry, _, now) = self.read(name).await?;
            states.report(entry.map(|stored| stored.entry));
            let mut watch = self.gateway.watch(&self.key("entry", name), false, now).await?;
            // A quiet watch may be one of a server that is gone: the key is read again.
            while let Ok(watched) = timeout(QUIET, watch.next()).await {
                for event in watched?.events {
                    if event.is_delete() {
                        states.report(None);
                    } else {
                        let stored: Stored = self.value(&event.kv.value()?)?;
                        states.report(Some(stored.entry));
                    }
                }
            }
        }
    }
}

/// What a task found; nothing where the runtime ended it.
fn joined(
    read: Option<Result<Result<Option<Listed>, ChannelError>, JoinError>>,
) -> Result<Option<Listed>, ChannelError> {
    read.and_then(Result::ok).unwrap_or(Ok(None))
}

#[async_trait]
impl Backend for Etcd {
    fn place(&self) -> &str {
        &self.gateway.place
    }

    async fn put(
        &self,
        entry: &Entry,
        life: Duration,
        held: &mut Held,
    ) -> Result<Duration, ChannelError> {
        let (lease, left) = match held.lease {
            Some(lease) => match self.gateway.keep_alive(lease).await? {
                Some(left) => (lease, left),
                None => self.gateway.grant(life).await?,
            },
            None => self.gateway.grant(life).await?,
        };
        let is_same = held.lease == Some(lease) && held.written.as_ref() == Some(entry);
        held.lease = Some(lease);
        // A value is a revision, which etcd keeps, and an event for each watcher.
        let key = self.key("entry", entry.name());
        if !(is_same && self.gateway.lease_of(&key).await? == Some(lease)) {
            self.put_leased(entry, held.edition, lease).await?;
            held.written = Some(entry.clone());
        }
        Ok(left)
    }

    async fn remove(&self, listed: &Listed, held: &Held) -> Result<(), ChannelError> {
        match held.lease {
            // A later entry has another lease.
            Some(lease) => self.gateway.revoke(lease).await,
            None => {
                let (stored, ..) = self.read(listed.name()).await?;
                if stored.is_some_and(|stored| stored.is_of(listed, held.edition)) {
                    self.gateway.delete(&self.key("entry", listed.name())).await
                } else {
                    Ok(())
                }
            }
        }
    }

    async fn get(&self, name: &WorkerName) -> Result<Option<Entry>, ChannelError> {
        self.read(name).await.map(|(stored, ..)| stored.map(|stored| stored.entry))
    }

    async fn list(&self, prefix: &str) -> Result<Vec<Listed>, ChannelError> {
        let begin = format!("{}entry/", self.prefix);
        let keys = self.gateway.keys(&format!("{begin}{}", hex(prefix))).await?;
        let mut listed = Vec::with_capacity(keys.kvs.len());
        let mut reads = JoinSet::new();
        for key in keys.kvs {
            let name = key.key()?.strip_prefix(begin.as_bytes()).and_then(unhex);
            let Some(name) = name else { continue };
            if reads.len() >= READS {
                listed.extend(joined(reads.join_next().await)?);
            }
            let etcd = self.clone();
            reads.spawn(async move { etcd.listed(name).await });
        }
        while let Some(read) = reads.join_next().await {
            listed.extend(joined(Some(read))?);
        }
        Ok(listed)
    }

    async fn follow(&self, name: &WorkerName, states: &States) -> ChannelError {
        let ended = self.follow_key(name, states).await;
        ended.err().unwrap_or(ChannelError::Malformed { what: "an answer of etcd" })
    }

    async fn request(
        &self,
        from: &WorkerName,
        to: &WorkerName,
        payload: Bytes,
        within: Duration,
    ) -> Result<Bytes, ChannelError> {
        self.ask(from, to, payload, within).await
    }

    async fn serve(
        &self,
        name: &WorkerName,
        incarnation: Incarnation,
        delivery: &Delivery,
    ) -> ChannelError {
        let ended = self.take(name, incarnation, delivery).await;
        ended.err().unwrap_or(ChannelError::Malformed { what: "an answer of etcd" })
    }
}
