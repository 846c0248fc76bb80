//! Entries in a key-value bucket.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use async_nats::jetstream::context::{CreateStreamError, CreateStreamErrorKind};
use async_nats::jetstream::kv::{
    CreateErrorKind, Entry as Value, Operation, Store, UpdateErrorKind,
};
use async_nats::jetstream::stream::{Config, DiscardPolicy, StorageType};
use async_nats::jetstream::{Context, ErrorCode};
use futures_util::{StreamExt as _, stream};
use tokio::sync::Mutex;
use tokio::time::timeout;

use crate::channel::backend::{Edition, MAX_LISTED, Stored};
use crate::channel::hex::hex;
use crate::channel::wire::{OVERHEAD, decode, encode};
use crate::channel::{ChannelError, Entry, Listed, WorkerName};

/// How often a followed key is read although no message came: an end by age is not announced.
const LOOK: Duration = Duration::from_secs(1);

/// How many life times of an entry the bucket may keep it.
const MOST_LIVES: u32 = 4;

/// How many values of a list are read at one time.
const READS: usize = 16;

/// How long a call may take before the watch is made anew.
const STALE: Duration = Duration::from_secs(5);

pub(super) struct Bucket {
    context: Context,
    name: String,
    place: String,
    life: Duration,
    limit: usize,
    /// The bucket, until a call fails: it ends with its servers' memory.
    open: Mutex<Option<(Store, Duration)>>,
    /// Whether the servers have had JetStream: if it is missing later, they start.
    had_jetstream: AtomicBool,
}

fn lacks_jetstream(error: &CreateStreamError) -> bool {
    match error.kind() {
        CreateStreamErrorKind::JetStreamUnavailable => true,
        CreateStreamErrorKind::JetStream(error) => matches!(
            error.error_code(),
            ErrorCode::JETSTREAM_NOT_ENABLED | ErrorCode::JETSTREAM_NOT_ENABLED_FOR_ACCOUNT
        ),
        _ => false,
    }
}

