//! The store of entries and inboxes of one process, which is a channel within it, and which servers share with others.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use nixl_device::locks::lock;

use async_trait::async_trait;
use bytes::Bytes;
use tokio::sync::{Semaphore, oneshot, watch};
use tokio::time::{Instant, sleep_until};

use super::backend::{Backend, Edition, Held, MAX_LISTED, Stored};
use super::inbox::Delivery;
use super::shared::Shared;
use super::watch::States;
use super::{Channel, ChannelError, ChannelOptions, Entry, Incarnation, Listed, WorkerName};

/// Limits of a hub.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HubLimits {
    entries: usize,
    bytes: usize,
    inboxes: usize,
    request_bytes: usize,
    life_time: Duration,
}

impl Default for HubLimits {
    fn default() -> Self {
        Self {
            entries: 4096,
            bytes: 64 << 20,
            inboxes: 4096,
            request_bytes: 64 << 20,
            life_time: Duration::from_secs(300),
        }
    }
}

impl HubLimits {
    /// 4,096 entries of 64 MiB together and a life of at most 300 s, 4,096 inboxes, and requests of 64 MiB together.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets the most entries.
    #[must_use]
    pub const fn entries(mut self, entries: usize) -> Self {
        self.entries = entries;
        self
    }

    /// Sets the most bytes of all entries.
    #[must_use]
    pub const fn bytes(mut self, bytes: usize) -> Self {
        self.bytes = bytes;
        self
    }

    /// Sets the most inboxes.
    #[must_use]
    pub const fn inboxes(mut self, inboxes: usize) -> Self {
        self.inboxes = inboxes;
        self
    }

    /// Sets the most bytes of all requests that wait for their workers.
    #[must_use]
    pub const fn request_bytes(mut self, bytes: usize) -> Self {
        self.request_bytes = bytes;
        self
    }

    /// Sets the longest life of an entry that is not renewed.
    #[must_use]
    pub const fn life_time(mut self, time: Duration) -> Self {
        self.life_time = time;
        self
    }
}

/// Entries and inboxes in this process. Clones share them. [`http::router`](super::http::router) and
/// [`tcp::Server`](super::tcp::Server) serve them to other processes.
#[derive(Clone)]
pub struct Hub {
    limits: HubLimits,
    /// Permits for the bytes of requests.
    room: Arc<Semaphore>,
    state: Arc<Mutex<State>>,
}

/// A life beyond what the clock can count.
const FAR: Duration = Duration::from_secs(365 * 24 * 3600);

#[derive(Default)]
struct State {
    entries: HashMap<WorkerName, Slot>,
    bytes: usize,
    /// The changes of names that are followed.
    followed: HashMap<WorkerName, watch::Sender<()>>,
    /// No entry ends before.
    first_end: Option<Instant>,
    inboxes: HashMap<WorkerName, Served>,
    next_inbox: u64,
}

struct Slot {
    stored: Stored,
    ends: Instant,
}

/// A worker that takes requests.
struct Served {
    number: u64,
    incarnation: Incarnation,
    delivery: Delivery,
    /// Gets the start that takes over.
    replaced: oneshot::Sender<Incarnation>,
}

impl Default for Hub {
    fn default() -> Self {
        Self::new(HubLimits::default())
    }
}

impl Hub {
    /// An empty hub.
    #[must_use]
    pub fn new(limits: HubLimits) -> Self {
        let room = Arc::new(Semaphore::new(limits.request_bytes.min(Semaphore::MAX_PERMITS)));
        Self { limits, room, state: Arc::default() }
    }

    /// A channel of this process.
    #[must_use]
    pub fn channel(&self, options: ChannelOptions) -> Arc<dyn Channel> {
        Shared::within_process(self.clone(), options)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        let mut state = lock(&self.state);
        state.end_old(Instant::now());
        state
    }

