//! Requests to a worker, and their replies.

use std::fmt;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use nixl_device::locks::lock;
use tokio::sync::{OwnedSemaphorePermit, mpsc, oneshot, watch};
use tokio::time::{Instant, timeout};

#[cfg(any(feature = "channel-etcd", feature = "channel-nats"))]
use super::error::Fault;
use super::seals::{Had, open_request, seal_reply};
use super::watch::AbortOnDrop;
use super::{ChannelError, ChannelOptions, WorkerName};

/// An answer to a request, or its absence.
pub(crate) type Reply = Result<Bytes, ChannelError>;

/// The requests to a worker. While it exists, and the channel is up, requests of its name arrive here.
#[derive(Debug)]
pub struct Inbox {
    pub(crate) requests: Queue,
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
        if let Some(request) = self.requests.next().await {
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
    room: Option<OwnedSemaphorePermit>,
}

/// The requests that wait for a worker.
#[derive(Debug)]
pub(crate) struct Queue(mpsc::Receiver<Place>);

/// A place in a queue, which is empty once its sender waits no longer.
type Place = Arc<Mutex<Option<Request>>>;

impl Queue {
    /// The next request whose sender waits. It can be cancelled.
    pub(crate) async fn next(&mut self) -> Option<Request> {
        loop {
            let place = self.0.recv().await?;
            let request = lock(&place).take();
            if request.is_some() {
                return request;
            }
        }
    }
}

/// A reply to come. Dropped, it takes its request out of the queue, with the memory that it has there.
pub(crate) struct Awaited {
    reply: oneshot::Receiver<Reply>,
    place: Place,
}

impl Awaited {
    /// Waits for the reply; `None` if there is none in time.
    pub(crate) async fn within(mut self, within: Duration) -> Option<Reply> {
        let reply = timeout(within.min(MAX_WITHIN), &mut self.reply).await.ok()?;
        Some(reply.unwrap_or_else(|_| Err(ChannelError::refused("the worker dropped the request"))))
    }
}

impl Drop for Awaited {
    fn drop(&mut self) {
        // Outside of the lock: its own end takes others.
        let _request = lock(&self.place).take();
    }
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

    /// The way back, for a server that passes the reply on as it is, and the room that the request takes up.
    #[cfg(any(feature = "channel-tcp", feature = "channel-http"))]
    pub(crate) fn into_parts(self) -> (oneshot::Sender<Reply>, Option<OwnedSemaphorePermit>) {
        (self.answer.sender, self.room)
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
    requests: mpsc::Sender<Place>,
    ready: watch::Sender<bool>,
    had: Arc<Mutex<Had>>,
}

impl Delivery {
    /// A delivery, and the queue at its end.
    pub(crate) fn new(name: WorkerName, options: Arc<ChannelOptions>) -> (Self, Queue) {
        let (requests, queue) = mpsc::channel(options.depth());
        let (ready, had) = (watch::Sender::new(false), Arc::default());
        (Self { name, options, requests, ready, had }, Queue(queue))
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
        room: Option<OwnedSemaphorePermit>,
    ) -> Result<Awaited, ChannelError> {
        let (payload, id) = open_request(&self.options, &self.name, &self.had, payload)?;
        let (sender, reply) = oneshot::channel();
        let answer =
            Answer { to: self.name.clone(), id, options: Arc::clone(&self.options), sender };
        let now = Instant::now();
        let deadline = now.checked_add(within.min(MAX_WITHIN)).unwrap_or(now);
        let place = Arc::new(Mutex::new(Some(Request { from, payload, deadline, answer, room })));
        self.requests.try_send(Arc::clone(&place)).map_err(|error| match error {
            mpsc::error::TrySendError::Full(_) => {
                ChannelError::Full { what: format!("the inbox of `{}`", self.name) }
            }
            mpsc::error::TrySendError::Closed(_) => {
                ChannelError::NotFound { name: self.name.clone() }
            }
        })?;
        Ok(Awaited { reply, place })
    }

    /// Puts a request into the queue at once, and returns its reply to come, as it travels. `None` if there is none in time.
    #[cfg(any(feature = "channel-etcd", feature = "channel-nats"))]
    pub(crate) fn answer(
        &self,
        from: WorkerName,
        payload: Bytes,
        within: Duration,
    ) -> impl Future<Output = Option<Result<Bytes, Fault>>> + Send + use<> {
        let awaited = self.deliver(from, payload, within, None);
        async move {
            let reply = match awaited {
                Ok(awaited) => awaited.within(within).await?,
                Err(error) => Err(error),
            };
            Some(reply.map_err(|error| Fault::of(&error)))
        }
    }

    /// Delivers a request, which takes up room until the worker has it, and waits for its reply.
    pub(crate) async fn ask(
        &self,
        from: WorkerName,
        payload: Bytes,
        within: Duration,
        room: OwnedSemaphorePermit,
    ) -> Reply {
        let awaited = self.deliver(from, payload, within, Some(room))?;
        awaited.within(within).await.unwrap_or_else(|| {
            Err(ChannelError::TimedOut {
                place: format!("the worker `{}`", self.name),
                call: "request",
                within,
            })
        })
    }
}

/// The longest time that a request waits.
pub(crate) const MAX_WITHIN: Duration = Duration::from_secs(3600);
