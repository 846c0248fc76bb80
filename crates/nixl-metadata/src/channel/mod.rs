//! Channels: the metadata of workers by name, its changes, and requests to workers.
//!
//! A [`Channel`] carries what peers need before a transfer: the metadata of exports, and requests for tickets. Each worker
//! publishes an [`Entry`] under its name and takes requests in an [`Inbox`]; others fetch and watch entries, and ask.
//!
//! | channel | by | feature |
//! |---|---|---|
//! | within a process | [`Hub::channel`] | `channel` |
//! | HTTP | [`http::router`] in a server of the application's, [`http::connect`] | `channel-http` |
//! | TCP, Unix sockets | [`tcp::Server`], [`tcp::connect`] | `channel-tcp` |
//! | NATS | [`nats::connect`] | `channel-nats` |
//! | etcd | [`etcd::connect`] | `channel-etcd` |
//!
//! # Life of an entry
//!
//! An entry lives while its owner renews it, which [`Published`] does; dropping it withdraws the entry. A worker that is started
//! anew replaces its own entry by a larger [`Incarnation`]; an earlier start is refused by [`ChannelError::OlderIncarnation`].
//!
//! # Time and memory
//!
//! Every call has a deadline and can be cancelled. A call repeats itself until its deadline while the channel is down. What the
//! other side sends is read up to [`ChannelOptions::max_bytes`]; queues are bounded; a watch holds one entry.
//!
//! Channels need tokio's runtime, with its timers.
//!
//! # Secrets
//!
//! The holder of metadata can read or write the memory that it names. A channel to another host without TLS is refused by
//! [`ChannelError::Unsealed`] unless it seals what it carries or the host is [allowed](ChannelOptions::allow_unsealed).

#![cfg_attr(
    not(all(
        feature = "channel-etcd",
        feature = "channel-http",
        feature = "channel-nats",
        feature = "channel-tcp"
    )),
    allow(dead_code, reason = "each channel uses a part of what they share")
)]

mod backend;
mod backoff;
mod entry;
mod error;
#[cfg(feature = "channel-etcd")]
pub mod etcd;
#[cfg(all(any(test, fuzzing), feature = "channel-etcd", feature = "seal"))]
#[doc(hidden)]
pub mod fuzz;
#[cfg(any(feature = "channel-etcd", feature = "channel-nats"))]
mod hex;
#[cfg(feature = "channel-http")]
pub mod http;
mod hub;
mod inbox;
mod name;
#[cfg(feature = "channel-nats")]
pub mod nats;
mod options;
mod published;
#[cfg(any(feature = "channel-tcp", feature = "channel-http"))]
mod remote;
#[cfg(any(feature = "channel-etcd", feature = "channel-http"))]
mod request;
mod seals;
#[cfg(any(feature = "channel-tcp", feature = "channel-http"))]
mod service;
mod shared;
#[cfg(feature = "channel-tcp")]
pub mod tcp;
#[cfg(feature = "channel-tls")]
mod tls;
mod watch;
#[cfg(any(
    feature = "channel-etcd",
    feature = "channel-http",
    feature = "channel-nats",
    feature = "channel-tcp"
))]
mod wire;

use std::fmt;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;

pub use entry::{Entry, Listed};
pub use error::ChannelError;
pub use hub::{Hub, HubLimits};
pub use inbox::{Inbox, Request};
pub use name::{Incarnation, WorkerName};
pub use options::{ChannelOptions, Exposure};
pub use published::{PublishState, Published};
pub use watch::{Watch, WatchEvent};

/// Entries of workers by name, and requests to workers.
///
/// Every call ends within its deadline by an answer or by an error, and can be cancelled by dropping its future: an entry may
/// then have been published, and ends by its life time; a request may have arrived.
#[async_trait]
pub trait Channel: fmt::Debug + Send + Sync {
    /// Where the messages pass.
    fn exposure(&self) -> &Exposure;

    /// Publishes an entry and keeps it alive until the result is dropped. A later call replaces the entry of an earlier one of the
    /// same start: to change what a worker publishes, publish anew, then drop the earlier [`Published`].
    ///
    /// # Errors
    ///
    /// [`ChannelError::OlderIncarnation`] if a later start of the worker has an entry, [`ChannelError::TooLarge`],
    /// [`ChannelError::Full`], and those of a channel that is down, slow or refuses.
    async fn publish(&self, entry: Entry) -> Result<Published, ChannelError>;

    /// The entry of a worker.
    ///
    /// # Errors
    ///
    /// [`ChannelError::NotFound`] if there is none, [`ChannelError::WrongEntry`] if it is of another worker, a seal's error, and
    /// those of a channel that is down, slow or refuses.
    async fn fetch(&self, name: &WorkerName) -> Result<Entry, ChannelError>;

    /// The workers whose names begin so, in the order of their names, at most 1,024.
    ///
    /// # Errors
    ///
    /// Those of a channel that is down, slow or refuses, and [`ChannelError::TooLarge`] if the list is longer than a message.
    async fn list(&self, prefix: &str) -> Result<Vec<Listed>, ChannelError>;

    /// Watches the entry of a worker.
    ///
    /// # Errors
    ///
    /// Those of a channel that is down, slow or refuses.
    async fn watch(&self, name: &WorkerName) -> Result<Watch, ChannelError>;

    /// Sends a request to a worker and waits for its reply, at most `within` and at most an hour. It is sent again only if it
    /// certainly did not leave.
    ///
    /// # Errors
    ///
    /// [`ChannelError::NotFound`] if the worker takes no requests, [`ChannelError::Full`] if too many wait,
    /// [`ChannelError::Refused`] by the worker, [`ChannelError::TimedOut`], [`ChannelError::Lost`] if the worker may have
    /// answered, and those of a channel that is down or refuses.
    async fn request(
        &self,
        from: &WorkerName,
        to: &WorkerName,
        payload: Bytes,
        within: Duration,
    ) -> Result<Bytes, ChannelError>;

    /// Takes the requests to a worker until the result is dropped.
    ///
    /// # Errors
    ///
    /// [`ChannelError::OlderIncarnation`] if a later start of the worker takes them, and those of a channel that is down, slow or
    /// refuses.
    async fn serve(
        &self,
        name: &WorkerName,
        incarnation: Incarnation,
    ) -> Result<Inbox, ChannelError>;
}
