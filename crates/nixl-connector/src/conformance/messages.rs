//! Conformance of messages: whole, and to their addressee only.

use std::future::poll_fn;
use std::sync::{Arc, Mutex, OnceLock};
use std::task::Poll;
use std::thread;
use std::time::{Duration, Instant};

use nixl_device::locks::lock;
use nixl_metadata::NotificationKey;
use nixl_ops::{
    ConnectionContext, ConnectionExecutor, Execution, Executor, PeerId, PeerService, Received,
    TransferRequest, TransportError, TransportExecutor,
};

use super::Failure;
use super::failure::ensure;
use super::support::{Pair, pattern, patterned, poisoned};
use crate::ConnectorBuilder;

/// Far longer than any message takes.
const PATIENCE: Duration = Duration::from_secs(20);

/// Answered from inside its receipt.
const QUESTION: &[u8] = b"a question";
const ANSWER: &[u8] = b"an answer";

/// Transfers by the transport, keeps the connection's link, collects messages, and answers questions.
#[derive(Debug, Default)]
struct Probe {
    link: OnceLock<ConnectionContext>,
    received: Mutex<Vec<(String, Vec<u8>)>>,
}

/// The probe of a connection.
#[derive(Debug)]
struct Connected(Arc<Probe>);

#[derive(Debug)]
struct Probing(Arc<Probe>);

impl Executor for Probing {
    fn connect(&self, link: ConnectionContext) -> Arc<dyn ConnectionExecutor> {
        // A connection requests it once.
        let _ = self.0.link.set(link);
        Arc::new(Connected(Arc::clone(&self.0)))
    }
}

impl ConnectionExecutor for Connected {
    fn execute(&self, request: TransferRequest<'_>) -> Result<Box<dyn Execution>, TransportError> {
        TransportExecutor.execute(request)
    }

    fn peers(&self) -> Option<&dyn PeerService> {
        Some(self)
    }
}

impl PeerService for Connected {
    fn has_sessions(&self) -> bool {
        true
    }

    fn poll_interval(&self) -> Option<Duration> {
        None
    }

    fn completed_by_slot(&self, _: &NotificationKey) {}

    fn peer_ended(&self, _: &PeerId) {}

    fn receive(&self, from: &str, payload: &[u8]) -> Received {
        if let (QUESTION, Some(link)) = (payload, self.0.link.get()) {
            // An engine may be busy just now: then the question comes again.
            let _ = link.transport().notify(&PeerId::new(from), ANSWER);
        }
        let mut received = lock(&self.0.received);
        received.push((from.to_owned(), payload.to_vec()));
        Received::Taken
    }
}

impl Probe {
    fn link(&self) -> Result<&ConnectionContext, Failure> {
        self.link.get().ok_or_else(|| Failure::new("the connector has not connected the executor"))
    }

    /// Sends, with retries until accepted.
    async fn notify(
        &self,
        peer: &str,
        payload: &[u8],
    ) -> Result<Result<(), TransportError>, Failure> {
        let (transport, peer) = (&self.link()?.transport(), PeerId::new(peer));
        let until = Instant::now() + PATIENCE;
        let sent = poll_fn(|cx| match transport.notify(&peer, payload) {
            Poll::Ready(sent) => Poll::Ready(Ok(sent)),
            Poll::Pending if Instant::now() < until => {
                cx.waker().wake_by_ref();
                Poll::Pending
            }
            Poll::Pending => Poll::Ready(Err(Failure::new("the transport never takes a message"))),
        });
        sent.await
    }

    fn received(&self) -> Vec<(String, Vec<u8>)> {
        lock(&self.received).clone()
    }
}

async fn probed(builders: [ConnectorBuilder; 2]) -> Result<(Pair, [Arc<Probe>; 2]), Failure> {
    let probes = [Arc::<Probe>::default(), Arc::default()];
    let [target, initiator] = builders;
    let with = |builder: ConnectorBuilder, probe: &Arc<Probe>| {
        builder.executor(Arc::new(Probing(Arc::clone(probe)))).build()
    };
    let target = with(target, &probes[0]).await?;
    let initiator = with(initiator, &probes[1]).await?;
    Ok((Pair { target, initiator }, probes))
}

pub(super) async fn arrive(builders: [ConnectorBuilder; 2]) -> Result<(), Failure> {
    let (pair, [target, initiator]) = probed(builders).await?;
    // Connects to the peer.
    let mut offer = pair.target.create_readable(patterned(1, 64)?).await?;
    let mut read = pair.initiator.begin_read(offer.metadata(), poisoned(64)?).await?;
    read.wait_for_completion().await?;
    offer.wait_for_completion().await?;

    let messages: Vec<_> =
        [1, 35, 36, 37, 1000, 8192, 65_536].iter().map(|len| pattern(*len as u64, *len)).collect();
    for message in &messages {
        initiator.notify(pair.target.name(), message).await??;
    }
    let until = Instant::now() + PATIENCE;
    while target.received().len() < messages.len() && Instant::now() < until {
        thread::sleep(Duration::from_millis(1));
    }
    let mut received = target.received();
    ensure(received.iter().all(|(from, _)| from == pair.initiator.name()), "the sender is named")?;
    received.sort_by_key(|(_, payload)| payload.len());
    ensure(
        received.iter().map(|(_, payload)| payload).eq(&messages),
        "every message arrives once and whole",
    )?;
    ensure(initiator.received().is_empty(), "no other peer gets them")
}

/// The receipt of a message, which runs inside the transport's look at what has arrived, sends another.
pub(super) async fn answered(builders: [ConnectorBuilder; 2]) -> Result<(), Failure> {
    let (pair, [target, initiator]) = probed(builders).await?;
    // Each connects to the other.
    for (owner, reader) in [(&pair.target, &pair.initiator), (&pair.initiator, &pair.target)] {
        let mut offer = owner.create_readable(patterned(1, 64)?).await?;
        let mut read = reader.begin_read(offer.metadata(), poisoned(64)?).await?;
        read.wait_for_completion().await?;
        offer.wait_for_completion().await?;
    }
    let until = Instant::now() + PATIENCE;
    let is_answer =
        |(from, payload): &(String, Vec<u8>)| from == pair.target.name() && payload == ANSWER;
    let mut asked = 0;
    while !initiator.received().iter().any(is_answer) {
        ensure(Instant::now() < until, "a message can be answered from inside its receipt")?;
        // The one before has been received, and its answer is not to be had.
        if target.received().len() == asked {
            initiator.notify(pair.target.name(), QUESTION).await??;
            asked += 1;
        }
        thread::sleep(Duration::from_millis(1));
    }
    Ok(())
}

pub(super) async fn to_unknown_peer(builders: [ConnectorBuilder; 2]) -> Result<(), Failure> {
    let (pair, [target, _]) = probed(builders).await?;
    let sent = target.notify(pair.initiator.name(), b"x").await?;
    let unknown = TransportError::UnknownPeer { name: pair.initiator.name().to_owned() };
    ensure(sent == Err(unknown), "a message to an unknown peer is refused")?;
    ensure(pair.target.stats().active() == 0, "nothing is left over")
}
