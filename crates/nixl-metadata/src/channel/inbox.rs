//! Requests to a worker, and their replies.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::Instant;

#[cfg(any(feature = "channel-etcd", feature = "channel-nats"))]
use super::error::Fault;
use super::seals::{open_request, seal_reply};
use super::watch::AbortOnDrop;
use super::{ChannelError, ChannelOptions, WorkerName};

/// An answer to a request, or its absence.
pub(crate) type Reply = Result<Bytes, ChannelError>;

/// The requests to a worker. While it exists, and the channel is up, requests of its name arrive here.
#[derive(Debug)]
pub struct Inbox {
    pub(crate) requests: mpsc::Receiver<Request>,
    pub(crate) ended: watch::Receiver<Option<ChannelError>>,
    pub(crate) _server: AbortOnDrop,
}

impl Inbox {
    /// Waits for the next request. There is no deadline; while the channel is down, or refuses this worker, it waits.
    ///
    /// It can be cancelled: no request is lost.
    ///
    /// # Errors
    ///
    /// [`ChannelError::OlderIncarnation`] once a later start of the worker takes its requests.
    pub async fn next(&mut self) -> Result<Request, ChannelError> {
        if let Some(request) = self.requests.recv().await {
            return Ok(request);
        }
        let ended = self.ended.borrow().clone();
        Err(ended
            .unwrap_or_else(|| ChannelError::Down { place: "the runtime".into(), source: None }))
    }
}

/// A request to a worker. Dropped without a reply, it is refused.
///
/// `Debug` shows the length of the payload only.
pub struct Request {
    from: WorkerName,
    payload: Bytes,
    deadline: Instant,
    answer: Answer,
}

/// The way back to the requester.
struct Answer {
    to: WorkerName,
    /// Of a sealed request.
    id: Option<String>,
    options: Arc<ChannelOptions>,
    sender: oneshot::Sender<Reply>,
}

impl Request {
    /// The name that the sender gives itself. Only a seal proves that it is one of the admitted.
    #[must_use]
    pub const fn sender(&self) -> &WorkerName {
        &self.from
    }

    /// The bytes.
    #[must_use]
    pub const fn payload(&self) -> &Bytes {
        &self.payload
    }

    /// How long the sender waits from now on.
    #[must_use]
    pub fn time_left(&self) -> Duration {
        self.deadline.saturating_duration_since(Instant::now())
    }

    /// Answers. A sender that no longer waits is no error.
    ///
    /// # Errors
    ///
    /// [`ChannelError::TooLarge`], or the seal's; the sender is then refused.
    pub fn reply(self, payload: impl Into<Bytes>) -> Result<(), ChannelError> {
        let Answer { to, id, options, sender } = self.answer;
        let sealed = seal_reply(&options, &to, id.as_deref(), payload.into())?;
        let _gone = sender.send(Ok(sealed));
        Ok(())
    }

    /// The way back, for a server that passes the reply on as it is.
    #[cfg(any(feature = "channel-tcp", feature = "channel-http"))]
    pub(crate) fn into_sender(self) -> oneshot::Sender<Reply> {
        self.answer.sender
    }

    /// Refuses, with a reason for the sender, of which it gets the first 200 characters.
    pub fn refuse(self, reason: &str) {
        let _gone = self.answer.sender.send(Err(ChannelError::refused(reason)));
    }
}

impl fmt::Debug for Request {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Request")
            .field("from", &self.from)
            .field("payload_bytes", &self.payload.len())
            .finish_non_exhaustive()
    }
}

/// Where a backend passes on the requests to a worker.
#[derive(Clone, Debug)]
pub(crate) struct Delivery {
    name: WorkerName,
    options: Arc<ChannelOptions>,
    requests: mpsc::Sender<Request>,
    ready: watch::Sender<bool>,
}

impl Delivery {
    /// A delivery, and the queue at its end.
    pub(crate) fn new(
        name: WorkerName,
        options: Arc<ChannelOptions>,
    ) -> (Self, mpsc::Receiver<Request>) {
        let (requests, queue) = mpsc::channel(options.depth());
        (Self { name, options, requests, ready: watch::Sender::new(false) }, queue)
    }

    /// Notes that requests arrive from now on.
    pub(crate) fn ready(&self) {
        self.ready.send_replace(true);
    }

    /// Waits for the first [`ready`](Self::ready).
    pub(crate) async fn is_ready(&self) {
        // The sender is part of this.
        let mut ready = self.ready.subscribe();
        let _ready = ready.wait_for(|ready| *ready).await;
    }

    /// Whether requests have arrived, or could have.
    pub(crate) fn was_ready(&self) -> bool {
        *self.ready.borrow()
    }

    /// Puts a request into the queue and returns the reply to come.
    pub(crate) fn deliver(
        &self,
        from: WorkerName,
        payload: Bytes,
        within: Duration,
    ) -> Result<oneshot::Receiver<Reply>, ChannelError> {
        let (payload, id) = open_request(&self.options, &self.name, payload)?;
        let (sender, receiver) = oneshot::channel();
        let answer =
            Answer { to: self.name.clone(), id, options: Arc::clone(&self.options), sender };
        let now = Instant::now();
        let deadline = now.checked_add(within.min(MAX_WITHIN)).unwrap_or(now);
        let request = Request { from, payload, deadline, answer };
        self.requests.try_send(request).map_err(|error| match error {
            mpsc::error::TrySendError::Full(_) => {
                ChannelError::Full { what: format!("the inbox of `{}`", self.name) }
            }
            mpsc::error::TrySendError::Closed(_) => {
                ChannelError::NotFound { name: self.name.clone() }
            }
        })?;
        Ok(receiver)
    }

    /// Puts a request into the queue at once, and returns its reply to come, as it travels. `None` if there is none in time.
    #[cfg(any(feature = "channel-etcd", feature = "channel-nats"))]
    pub(crate) fn answer(
        &self,
        from: WorkerName,
        payload: Bytes,
        within: Duration,
    ) -> impl Future<Output = Option<Result<Bytes, Fault>>> + Send + use<> {
        let reply = self.deliver(from, payload, within);
        async move {
            let reply = match reply {
                Ok(reply) => match tokio::time::timeout(within, reply).await {
                    Ok(Ok(reply)) => reply,
                    Ok(Err(_)) => Err(ChannelError::refused("the worker dropped the request")),
                    Err(_) => return None,
                },
                Err(error) => Err(error),
            };
            Some(reply.map_err(|error| Fault::of(&error)))
        }
    }

    /// Delivers a request and waits for its reply.
    pub(crate) async fn ask(&self, from: WorkerName, payload: Bytes, within: Duration) -> Reply {
        let reply = self.deliver(from, payload, within)?;
        match tokio::time::timeout(within.min(MAX_WITHIN), reply).await {
            Ok(Ok(reply)) => reply,
            Ok(Err(_)) => Err(ChannelError::refused("the worker dropped the request")),
            Err(_) => Err(ChannelError::TimedOut {
                place: format!("the worker `{}`", self.name),
                call: "request",
                within,
            }),
        }
    }
}

/// The longest time that a request waits.
pub(crate) const MAX_WITHIN: Duration = Duration::from_secs(3600);
