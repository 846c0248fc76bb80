//! The client's side of channels over TCP and HTTP.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use tokio::sync::Semaphore;
use tokio::time::timeout;

use super::backend::{Backend, Held, Stored};
use super::error::Fault;
use super::inbox::Delivery;
use super::service::SILENCE;
use super::watch::States;
use super::wire::{Answer, Call, decode, encode};
use super::{ChannelError, Entry, Incarnation, Listed, WorkerName};

/// A way to a server: TCP or HTTP.
#[async_trait]
pub(crate) trait ServerLink: fmt::Debug + Send + Sync + 'static {
    fn place(&self) -> &str;

    /// Sends a message and returns the one that answers it.
    async fn call(&self, message: Vec<u8>) -> Result<Vec<u8>, ChannelError>;

    /// Sends a message and returns the stream of those that answer it.
    async fn stream(&self, message: Vec<u8>) -> Result<Box<dyn Messages>, ChannelError>;
}

/// A stream of messages.
#[async_trait]
pub(crate) trait Messages: Send {
    /// The next message. It may be cancelled only if the stream is then dropped.
    async fn next(&mut self) -> Result<Vec<u8>, ChannelError>;
}

/// A server of a hub, by a way to it.
#[derive(Debug)]
pub(crate) struct Remote<C> {
    carrier: Arc<C>,
}

impl<C> Clone for Remote<C> {
    fn clone(&self) -> Self {
        Self { carrier: Arc::clone(&self.carrier) }
    }
}

impl<C: ServerLink> Remote<C> {
    pub(crate) fn new(carrier: C) -> Self {
        Self { carrier: Arc::new(carrier) }
    }

    async fn call(&self, call: &Call) -> Result<Answer, ChannelError> {
        let answer = self.carrier.call(encode(call)?).await?;
        self.read(&answer)
    }

    fn read(&self, message: &[u8]) -> Result<Answer, ChannelError> {
        match decode(message, "an answer")? {
            Answer::Failed { fault } => Err(fault.into_error(self.carrier.place())),
            answer => Ok(answer),
        }
    }

    /// The stream that answers a call. A server that hangs may take the connection and never answer.
    async fn open(&self, call: Vec<u8>) -> Result<Box<dyn Messages>, ChannelError> {
        let lost = || ChannelError::Lost { place: self.carrier.place().to_owned(), source: None };
        timeout(SILENCE, self.carrier.stream(call)).await.unwrap_or_else(|_| Err(lost()))
    }

    /// The next message of a stream, at least a sign that it lives.
    async fn next(&self, stream: &mut Box<dyn Messages>) -> Result<Answer, ChannelError> {
        let place = || self.carrier.place().to_owned();
        match timeout(SILENCE, stream.next()).await {
            Ok(message) => self.read(&message?),
            Err(_) => Err(ChannelError::Lost { place: place(), source: None }),
        }
    }

    async fn follow_stream(&self, name: &WorkerName, states: &States) -> Result<(), ChannelError> {
        let call = encode(&Call::Follow { name: name.clone() })?;
        let mut stream = self.open(call).await?;
        loop {
            match self.next(&mut stream).await? {
                Answer::Entry { entry } => states.report(entry),
                Answer::Alive => {}
                _ => return Err(OTHER),
            }
        }
    }

    async fn serve_stream(
        &self,
        name: &WorkerName,
        incarnation: Incarnation,
        delivery: &Delivery,
    ) -> Result<(), ChannelError> {
        let call = encode(&Call::Serve { name: name.clone(), incarnation })?;
        let mut stream = self.open(call).await?;
        let [places, connections] = [TAKEN, REPLIES].map(|most| Arc::new(Semaphore::new(most)));
        loop {
            match self.next(&mut stream).await? {
                Answer::Alive => delivery.ready(),
                Answer::Delivery { id, from, payload, within_ms } => {
                    let within = Duration::from_millis(within_ms);
                    let place = Arc::clone(&places).try_acquire_owned();
                    let awaited = match &place {
                        Ok(_) => delivery.deliver(from, payload, within, None),
                        Err(_) => Err(ChannelError::Full { what: "the worker".to_owned() }),
                    };
                    let refusal = match &awaited {
                        Ok(_) => None,
                        // More refusals than connections are of a server that lies.
                        Err(_) => match Arc::clone(&connections).try_acquire_owned() {
                            Ok(connection) => Some(connection),
                            Err(_) => continue,
                        },
                    };
                    let (remote, connections) = (self.clone(), Arc::clone(&connections));
                    tokio::spawn(async move {
                        let _place = place;
                        let reply = match awaited {
                            Ok(awaited) => match awaited.within(within).await {
                                Some(reply) => reply,
                                None => return,
                            },
                            Err(error) => Err(error),
                        };
                        let _connection = match refusal {
                            Some(connection) => Ok(connection),
                            None => connections.acquire_owned().await,
                        };
                        let reply = reply.map_err(|error| Fault::of(&error));
                        // A sender whose reply is lost waits until its deadline.
                        let _lost = timeout(SILENCE, remote.call(&Call::Reply { id, reply })).await;
                    });
                }
                _ => return Err(OTHER),
            }
        }
    }
}

/// The most requests of an inbox that are not answered.
const TAKEN: usize = 1024;

/// The most connections for replies at one time.
const REPLIES: usize = 64;

/// A server answered with a message that is none of the call.
const OTHER: ChannelError = ChannelError::Malformed { what: "an answer" };

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

