//! The owner's side of claims by messages.

use std::sync::Arc;
use std::task::Poll;

use bytes::Bytes;
use nixl_metadata::{AgentMetadata, Limits};

use super::budget::Budget;
use super::message::{ControlMessage, ControlVerb};
use crate::passive::PassiveTable;
use crate::{BlockingThread, ConnectSpec, EndedOffer, Mailboxes, PeerId, Transport};

/// Answers claims of one connection's offers. Answers are sent on the connection's blocking thread, since the initiator may have
/// to be met first.
#[derive(Clone, Debug)]
pub(crate) struct Owner {
    pub(super) transport: Arc<dyn Transport>,
    pub(super) background: Arc<dyn BlockingThread>,
    /// Of claimants on this host.
    mailboxes: Option<Arc<Mailboxes>>,
    /// Of answers that wait for the blocking thread.
    budget: Arc<Budget>,
}

impl Owner {
    pub(crate) fn new(
        transport: Arc<dyn Transport>,
        background: Arc<dyn BlockingThread>,
        mailboxes: Option<Arc<Mailboxes>>,
    ) -> Self {
        Self { transport, background, mailboxes, budget: Arc::default() }
    }

    /// Returns whether the message is about an offer here, and is taken.
    pub(crate) fn receive(
        &self,
        table: &Arc<PassiveTable>,
        from: &str,
        message: &ControlMessage<'_>,
    ) -> bool {
        let &ControlMessage { key, token, verb } = message;
        match verb {
            ControlVerb::Claim { metadata } => {
                let result =
                    table.entry_with(key, token).and_then(|entry| entry.claim_by_message(from));
                let verb = match result {
                    Ok(()) => ControlVerb::Granted { known_since: table.claimed_by(from) },
                    // A stranger is neither met nor answered.
                    Err(EndedOffer::WrongToken) => {
                        tracing::debug!(from, "a claim with a wrong token");
                        return false;
                    }
                    Err(why) => ControlVerb::Refused(why),
                };
                if !table.may_introduce(key, from) {
                    tracing::debug!(
                        from,
                        "a claim in the name of one agent more than the offer has readers"
                    );
                    return false;
                }
                let answer = ControlMessage { key, token, verb }.encode();
                self.answer(from, metadata, answer)
            }
            ControlVerb::NotWriting => {
                let entry = table.entry_with(key, token);
                entry.map(|entry| entry.is_not_written_by(from)).is_ok()
            }
            ControlVerb::WriteEnded => {
                table.entry_with(key, token).map(|entry| entry.write_of_agent_ended(from)).is_ok()
            }
            ControlVerb::Decline => {
                table.entry_with(key, token).map(|entry| entry.declined(from)).is_ok()
            }
            ControlVerb::Renew => table.renew(key, token),
            ControlVerb::Writing => true,
            // About no offer.
            ControlVerb::Leaving
            | ControlVerb::OfGrant
            | ControlVerb::Notification { .. }
            | ControlVerb::Watch { .. } => false,
            // For the initiator's side.
            ControlVerb::Granted { .. }
            | ControlVerb::Refused(_)
            | ControlVerb::Query
            | ControlVerb::LayersReady { .. } => false,
        }
    }

    /// Queries the agents of offers that were given up: are they writing?
    pub(crate) fn query(&self, table: &PassiveTable) {
        for (entry, agent) in table.wanted_words() {
            let Some(token) = entry.token() else { continue };
            let key = entry.key().as_bytes();
            let query = ControlMessage { key, token, verb: ControlVerb::Query }.encode();
            // Queried again at the next poll.
            let _ = self.transport.notify(&PeerId::new(agent), &query);
        }
    }

    /// Returns whether it will be answered. If not, the initiator repeats it.
    fn answer(&self, to: &str, metadata: &[u8], answer: Vec<u8>) -> bool {
        self.answer_with(to, metadata, move || answer)
    }

    /// As [`answer`](Self::answer), with what `answer` is by the time it is sent.
    pub(super) fn answer_with(
        &self,
        to: &str,
        metadata: &[u8],
        answer: impl FnOnce() -> Vec<u8> + Send + 'static,
    ) -> bool {
        let Some(permit) = self.budget.take(to, metadata.len().saturating_add(Self::ANSWER)) else {
            tracing::debug!(to, "more claims than this side answers at once");
            return false;
        };
        let (transport, peer) = (Arc::clone(&self.transport), PeerId::new(to));
        let mailboxes = self.mailboxes.clone();
        let metadata = Bytes::copy_from_slice(metadata);
        let is_queued = self.background.run_for_peer(Box::new(move || {
            let _permit = permit;
            let limits = Limits::default().inflated_bytes(Self::INFLATED);
            let blob = AgentMetadata::from_compressed(metadata, &limits)
                .and_then(|metadata| metadata.inflate(&limits));
            let met = match blob {
                Ok(blob) => {
                    let spec = ConnectSpec::new(&blob).needing(&[]).introduced_by(peer.as_str());
                    transport.connect_for(&spec).map_err(|e| e.to_string())
                }
                Err(error) => Err(error.to_string()),
            };
            if let Err(error) = met {
                return tracing::debug!(error, "a claimant cannot be reached");
            }
            mailboxes.into_iter().for_each(|mailboxes| mailboxes.introduced(&peer));
            let answer = answer();
            for _ in 0..Self::TRIES {
                match transport.notify(&peer, &answer) {
                    Poll::Pending => std::thread::yield_now(),
                    Poll::Ready(Ok(())) => return,
                    Poll::Ready(Err(error)) => {
                        return tracing::debug!(%error, "a claim cannot be answered");
                    }
                }
            }
        }));
        if !is_queued {
            tracing::debug!(to, "more claims than the connection's thread answers at once");
        }
        is_queued
    }

    /// An answer has fewer bytes.
    const ANSWER: usize = 300;

    /// The longest metadata of a claimant.
    const INFLATED: usize = 4 << 20;

    /// The initiator repeats a claim that is not answered.
    const TRIES: usize = 1000;
}
