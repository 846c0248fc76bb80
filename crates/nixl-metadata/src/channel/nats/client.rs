//! The client of a NATS server.

use std::fmt;
use std::io;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_nats::connection::State;
use async_nats::{
    Client, ClientError, ConnectErrorKind, Event, RequestErrorKind, ServerAddr, jetstream,
};
use async_trait::async_trait;
use bytes::Bytes;
use futures_util::StreamExt as _;
use nixl_device::locks::lock;
use tokio::time::timeout;

use super::NatsOptions;
use super::bucket::Bucket;
use crate::channel::backend::{Backend, Held};
use crate::channel::error::Fault;
use crate::channel::hex::hex;
use crate::channel::inbox::Delivery;
use crate::channel::shared::Shared;
use crate::channel::watch::States;
use crate::channel::wire::{Asked, decode, encode};
use crate::channel::{
    Channel, ChannelError, ChannelOptions, Entry, Exposure, Incarnation, Listed, WorkerName,
};

/// How long a call on JetStream may take before it is repeated.
const CALL: Duration = Duration::from_secs(2);

/// A channel to the NATS server of this address, as `nats://127.0.0.1:4222` or `tls://nats.example.org:4222`. It connects in the
/// background, and anew after the server was down.
///
/// # Errors
///
/// [`ChannelError::Refused`] for a text that is no address or a prefix that is none, [`ChannelError::Unsealed`] for another host
/// without TLS, unless it is allowed or the channel seals.
pub async fn connect(
    address: &str,
    nats: NatsOptions,
    options: ChannelOptions,
) -> Result<Arc<dyn Channel>, ChannelError> {
    let parsed = address.parse::<ServerAddr>().ok();
    let parsed = parsed.filter(|address| !address.has_user_pass() && !address.is_websocket());
    let parsed = parsed.ok_or_else(|| {
        ChannelError::refused("the address of NATS is nats:// or tls://, a host, and no password")
    })?;
    let is_tls = nats.is_tls() || parsed.tls_required();
    let exposure = Exposure::of(parsed.host(), is_tls);
    options.allows(&exposure)?;
    let place = format!("nats://{}:{}", parsed.host(), parsed.port());
    // Servers that the first names are of the same cluster, but where they are it alone says.
    let (library, prefix) = nats.build()?;
    let failed = Arc::new(Mutex::new(None));
    let last = Arc::clone(&failed);
    let library = library.ignore_discovered_servers().event_callback(move |event| {
        let mut last = lock(&last);
        match event {
            Event::Connected => *last = None,
            Event::ClientError(ClientError::Other(kind)) => *last = Some(kind),
            _ => {}
        }
        std::future::ready(())
    });
    let client = library.connect(parsed).await;
    let client = client.map_err(|error| ChannelError::down(&place, error))?;
    let mut context = jetstream::new(client.clone());
    context.set_timeout(CALL);
    let bucket =
        Bucket::new(context, prefix.clone(), place.clone(), options.life(), options.limit());
    Shared::channel(Nats { client, bucket, prefix, place, failed }, options, exposure)
}

struct Nats {
    client: Client,
    bucket: Bucket,
    prefix: String,
    place: String,
    /// The kind of the failure of the last attempt to connect, which the library gives as text.
    failed: Arc<Mutex<Option<String>>>,
}

impl fmt::Debug for Nats {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Nats").field("place", &self.place).finish_non_exhaustive()
    }
}

impl Nats {
    /// Refuses calls while there is no connection: the library would keep them.
    fn is_up(&self) -> Result<(), ChannelError> {
        if self.client.connection_state() == State::Connected {
            return Ok(());
        }
        let failed = lock(&self.failed).clone();
        Err(match failed {
            Some(kind) if kind == ConnectErrorKind::AuthorizationViolation.to_string() => {
                ChannelError::Unauthorized { place: self.place.clone() }
            }
            Some(kind) => ChannelError::down(&self.place, io::Error::other(kind)),
            None => ChannelError::Down { place: self.place.clone(), source: None },
        })
    }

    /// Refuses what the server would close the connection for.
    fn fits(&self, len: usize) -> Result<(), ChannelError> {
        // 0 until the server has introduced itself.
        let limit = self.client.server_info().max_payload;
        // Headers count.
        if limit > 0 && len.saturating_add(256) > limit {
            return Err(ChannelError::TooLarge { len, limit });
        }
        Ok(())
    }

    fn subject(&self, name: &WorkerName) -> String {
        format!("{}.request.{}", self.prefix, hex(name.as_str()))
    }