/// Whether JetStream has no room for a message.
fn is_full(error: &(dyn std::error::Error + 'static)) -> bool {
    if let Some(error) = error.downcast_ref::<async_nats::jetstream::Error>() {
        return match error.error_code() {
            ErrorCode::ACCOUNT_RESOURCES_EXCEEDED
            | ErrorCode::INSUFFICIENT_RESOURCES
            | ErrorCode::MEMORY_RESOURCES_EXCEEDED
            | ErrorCode::STORAGE_RESOURCES_EXCEEDED => true,
            // Of the stream's own limits, as `maximum bytes exceeded`.
            ErrorCode::STREAM_STORE_FAILED => error.to_string().contains("maximum"),
            _ => false,
        };
    }
    error.source().is_some_and(is_full)
}

impl Bucket {
    pub(super) fn new(
        context: Context,
        name: String,
        place: String,
        life: Duration,
        limit: usize,
    ) -> Self {
        let (open, had_jetstream) = (Mutex::new(None), AtomicBool::new(false));
        Self { context, name, place, life, limit, open, had_jetstream }
    }

    /// The error of a call on the bucket, which is then opened anew.
    async fn failed(&self, error: impl std::error::Error + Send + Sync + 'static) -> ChannelError {
        if is_full(&error) {
            return ChannelError::Full { what: format!("the bucket `{}`", self.name) };
        }
        *self.open.lock().await = None;
        ChannelError::lost(&self.place, error)
    }

    async fn store(&self) -> Result<(Store, Duration), ChannelError> {
        let mut open = self.open.lock().await;
        if let Some(open) = &*open {
            return Ok(open.clone());
        }
        let store = match self.context.get_key_value(&self.name).await {
            Ok(store) => store,
            Err(_absent) => {
                // As the library makes one, which asks servers before 2.10 what they do not answer.
                let config = Config {
                    name: format!("KV_{}", self.name),
                    subjects: vec![format!("$KV.{}.>", self.name)],
                    max_age: self.life,
                    max_messages_per_subject: 1,
                    storage: StorageType::Memory,
                    discard: DiscardPolicy::New,
                    allow_rollup: true,
                    deny_delete: true,
                    allow_direct: true,
                    num_replicas: 1,
                    max_bytes: -1,
                    max_messages: -1,
                    max_message_size: -1,
                    ..Config::default()
                };
                let created = self.context.create_stream(config).await;
                created.map_err(|error| self.not_made(error))?;
                let store = self.context.get_key_value(&self.name).await;
                store.map_err(|error| ChannelError::lost(&self.place, error))?
            }
        };
        let status = store.status().await;
        let status = status.map_err(|error| ChannelError::lost(&self.place, error))?;
        self.had_jetstream.store(true, Ordering::Relaxed);
        Ok(open.insert((store, status.max_age())).clone())
    }

    /// Refuses a bucket, made by others, that would keep the entry of an owner that was killed.
    fn ends_entries(&self, age: Duration) -> Result<(), ChannelError> {
        let most = self.life.saturating_mul(MOST_LIVES);
        if !age.is_zero() && age <= most {
            return Ok(());
        }
        let keeps = match age {
            Duration::ZERO => "for ever".to_owned(),
            age => format!("for {age:?}"),
        };
        Err(ChannelError::refused(&format!(
            "the bucket `{}` keeps entries {keeps}: set its TTL to {:?}, or raise `life_time`",
            self.name, self.life
        )))
    }

    fn not_made(&self, error: CreateStreamError) -> ChannelError {
        if lacks_jetstream(&error) && !self.had_jetstream.load(Ordering::Relaxed) {
            return ChannelError::refused(
                "the server of NATS has no JetStream, which keeps entries: start it with `--jetstream`, or enable it for the account",
            );
        }
        ChannelError::lost(&self.place, error)
    }

    /// The entry, and what is stored of the key.
    async fn read(
        &self,
        name: &WorkerName,
    ) -> Result<(Option<Stored>, Option<Value>), ChannelError> {
        let (store, _) = self.store().await?;
        let found = match store.entry(hex(name.as_str())).await {
            Ok(found) => found,
            Err(error) => return Err(self.failed(error).await),
        };
        let Some(found) = found else { return Ok((None, None)) };
        if found.operation != Operation::Put {
            return Ok((None, Some(found)));
        }
        let max = self.limit.saturating_add(OVERHEAD);
        if found.value.len() > max {
            return Err(ChannelError::TooLarge { len: found.value.len(), limit: self.limit });
        }
        Ok((Some(decode(&found.value, "a value in NATS")?), Some(found)))
    }

    pub(super) async fn get(&self, name: &WorkerName) -> Result<Option<Entry>, ChannelError> {
        self.read(name).await.map(|(stored, _)| stored.map(|stored| stored.entry))
    }

    /// Puts or renews an entry; returns how long it lives.
    pub(super) async fn put(
        &self,
        entry: &Entry,
        edition: Edition,
    ) -> Result<Duration, ChannelError> {
        let value = encode(&Stored { entry: entry.clone(), edition })?;
        let key = hex(entry.name().as_str());
        loop {
            let (before, found) = self.read(entry.name()).await?;
            if let Some(before) = &before {
                before.gives_way(entry, edition)?;
            }
            let (store, age) = self.store().await?;
            self.ends_entries(age)?;
            let value = value.clone().into();
            let is_old = match found.filter(|_| before.is_some()) {
                Some(found) => match store.update(&key, value, found.revision).await {
                    Ok(_) => false,
                    Err(error) if error.kind() == UpdateErrorKind::WrongLastRevision => true,
                    Err(error) => return Err(self.failed(error).await),
                },
                None => match store.create(&key, value).await {
                    Ok(_) => false,
                    Err(error) if error.kind() == CreateErrorKind::AlreadyExists => true,
                    Err(error) => return Err(self.failed(error).await),
                },
            };
            // Another owner came between: compare anew, as long as the caller waits.
            if !is_old {
                return Ok(age);
            }
        }
    }

    pub(super) async fn remove(
        &self,
        listed: &Listed,
        edition: Edition,
    ) -> Result<(), ChannelError> {
        let (stored, found) = self.read(listed.name()).await?;
        let is_own = stored.is_some_and(|stored| stored.is_of(listed, edition));
        let Some(found) = found.filter(|_| is_own) else { return Ok(()) };
        let (store, _) = self.store().await?;
        match store.purge_expect_revision(hex(listed.name().as_str()), Some(found.revision)).await {
            Ok(()) => Ok(()),
            Err(error) => Err(self.failed(error).await),
        }
    }

    pub(super) async fn list(&self, prefix: &str) -> Result<Vec<Listed>, ChannelError> {
        let (store, _) = self.store().await?;
        let mut keys = match store.keys().await {
            Ok(keys) => keys,
            Err(error) => return Err(self.failed(error).await),
        };
        let begin = prefix.bytes().map(|byte| format!("{byte:02x}")).collect::<String>();
        let mut names = Vec::new();
        while let Some(key) = keys.next().await {
            let key = match key {
                Ok(key) => key,
                Err(error) => return Err(self.failed(error).await),
            };
            if key.starts_with(&begin) && names.len() < MAX_LISTED {
                names.push(key);
            }
        }
        let values = stream::iter(names).map(|key| {
            let store = store.clone();
            async move { store.get(&key).await.map(|value| (key, value)) }
        });
        let mut values = values.buffer_unordered(READS);
        let mut listed = Vec::new();
        while let Some(value) = values.next().await {
            let (key, value) = match value {
                Ok(value) => value,
                Err(error) => return Err(self.failed(error).await),
            };
            // The name and the incarnation are in the value. An entry may have ended since, and a damaged one hides no other.
            let stored = value.and_then(|value| decode::<Stored>(&value, "a value in NATS").ok());
            if let Some(Stored { entry, .. }) =
                stored.filter(|stored| hex(stored.entry.name().as_str()) == key)
            {
                listed.push(Listed::new(entry.name().clone(), entry.incarnation()));
            }
        }
        Ok(listed)
    }

    /// Calls `report` with the entry of now and after each change, until the connection ends.
    pub(super) async fn follow(
        &self,
        name: &WorkerName,
        report: impl Fn(Option<Entry>) + Send,
    ) -> Result<(), ChannelError> {
        let lost = || ChannelError::Lost { place: self.place.clone(), source: None };
        let (store, _) = timeout(STALE, self.store()).await.map_err(|_| lost())??;
        let watch = timeout(STALE, store.watch(hex(name.as_str()))).await.map_err(|_| lost())?;
        let mut watch = match watch {
            Ok(watch) => watch,
            Err(error) => return Err(self.failed(error).await),
        };
        loop {
            report(timeout(STALE, self.get(name)).await.map_err(|_| lost())??);
            match timeout(LOOK, watch.next()).await {
                Err(_) | Ok(Some(Ok(_))) => {}
                Ok(Some(Err(error))) => return Err(self.failed(error).await),
                Ok(None) => return Err(lost()),
            }
        }
    }
}
