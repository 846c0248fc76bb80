//! A connect in progress: the peer's metadata is loaded on the connection's blocking thread.

use std::sync::{Arc, Mutex};
use std::task::Poll;
use std::time::Duration;

use nixl_device::locks::lock;
use nixl_metadata::{AgentMetadata, Limits};
use nixl_ops::{ConnectSpec, ConnectionContext, PeerId, TransportError};

/// A connect to a peer in progress.
pub(super) struct PendingConnect {
    peer: PeerId,
    metadata: AgentMetadata,
    state: State,
}

enum State {
    Asked(Arc<Answer>),
    /// Transfers with what was known of the peer before are in flight; ask again then.
    Busy(Duration),
}

type Answer = Mutex<Option<Result<(), TransportError>>>;

impl PendingConnect {
    /// How long until a busy peer is tried again.
    const RETRY: Duration = Duration::from_millis(1);
    /// The longest metadata. What is within the longest message, and no bomb, inflates to less.
    const INFLATED: usize = 4 << 20;

    /// Meets the peer, whose metadata this is.
    pub(super) fn begin(link: &ConnectionContext, peer: PeerId, metadata: AgentMetadata) -> Self {
        let state = State::Asked(ask(link, &peer, &metadata));
        Self { peer, metadata, state }
    }

    pub(super) fn poll(
        &mut self,
        link: &ConnectionContext,
        now: Duration,
    ) -> Poll<Result<(), TransportError>> {
        match &self.state {
            State::Busy(until) if now < *until => {}
            State::Busy(_) => self.state = State::Asked(ask(link, &self.peer, &self.metadata)),
            State::Asked(answer) => {
                let answer = lock(answer).take();
                match answer {
                    Some(Err(TransportError::PeerBusy { .. })) => {
                        self.state = State::Busy(now.saturating_add(Self::RETRY));
                    }
                    Some(answer) => return Poll::Ready(answer),
                    None => {}
                }
            }
        }
        Poll::Pending
    }
}

fn ask(link: &ConnectionContext, peer: &PeerId, metadata: &AgentMetadata) -> Arc<Answer> {
    let answer = Arc::new(Answer::default());
    let (transport, metadata) = (Arc::clone(link.transport()), metadata.clone());
    let sender = peer.clone();
    let mailboxes = Arc::clone(link.mailboxes());
    let (reply, waker) = (Arc::clone(&answer), link.waker().clone());
    let is_queued = link.background().run_for_peer(Box::new(move || {
        let connected =
            match metadata.inflate(&Limits::default().inflated_bytes(PendingConnect::INFLATED)) {
                Ok(blob) => transport
                    .connect_for(&ConnectSpec::new(&blob).introduced_by(sender.as_str()))
                    .map(drop),
                Err(error) => Err(TransportError::BadMetadata { reason: error.into() }),
            };
        if connected.is_ok() {
            mailboxes.introduced(&sender);
        }
        *lock(&reply) = Some(connected);
        waker.wake();
    }));
    if !is_queued {
        // As if it were busy: it is asked again, as long as the transfer has time.
        let busy = TransportError::PeerBusy { name: peer.to_string() };
        *lock(&answer) = Some(Err(busy));
        link.waker().wake_by_ref();
    }
    answer
}
