//! The calls that a backend implements, below the rules that all channels share.

use std::fmt;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;

use super::inbox::Delivery;
use super::watch::States;
use super::{ChannelError, Entry, Incarnation, Listed, WorkerName};

/// A backend that carries entries and requests. Every call can be dropped at any time; the caller bounds its time and repeats it.
#[async_trait]
pub(crate) trait Backend: fmt::Debug + Send + Sync + 'static {
    /// The server, for errors.
    fn place(&self) -> &str;

    /// Puts or renews an entry, for `life` from now, unless a later start has one. Returns how long the entry lives.
    async fn put(
        &self,
        entry: &Entry,
        life: Duration,
        held: &mut Held,
    ) -> Result<Duration, ChannelError>;

    /// Removes the entry, if it is still that of this start.
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

/// What a backend keeps of an entry between its renewals.
#[derive(Debug, Default)]
pub(crate) struct Held {
    /// etcd's lease.
    #[cfg(feature = "channel-etcd")]
    pub(crate) lease: Option<i64>,
}