    async fn take(&self, name: &WorkerName, delivery: &Delivery) -> Result<(), ChannelError> {
        let lost = |error| ChannelError::lost(&self.place, error);
        self.is_up()?;
        let mut requests = self.client.subscribe(self.subject(name)).await.map_err(lost)?;
        // The server takes the commands of a connection in turn, so it has the subscription before it sends this back.
        let echo = async {
            let inbox = self.client.new_inbox();
            let mut echoes = self.client.subscribe(inbox.clone()).await.ok()?;
            self.client.publish(inbox, Bytes::new()).await.ok()?;
            self.client.flush().await.ok()?;
            echoes.next().await
        };
        if !matches!(timeout(CALL, echo).await, Ok(Some(_))) {
            return Err(ChannelError::Lost { place: self.place.clone(), source: None });
        }
        delivery.ready();
        while let Some(message) = requests.next().await {
            let Some(reply_to) = message.reply else { continue };
            let asked = decode::<Asked>(&message.payload, "a request");
            let reply = asked.map(|asked| {
                let within = Duration::from_millis(asked.within_ms);
                delivery.answer(asked.from, asked.payload, within)
            });
            let client = self.client.clone();
            tokio::spawn(async move {
                let reply = match reply {
                    Ok(reply) => match reply.await {
                        Some(reply) => reply,
                        None => return,
                    },
                    Err(error) => Err(Fault::of(&error)),
                };
                let reply =
                    encode(&reply).ok().filter(|r| r.len() <= client.server_info().max_payload);
                let too_large = || {
                    let reason = "the reply is longer than NATS's limit".to_owned();
                    encode(&Err::<Bytes, _>(Fault::Refused { reason })).ok()
                };
                if let Some(reply) = reply.or_else(too_large) {
                    // A sender whose reply is lost waits until its deadline.
                    let _lost = client.publish(reply_to, reply.into()).await;
                }
            });
        }
        Err(ChannelError::Lost { place: self.place.clone(), source: None })
    }
}

#[async_trait]
impl Backend for Nats {
    fn place(&self) -> &str {
        &self.place
    }

    async fn put(
        &self,
        entry: &Entry,
        _life: Duration,
        held: &mut Held,
    ) -> Result<Duration, ChannelError> {
        self.is_up()?;
        self.fits(entry.payload().len())?;
        self.bucket.put(entry, held.edition).await
    }

    async fn remove(&self, listed: &Listed, held: &Held) -> Result<(), ChannelError> {
        self.is_up()?;
        self.bucket.remove(listed, held.edition).await
    }

    async fn get(&self, name: &WorkerName) -> Result<Option<Entry>, ChannelError> {
        self.is_up()?;
        self.bucket.get(name).await
    }

    async fn list(&self, prefix: &str) -> Result<Vec<Listed>, ChannelError> {
        self.is_up()?;
        self.bucket.list(prefix).await
    }

    async fn follow(&self, name: &WorkerName, states: &States) -> ChannelError {
        if let Err(error) = self.is_up() {
            return error;
        }
        let ended = self.bucket.follow(name, |entry| states.report(entry)).await;
        ended.err().unwrap_or(ChannelError::Lost { place: self.place.clone(), source: None })
    }

    async fn request(
        &self,
        from: &WorkerName,
        to: &WorkerName,
        payload: Bytes,
        within: Duration,
    ) -> Result<Bytes, ChannelError> {
        self.is_up()?;
        self.fits(payload.len())?;
        let within_ms = u64::try_from(within.as_millis()).unwrap_or(u64::MAX);
        let asked = encode(&Asked { from: from.clone(), payload, within_ms })?;
        let reply = self.client.request(self.subject(to), asked.into()).await;
        let reply = reply.map_err(|error| match error.kind() {
            RequestErrorKind::NoResponders => ChannelError::NotFound { name: to.clone() },
            RequestErrorKind::MaxPayloadExceeded => ChannelError::TooLarge {
                len: self.client.server_info().max_payload.saturating_add(1),
                limit: self.client.server_info().max_payload,
            },
            _ => ChannelError::lost(&self.place, error),
        })?;
        let reply: Result<Bytes, Fault> = decode(&reply.payload, "a reply")?;
        reply.map_err(|fault| fault.into_error(&self.place))
    }

    async fn serve(
        &self,
        name: &WorkerName,
        _incarnation: Incarnation,
        delivery: &Delivery,
    ) -> ChannelError {
        let ended = self.take(name, delivery).await;
        ended.err().unwrap_or(ChannelError::Lost { place: self.place.clone(), source: None })
    }
}
