//! A connect in progress: the peer's metadata is loaded on the connection's blocking thread.

use std::sync::{Arc, Mutex, PoisonError};
use std::task::Poll;
use std::time::Duration;

use nixl_metadata::{AgentMetadata, Limits};
use nixl_ops::{ConnectSpec, ConnectionContext, PeerId, TransportError};

/// A connect to a peer in progress.
pub(super) struct PendingConnect {
    metadata: AgentMetadata,
    state: State,
}

enum State {
    Asked(Arc<Answer>),
    /// Transfers with what was known of the peer before are in flight; ask again then.
    Busy(Duration),
}

type Answer = Mutex<Option<Result<PeerId, TransportError>>>;

impl PendingConnect {
    /// How long until a busy peer is tried again.
    const RETRY: Duration = Duration::from_millis(1);
    /// The longest metadata. What is within the longest message, and no bomb, inflates to less.
    const INFLATED: usize = 4 << 20;

    pub(super) fn begin(link: &ConnectionContext, metadata: AgentMetadata) -> Self {
        let state = State::Asked(ask(link, &metadata));
        Self { metadata, state }
    }

    pub(super) fn poll(
        &mut self,
        link: &ConnectionContext,
        now: Duration,
    ) -> Poll<Result<PeerId, TransportError>> {
        match &self.state {
            State::Busy(until) if now < *until => {}
            State::Busy(_) => self.state = State::Asked(ask(link, &self.metadata)),
            State::Asked(answer) => {
                let answer = answer.lock().unwrap_or_else(PoisonError::into_inner).take();
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

fn ask(link: &ConnectionContext, metadata: &AgentMetadata) -> Arc<Answer> {
    let answer = Arc::new(Answer::default());
    let (transport, metadata) = (Arc::clone(&link.transport), metadata.clone());
    let (reply, waker) = (Arc::clone(&answer), link.waker.clone());
    link.background.run(Box::new(move || {
        let connected =
            match metadata.inflate(&Limits::default().inflated_bytes(PendingConnect::INFLATED)) {
                Ok(blob) => transport
                    .connect_for(&ConnectSpec::new(&blob).introduced())
                    .map(|connected| connected.peer),
                Err(error) => Err(TransportError::BadMetadata { reason: error.to_string() }),
            };
        *reply.lock().unwrap_or_else(PoisonError::into_inner) = Some(connected);
        waker.wake();
    }));
    answer
}
