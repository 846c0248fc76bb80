//! The server's side of channels over TCP and HTTP: calls on a hub.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use nixl_device::locks::lock;

use bytes::Bytes;
use tokio::sync::{OwnedSemaphorePermit, mpsc, oneshot};
use tokio::time::timeout;

use super::error::Fault;
use super::inbox::{Delivery, Queue, Reply};
use super::wire::{Answer, Call, OVERHEAD, frame};
use super::{ChannelError, ChannelOptions, Exposure, Hub};

/// A hub that others call.
#[derive(Clone, Debug)]
pub(crate) struct Service {
    hub: Hub,
    options: Arc<ChannelOptions>,
    /// Whether only what is sealed may pass.
    sealed_only: bool,
    pending: Pending,
}

/// The requests that workers have not answered, by their ids.
#[derive(Clone, Debug, Default)]
pub(crate) struct Pending(Arc<Mutex<HashMap<u128, oneshot::Sender<Reply>>>>);

/// The interval of a quiet stream's signs of life.
pub(crate) const ALIVE: Duration = Duration::from_secs(1);

/// How long a stream may say nothing before its client takes it for dead.
pub(crate) const SILENCE: Duration = Duration::from_secs(5);

impl Service {
    /// Serves a hub, over a network of this `exposure`.
    pub(crate) fn new(hub: Hub, options: ChannelOptions, exposure: &Exposure) -> Self {
        let sealed_only = options.allows_unsealed(exposure).is_err();
        // It passes on what others seal and open.
        let options = Arc::new(options.without_seals());
        Self { hub, options, sealed_only, pending: Pending::default() }
    }

    /// The longest message, in bytes.
    pub(crate) fn limit(&self) -> usize {
        self.options.limit().saturating_add(OVERHEAD)
    }

    /// Answers a call that has one answer.
    pub(crate) async fn answer(&self, call: Call) -> Answer {
        let answered = match call {
            Call::Put { stored, life_ms } => self.passes(stored.entry.payload()).and_then(|()| {
                let life = self.hub.put_now(stored, Duration::from_millis(life_ms))?;
                Ok(Answer::Life { ms: u64::try_from(life.as_millis()).unwrap_or(u64::MAX) })
            }),
            Call::Remove { listed, edition } => {
                self.hub.remove_now(&listed, edition);
                Ok(Answer::Done)
            }
            Call::Get { name } => {
                let entry = self.hub.get_now(&name);
                let passes = entry.as_ref().map_or(Ok(()), |entry| self.passes(entry.payload()));
                passes.map(|()| Answer::Entry { entry })
            }
            Call::List { prefix } => Ok(Answer::Listed { listed: self.hub.list_now(&prefix) }),
            Call::Request { from, to, payload, within_ms } => match self.passes(&payload) {
                Ok(()) => {
                    let within = Duration::from_millis(within_ms);
                    let reply = self.hub.ask(&from, &to, payload, within).await;
                    reply.and_then(|payload| {
                        self.passes(&payload)?;
                        Ok(Answer::Reply { payload })
                    })
                }
                Err(error) => Err(error),
            },
            Call::Reply { id, reply } => {
                let reply = reply.map_err(|fault| fault.into_error("the worker"));
                self.pending.answer(id, reply);
                Ok(Answer::Done)
            }
            Call::Follow { .. } | Call::Serve { .. } => {
                Err(ChannelError::Malformed { what: "a call" })
            }
        };
        answered.unwrap_or_else(|error| Answer::Failed { fault: Fault::of(&error) })
    }

    /// Sends frames of a call that has many, until the receiver is dropped or an error was sent.
    pub(crate) async fn stream(&self, call: Call, frames: &mpsc::Sender<Bytes>) {
        let error = match call {
            Call::Follow { name } => self.follow(&name, frames).await,
            Call::Serve { name, incarnation } => {
                let (delivery, queue) = Delivery::new(name.clone(), Arc::clone(&self.options));
                match self.hub.register(&name, incarnation, delivery) {
                    Ok(mut registered) => tokio::select! {
                        error = registered.replaced() => error,
                        () = self.deliver(queue, frames) => return,
                    },
                    Err(error) => error,
                }
            }
            _ => ChannelError::Malformed { what: "a call" },
        };
        let _gone = send(frames, &Answer::Failed { fault: Fault::of(&error) }).await;
    }

    async fn follow(&self, name: &super::WorkerName, frames: &mpsc::Sender<Bytes>) -> ChannelError {
        let changes = self.hub.follow_with(name, |entry| async move {
            let passes = entry.as_ref().map_or(Ok(()), |entry| self.passes(entry.payload()));
            passes?;
            send(frames, &Answer::Entry { entry }).await
        });
        tokio::select! {
            error = changes => error,
            error = alive(frames) => error,
        }
    }

    /// Sends the requests of a queue.
    async fn deliver(&self, mut queue: Queue, frames: &mpsc::Sender<Bytes>) {
        // The client waits for the first to know that it is registered.
        if send(frames, &Answer::Alive).await.is_err() {
            return;
        }
        loop {
            let request = match timeout(ALIVE, queue.next()).await {
                Ok(Some(request)) => request,
                Ok(None) => return,
                Err(_) => {
                    if send(frames, &Answer::Alive).await.is_err() {
                        return;
                    }
                    continue;
                }
            };
            let id = uuid::Uuid::new_v4().as_u128();
            let within_ms = u64::try_from(request.time_left().as_millis()).unwrap_or(u64::MAX);
            let (from, payload) = (request.sender().clone(), request.payload().clone());
            let (sender, room) = request.into_parts();
            self.pending.add(id, sender);
            let Ok(frame) = frame(&Answer::Delivery { id, from, payload, within_ms }) else {
                return;
            };
            if frames.send(Bytes::from_owner(Sending { frame, _room: room })).await.is_err() {
                return;
            }
        }
    }

    /// Refuses what is not sealed where only that may pass. The prefix is PASETO's for encrypted tokens.
    fn passes(&self, payload: &[u8]) -> Result<(), ChannelError> {
        self.options.fits(payload.len())?;
        if self.sealed_only && !payload.starts_with(b"v4.local.") {
            return Err(ChannelError::Unsealed { host: "other hosts".to_owned() });
        }
        Ok(())
    }
}

/// A request on its way, which takes up room until it is sent.
struct Sending {
    frame: Vec<u8>,
    _room: Option<OwnedSemaphorePermit>,
}

impl AsRef<[u8]> for Sending {
    fn as_ref(&self) -> &[u8] {
        &self.frame
    }
}

impl Pending {
    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<u128, oneshot::Sender<Reply>>> {
        lock(&self.0)
    }

    fn add(&self, id: u128, sender: oneshot::Sender<Reply>) {
        let mut pending = self.lock();
        // Those whose sender no longer waits.
        pending.retain(|_, sender| !sender.is_closed());
        pending.insert(id, sender);
    }

    fn answer(&self, id: u128, reply: Reply) {
        if let Some(sender) = self.lock().remove(&id) {
            let _gone = sender.send(reply);
        }
    }
}

async fn send(frames: &mpsc::Sender<Bytes>, answer: &Answer) -> Result<(), ChannelError> {
    let gone = |_| ChannelError::Lost { place: "the client".to_owned(), source: None };
    frames.send(frame(answer)?.into()).await.map_err(gone)
}

/// Says that the stream lives until it does not.
async fn alive(frames: &mpsc::Sender<Bytes>) -> ChannelError {
    loop {
        tokio::time::sleep(ALIVE).await;
        if let Err(error) = send(frames, &Answer::Alive).await {
            return error;
        }
    }
}
