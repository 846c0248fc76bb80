//! Requests and replies in etcd.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::time::{sleep, timeout};

use super::client::Etcd;
use super::messages::KeyValue;
use crate::channel::error::Fault;
use crate::channel::inbox::Delivery;
use crate::channel::wire::{Asked, encode};
use crate::channel::{ChannelError, Incarnation, WorkerName};

/// How long an inbox stands without its worker.
const INBOX: Duration = Duration::from_secs(5);

/// How long a watch of replies may say nothing before the key is read again.
const QUIET: Duration = Duration::from_secs(2);

impl Etcd {
    /// Puts a request beside the worker's inbox, and waits for its reply.
    pub(super) async fn ask(
        &self,
        from: &WorkerName,
        to: &WorkerName,
        payload: Bytes,
        within: Duration,
    ) -> Result<Bytes, ChannelError> {
        let id = uuid::Uuid::new_v4().simple().to_string();
        let within_ms = u64::try_from(within.as_millis()).unwrap_or(u64::MAX);
        let asked = encode(&Asked { from: from.clone(), payload, within_ms })?;
        let (lease, _) = self.gateway.grant(within.saturating_add(Duration::from_secs(1))).await?;
        let _lease = EndLease { etcd: self.clone(), lease };
        let key = format!("{}/{id}", self.key("request", to));
        let inbox = self.key("inbox", to);
        match self.gateway.put_if_exists(&inbox, &key, &asked, lease).await {
            Ok(true) => {}
            Ok(false) => return Err(ChannelError::NotFound { name: to.clone() }),
            Err(error) => return Err(error),
        }
        // From here on the worker may answer: what fails is not sent again.
        let reply = self.reply_key(&id);
        match self.wait(&reply).await {
            Ok(Ok(payload)) => Ok(payload),
            Ok(Err(fault)) => Err(fault.into_error(&self.gateway.place)),
            Err(ChannelError::Down { place, source }) => Err(ChannelError::Lost { place, source }),
            Err(error) => Err(error),
        }
    }

    async fn wait(&self, key: &str) -> Result<Result<Bytes, Fault>, ChannelError> {
        loop {
            let range = self.gateway.get(key).await?;
            if let Some(found) = range.kvs.first() {
                return self.value(&found.value()?);
            }
            let mut watch = self.gateway.watch(key, false, range.header.revision()?).await?;
            while let Ok(watched) = timeout(QUIET, watch.next()).await {
                if let Some(event) = watched?.events.iter().find(|event| !event.is_delete()) {
                    return self.value(&event.kv.value()?);
                }
            }
        }
    }

    /// Takes the requests to a worker.
    pub(super) async fn take(
        &self,
        name: &WorkerName,
        incarnation: Incarnation,
        delivery: &Delivery,
    ) -> Result<(), ChannelError> {
        let (lease, left) = self.gateway.grant(INBOX).await?;
        let _lease = EndLease { etcd: self.clone(), lease };
        let inbox = self.key("inbox", name);
        self.stand(&inbox, name, incarnation, lease).await?;
        delivery.ready();
        let requests = self.take_requests(name, &inbox, incarnation, delivery);
        let keeps = async {
            loop {
                sleep(left / 3).await;
                if self.gateway.keep_alive(lease).await?.is_none() {
                    let place = self.gateway.place.clone();
                    return Err(ChannelError::Lost { place, source: None });
                }
                self.is_current(&inbox, name, incarnation).await?;
            }
        };
        tokio::select! {
            ended = requests => ended,
            ended = keeps => ended,
        }
    }

    /// Puts the key of an inbox, unless a later start has it.
    async fn stand(
        &self,
        inbox: &str,
        name: &WorkerName,
        incarnation: Incarnation,
        lease: i64,
    ) -> Result<(), ChannelError> {
        loop {
            let revision = self.is_current(inbox, name, incarnation).await?;
            if self.gateway.put_if(inbox, revision, &encode(&incarnation)?, lease).await? {
                return Ok(());
            }
        }
    }

