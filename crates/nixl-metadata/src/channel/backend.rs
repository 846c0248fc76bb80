//! The calls that a backend implements, below the rules that all channels share.

use std::fmt;
use std::sync::Mutex;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use nixl_device::locks::lock;
use serde::{Deserialize, Serialize};

use super::inbox::Delivery;
use super::watch::States;
use super::{ChannelError, Entry, Incarnation, Listed, WorkerName};

/// A backend that carries entries and requests. Every call can be dropped at any time; the caller bounds its time and repeats it.
#[async_trait]
pub(crate) trait Backend: fmt::Debug + Send + Sync + 'static {
    /// The server, for errors.
    fn place(&self) -> &str;

    /// Puts or renews an entry, for `life` from now, unless a later one is there. Returns how long the entry lives.
    async fn put(
        &self,
        entry: &Entry,
        life: Duration,
        held: &mut Held,
    ) -> Result<Duration, ChannelError>;

    /// Removes the entry, if it is still that of this start and of this call of `publish`.
    async fn remove(&self, listed: &Listed, held: &Held) -> Result<(), ChannelError>;

    /// The entry of a worker.
    async fn get(&self, name: &WorkerName) -> Result<Option<Entry>, ChannelError>;

    /// The workers whose names begin so, at most [`MAX_LISTED`].
    async fn list(&self, prefix: &str) -> Result<Vec<Listed>, ChannelError>;

    /// Passes on the entry of a worker and its changes until the connection ends.
    async fn follow(&self, name: &WorkerName, states: &States) -> ChannelError;

    /// Has a worker answer.
    async fn request(
        &self,
        from: &WorkerName,
        to: &WorkerName,
        payload: Bytes,
        within: Duration,
    ) -> Result<Bytes, ChannelError>;

    /// Passes on the requests to a worker until the connection ends.
    async fn serve(
        &self,
        name: &WorkerName,
        incarnation: Incarnation,
        delivery: &Delivery,
    ) -> ChannelError;
}

/// The most workers in a list.
pub(crate) const MAX_LISTED: usize = 1024;

/// Which call of `publish` an entry is of, among those of one start: a later call replaces what an earlier one keeps alive.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(crate) struct Edition(u64);

impl Edition {
    /// That of a call now.
    fn next() -> Self {
        static LAST: Mutex<u64> = Mutex::new(0);
        let mut last = lock(&LAST);
        // By the clock, for two processes with one incarnation; and rising in this process, also if the clock is set back.
        *last = Incarnation::now().value().max(last.saturating_add(1));
        Self(*last)
    }
}

/// An entry as a store keeps it.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Stored {
    pub(crate) entry: Entry,
    pub(crate) edition: Edition,
}

impl Stored {
    /// Refuses to give the place to an entry of an earlier start, or of an earlier call of `publish`.
    pub(crate) fn gives_way(&self, to: &Entry, edition: Edition) -> Result<(), ChannelError> {
        let (name, current) = (to.name().clone(), self.entry.incarnation());
        if current > to.incarnation() {
            return Err(ChannelError::OlderIncarnation {
                name,
                offered: to.incarnation(),
                current,
            });
        }
        if current == to.incarnation() && self.edition > edition {
            return Err(ChannelError::Republished { name });
        }
        Ok(())
    }

    pub(crate) fn is_of(&self, listed: &Listed, edition: Edition) -> bool {
        self.entry.incarnation() == listed.incarnation() && self.edition == edition
    }
}

/// What a backend keeps of an entry between its renewals.
#[derive(Debug)]
pub(crate) struct Held {
    pub(crate) edition: Edition,
    /// etcd's lease.
    #[cfg(feature = "channel-etcd")]
    pub(crate) lease: Option<i64>,
    /// The entry that has the lease.
    #[cfg(feature = "channel-etcd")]
    pub(crate) written: Option<Entry>,
}

impl Held {
    /// That of a new call of `publish`.
    pub(crate) fn new() -> Self {
        Self {
            edition: Edition::next(),
            #[cfg(feature = "channel-etcd")]
            lease: None,
            #[cfg(feature = "channel-etcd")]
            written: None,
        }
    }
}