    /// Puts or renews an entry.
    pub(crate) fn put_now(&self, stored: Stored, life: Duration) -> Result<Duration, ChannelError> {
        let life = life.min(self.limits.life_time);
        let now = Instant::now();
        let mut state = self.lock();
        let entry = &stored.entry;
        let before = state.entries.get(entry.name());
        if let Some(before) = before {
            before.stored.gives_way(entry, stored.edition)?;
        }
        let freed = before.map_or(0, |slot| slot.stored.entry.payload().len());
        let bytes = (state.bytes - freed).saturating_add(entry.payload().len());
        let is_new = before.is_none();
        if bytes > self.limits.bytes || (is_new && state.entries.len() >= self.limits.entries) {
            return Err(ChannelError::Full { what: "the store of entries".to_owned() });
        }
        let is_changed = before.is_none_or(|slot| slot.stored.entry != *entry);
        state.bytes = bytes;
        let name = entry.name().clone();
        if is_changed {
            state.changed(&name);
        }
        // As good as for ever.
        let ends = now.checked_add(life).unwrap_or(now + FAR);
        state.first_end = Some(state.first_end.map_or(ends, |first| first.min(ends)));
        state.entries.insert(name, Slot { stored, ends });
        Ok(life)
    }

    pub(crate) fn remove_now(&self, listed: &Listed, edition: Edition) {
        let mut state = self.lock();
        let is_there =
            state.entries.get(listed.name()).is_some_and(|slot| slot.stored.is_of(listed, edition));
        if is_there {
            state.remove(listed.name());
        }
    }

    pub(crate) fn get_now(&self, name: &WorkerName) -> Option<Entry> {
        self.lock().entries.get(name).map(|slot| slot.stored.entry.clone())
    }

    pub(crate) fn list_now(&self, prefix: &str) -> Vec<Listed> {
        let state = self.lock();
        let entries = state.entries.values().map(|slot| &slot.stored.entry);
        let mut listed: Vec<_> = entries
            .filter(|entry| entry.name().as_str().starts_with(prefix))
            .map(|entry| Listed::new(entry.name().clone(), entry.incarnation()))
            .collect();
        listed.sort();
        listed.truncate(MAX_LISTED);
        listed
    }

    /// Calls `report` with the entry of now and after each change, until it returns an error.
    pub(crate) async fn follow_with<F>(
        &self,
        name: &WorkerName,
        mut report: impl FnMut(Option<Entry>) -> F,
    ) -> ChannelError
    where
        F: Future<Output = Result<(), ChannelError>>,
    {
        let mut changes = {
            let mut state = self.lock();
            state.followed.retain(|_, changes| changes.receiver_count() > 0);
            state.followed.entry(name.clone()).or_default().subscribe()
        };
        loop {
            changes.borrow_and_update();
            let (entry, ends) = {
                let state = self.lock();
                let slot = state.entries.get(name);
                (slot.map(|slot| slot.stored.entry.clone()), slot.map(|slot| slot.ends))
            };
            if let Err(error) = report(entry).await {
                return error;
            }
            let end = async {
                match ends {
                    Some(ends) => sleep_until(ends).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                _ = changes.changed() => {}
                () = end => {}
            }
        }
    }

    /// Sends a request to a worker of this hub.
    pub(crate) async fn ask(
        &self,
        from: &WorkerName,
        to: &WorkerName,
        payload: Bytes,
        within: Duration,
    ) -> Result<Bytes, ChannelError> {
        let delivery = self.lock().inboxes.get(to).map(|served| served.delivery.clone());
        let delivery = delivery.ok_or_else(|| ChannelError::NotFound { name: to.clone() })?;
        let full = || ChannelError::Full { what: "the store of requests".to_owned() };
        let len = u32::try_from(payload.len()).map_err(|_| full())?;
        let room = Arc::clone(&self.room).try_acquire_many_owned(len).map_err(|_| full())?;
        delivery.ask(from.clone(), payload, within, room).await
    }

    /// Has the requests to a worker delivered until the result is dropped or replaced.
    pub(crate) fn register(
        &self,
        name: &WorkerName,
        incarnation: Incarnation,
        delivery: Delivery,
    ) -> Result<Registered, ChannelError> {
        let mut state = self.lock();
        if let Some(before) = state.inboxes.get(name).filter(|s| s.incarnation > incarnation) {
            return Err(ChannelError::OlderIncarnation {
                name: name.clone(),
                offered: incarnation,
                current: before.incarnation,
            });
        }
        if !state.inboxes.contains_key(name) && state.inboxes.len() >= self.limits.inboxes {
            return Err(ChannelError::Full { what: "the store of inboxes".to_owned() });
        }
        state.next_inbox += 1;
        let number = state.next_inbox;
        let (replaced, has_replaced) = oneshot::channel();
        let served = Served { number, incarnation, delivery, replaced };
        if let Some(before) = state.inboxes.insert(name.clone(), served) {
            let _gone = before.replaced.send(incarnation);
        }
        let listed = Listed::new(name.clone(), incarnation);
        Ok(Registered { hub: self.clone(), listed, number, replaced: has_replaced })
    }
}

impl State {
    fn end_old(&mut self, now: Instant) {
        if self.first_end.is_none_or(|end| end > now) {
            return;
        }
        // A hub has a few thousand entries at most.
        let ended: Vec<_> = self
            .entries
            .iter()
            .filter(|(_, slot)| slot.ends <= now)
            .map(|(name, _)| name.clone())
            .collect();
        ended.iter().for_each(|name| self.remove(name));
        self.first_end = self.entries.values().map(|slot| slot.ends).min();
    }