    async fn is_current(
        &self,
        inbox: &str,
        name: &WorkerName,
        incarnation: Incarnation,
    ) -> Result<i64, ChannelError> {
        let range = self.gateway.get(inbox).await?;
        let Some(found) = range.kvs.first() else { return Ok(0) };
        let current: Incarnation = self.value(&found.value()?)?;
        if current > incarnation {
            let (name, offered) = (name.clone(), incarnation);
            return Err(ChannelError::OlderIncarnation { name, offered, current });
        }
        found.revision()
    }

    async fn take_requests(
        &self,
        name: &WorkerName,
        inbox: &str,
        incarnation: Incarnation,
        delivery: &Delivery,
    ) -> Result<(), ChannelError> {
        let prefix = format!("{}/", self.key("request", name));
        let own = OwnInbox { key: inbox, value: encode(&incarnation)? };
        let mut seen = HashSet::new();
        loop {
            let range = self.gateway.keys(&prefix).await?;
            // Those that are gone need not be remembered.
            let keys: HashSet<_> = range.kvs.iter().filter_map(|kv| kv.key().ok()).collect();
            seen.retain(|key| keys.contains(key));
            for key in keys.into_iter().filter_map(|key| String::from_utf8(key).ok()) {
                if let Some(request) = self.gateway.get(&key).await?.kvs.first() {
                    self.deliver(request, &prefix, &own, delivery, &mut seen).await?;
                }
            }
            let mut watch = self.gateway.watch(&prefix, true, range.header.revision()?).await?;
            while let Ok(watched) = timeout(QUIET, watch.next()).await {
                let events = watched?.events;
                for event in events.iter().filter(|event| !event.is_delete()) {
                    self.deliver(&event.kv, &prefix, &own, delivery, &mut seen).await?;
                }
                if seen.len() > 4096 {
                    break;
                }
            }
        }
    }

    async fn deliver(
        &self,
        request: &KeyValue,
        prefix: &str,
        own: &OwnInbox<'_>,
        delivery: &Delivery,
        seen: &mut HashSet<Vec<u8>>,
    ) -> Result<(), ChannelError> {
        let key = request.key()?;
        if !seen.insert(key.clone()) {
            return Ok(());
        }
        let Ok(key) = String::from_utf8(key) else { return Ok(()) };
        let Some(id) = key.strip_prefix(prefix).map(str::to_owned) else { return Ok(()) };
        // A second delivery would be a second execution: of two starts of the worker, the later takes it.
        if !self.gateway.take_if(own.key, &own.value, &key).await? {
            return Ok(());
        }
        // What does not decode names no sender, and is not answered.
        let Ok(asked) = self.value::<Asked>(&request.value()?) else { return Ok(()) };
        let within = Duration::from_millis(asked.within_ms);
        let reply = delivery.answer(asked.from, asked.payload, within);
        let etcd = self.clone();
        tokio::spawn(async move {
            let Some(reply) = reply.await else { return };
            let puts = async {
                let (lease, _) = etcd.gateway.grant(INBOX).await?;
                etcd.gateway.put_if(&etcd.reply_key(&id), 0, &encode(&reply)?, lease).await
            };
            // A sender whose reply is lost waits until its deadline.
            let _lost = timeout(INBOX, puts).await;
        });
        Ok(())
    }
}

/// The key of an inbox, and its value as long as no other start has it.
struct OwnInbox<'a> {
    key: &'a str,
    value: Vec<u8>,
}

/// A lease that is revoked, with its keys, when this is dropped.
struct EndLease {
    etcd: Etcd,
    lease: i64,
}

impl Drop for EndLease {
    fn drop(&mut self) {
        let (gateway, lease) = (Arc::clone(&self.etcd.gateway), self.lease);
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            runtime.spawn(async move {
                let _ends_by_itself = timeout(INBOX, gateway.revoke(lease)).await;
            });
        }
    }
}