#[async_trait]
impl<C: ServerLink> Backend for Remote<C> {
    fn place(&self) -> &str {
        self.carrier.place()
    }

    async fn put(
        &self,
        entry: &Entry,
        life: Duration,
        held: &mut Held,
    ) -> Result<Duration, ChannelError> {
        let stored = Stored { entry: entry.clone(), edition: held.edition };
        match self.call(&Call::Put { stored, life_ms: millis(life) }).await? {
            // A server that lies makes no busy loop.
            Answer::Life { ms } => Ok(Duration::from_millis(ms.max(30)).min(life)),
            _ => Err(OTHER),
        }
    }

    async fn remove(&self, listed: &Listed, held: &Held) -> Result<(), ChannelError> {
        let call = Call::Remove { listed: listed.clone(), edition: held.edition };
        match self.call(&call).await? {
            Answer::Done => Ok(()),
            _ => Err(OTHER),
        }
    }

    async fn get(&self, name: &WorkerName) -> Result<Option<Entry>, ChannelError> {
        match self.call(&Call::Get { name: name.clone() }).await? {
            Answer::Entry { entry } => Ok(entry),
            _ => Err(OTHER),
        }
    }

    async fn list(&self, prefix: &str) -> Result<Vec<Listed>, ChannelError> {
        match self.call(&Call::List { prefix: prefix.to_owned() }).await? {
            Answer::Listed { listed } => Ok(listed),
            _ => Err(OTHER),
        }
    }

    async fn follow(&self, name: &WorkerName, states: &States) -> ChannelError {
        self.follow_stream(name, states).await.err().unwrap_or(OTHER)
    }

    async fn request(
        &self,
        from: &WorkerName,
        to: &WorkerName,
        payload: Bytes,
        within: Duration,
    ) -> Result<Bytes, ChannelError> {
        let (from, to) = (from.clone(), to.clone());
        let call = Call::Request { from, to, payload, within_ms: millis(within) };
        match self.call(&call).await? {
            Answer::Reply { payload } => Ok(payload),
            _ => Err(OTHER),
        }
    }

    async fn serve(
        &self,
        name: &WorkerName,
        incarnation: Incarnation,
        delivery: &Delivery,
    ) -> ChannelError {
        self.serve_stream(name, incarnation, delivery).await.err().unwrap_or(OTHER)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;
    use crate::channel::ChannelOptions;

    /// A server that takes connections and never answers.
    #[derive(Debug)]
    struct Hanging;

    #[async_trait]
    impl ServerLink for Hanging {
        fn place(&self) -> &str {
            "a server that hangs"
        }

        async fn call(&self, _message: Vec<u8>) -> Result<Vec<u8>, ChannelError> {
            std::future::pending().await
        }

        async fn stream(&self, _message: Vec<u8>) -> Result<Box<dyn Messages>, ChannelError> {
            std::future::pending().await
        }
    }

    /// A server that sends requests without end, and counts the connections for their replies.
    #[derive(Debug, Default)]
    struct Flooding(Arc<Mutex<usize>>);

    struct Flood(usize);

    #[async_trait]
    impl Messages for Flood {
        async fn next(&mut self) -> Result<Vec<u8>, ChannelError> {
            self.0 += 1;
            if self.0 > 10_000 {
                return Err(OTHER);
            }
            let (from, payload) = (WorkerName::new("a")?, Bytes::from_static(b"x"));
            encode(&Answer::Delivery { id: self.0 as u128, from, payload, within_ms: 60_000 })
        }
    }

    #[async_trait]
    impl ServerLink for Flooding {
        fn place(&self) -> &str {
            "a server that floods"
        }

        async fn call(&self, _message: Vec<u8>) -> Result<Vec<u8>, ChannelError> {
            *self.0.lock().unwrap() += 1;
            std::future::pending().await
        }

        async fn stream(&self, _message: Vec<u8>) -> Result<Box<dyn Messages>, ChannelError> {
            Ok(Box::new(Flood(0)))
        }
    }

    #[tokio::test]
    async fn a_server_that_floods_an_inbox_gets_few_connections() {
        let (link, name) = (Flooding::default(), WorkerName::new("w").unwrap());
        let (calls, options) = (Arc::clone(&link.0), Arc::new(ChannelOptions::new()));
        let (delivery, mut requests) = Delivery::new(name.clone(), options);
        let _ended = Remote::new(link).serve(&name, Incarnation::new(1), &delivery).await;
        // Each lets some of the tasks run.
        for _ in 0..1000 {
            tokio::task::yield_now().await;
        }
        assert_eq!(*calls.lock().unwrap(), REPLIES);
        assert!(requests.next().await.is_some());
    }

    #[tokio::test]
    async fn watches_and_inboxes_leave_a_server_that_never_answers() {
        let (remote, options) = (Remote::new(Hanging), Arc::new(ChannelOptions::new()));
        let name = WorkerName::new("w").unwrap();
        let states = States::new(name.clone(), Arc::clone(&options));
        let (delivery, _requests) = Delivery::new(name.clone(), options);
        let both = async {
            tokio::join!(
                remote.follow(&name, &states),
                remote.serve(&name, Incarnation::new(1), &delivery),
            )
        };
        let ended = timeout(SILENCE * 10, both).await;
        let lost = |error: &_| matches!(error, ChannelError::Lost { .. });
        assert!(ended.is_ok_and(|(follow, serve)| lost(&follow) && lost(&serve)));
    }
}