    fn remove(&mut self, name: &WorkerName) {
        if let Some(slot) = self.entries.remove(name) {
            self.bytes -= slot.stored.entry.payload().len();
            self.changed(name);
        }
    }

    fn changed(&self, name: &WorkerName) {
        if let Some(changes) = self.followed.get(name) {
            changes.send_replace(());
        }
    }
}

/// An inbox in a hub, which ends with this.
pub(crate) struct Registered {
    hub: Hub,
    listed: Listed,
    number: u64,
    replaced: oneshot::Receiver<Incarnation>,
}

impl Registered {
    /// Waits until a later start takes over.
    pub(crate) async fn replaced(&mut self) -> ChannelError {
        match (&mut self.replaced).await {
            Ok(current) => ChannelError::OlderIncarnation {
                name: self.listed.name().clone(),
                offered: self.listed.incarnation(),
                current,
            },
            Err(_) => ChannelError::Lost { place: "the hub".to_owned(), source: None },
        }
    }
}

impl Drop for Registered {
    fn drop(&mut self) {
        let mut state = self.hub.lock();
        let served = state.inboxes.get(self.listed.name());
        if served.is_some_and(|served| served.number == self.number) {
            state.inboxes.remove(self.listed.name());
        }
    }
}

impl fmt::Debug for Hub {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = self.lock();
        f.debug_struct("Hub")
            .field("entries", &state.entries.len())
            .field("inboxes", &state.inboxes.len())
            .finish_non_exhaustive()
    }
}

#[async_trait]
impl Backend for Hub {
    fn place(&self) -> &str {
        "this process"
    }

    async fn put(
        &self,
        entry: &Entry,
        life: Duration,
        held: &mut Held,
    ) -> Result<Duration, ChannelError> {
        self.put_now(Stored { entry: entry.clone(), edition: held.edition }, life)
    }

    async fn remove(&self, listed: &Listed, held: &Held) -> Result<(), ChannelError> {
        self.remove_now(listed, held.edition);
        Ok(())
    }

    async fn get(&self, name: &WorkerName) -> Result<Option<Entry>, ChannelError> {
        Ok(self.get_now(name))
    }

    async fn list(&self, prefix: &str) -> Result<Vec<Listed>, ChannelError> {
        Ok(self.list_now(prefix))
    }

    async fn follow(&self, name: &WorkerName, states: &States) -> ChannelError {
        self.follow_with(name, |entry| {
            states.report(entry);
            std::future::ready(Ok(()))
        })
        .await
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
        match self.register(name, incarnation, delivery.clone()) {
            Ok(mut registered) => {
                delivery.ready();
                registered.replaced().await
            }
            Err(error) => error,
        }
    }
}
