//! The initiator's side of claims by messages.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use nixl_metadata::NotificationKey;

use super::message::{ControlMessage, ControlVerb};
use crate::{
    Clock, CompletionMode, EndedOffer, Execution, OfferSpec, PeerId, PeerMemory, SpentKeys,
    Transport, TransportError, forward_execution,
};

/// The claims of one connection.
#[derive(Debug, Default)]
pub(crate) struct Claims {
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    by_key: HashMap<NotificationKey, State>,
    /// Of writes that are in flight and that no operation waits for.
    in_flight: BoundedSet,
    /// Of writes whose requests have ended without success.
    write_ended: BoundedSet,
    /// Of which this side has said that it is not writing, nor will.
    disowned: BoundedSet,
    /// Owners that know this side, and since when by their clocks.
    known_since: HashMap<PeerId, u64>,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum State {
    Waiting,
    Granted,
    Refused(EndedOffer),
}

/// What a message of an owner comes to.
#[derive(Debug)]
pub(crate) enum ControlOutcome {
    /// It is about nothing here.
    Nothing,
    Taken,
    /// It is answered with this.
    Answer(Vec<u8>),
}

impl Claims {
    /// Whether an answer or a query is expected.
    pub(crate) fn are_open(&self) -> bool {
        !self.lock().by_key.is_empty()
    }

    /// A message of the owner.
    pub(crate) fn receive(
        &self,
        from: &str,
        message: &ControlMessage<'_>,
        unix_time: Duration,
    ) -> ControlOutcome {
        let &ControlMessage { key, token, verb } = message;
        let text = std::str::from_utf8(key).ok();
        let Some(key) = text.and_then(|text| NotificationKey::new(text).ok()) else {
            return ControlOutcome::Nothing;
        };
        let mut inner = self.lock();
        let is_in_flight = inner.in_flight.contains(&key);
        let has_ended = inner.write_ended.contains(&key);
        let state = inner.by_key.get_mut(&key);
        let answer = match (verb, state) {
            (ControlVerb::Granted { known_since }, Some(state)) if *state == State::Waiting => {
                *state = State::Granted;
                inner.note_known(from, known_since);
                return ControlOutcome::Taken;
            }
            (ControlVerb::Refused(why), Some(state)) if *state == State::Waiting => {
                *state = State::Refused(why);
                return ControlOutcome::Taken;
            }
            (ControlVerb::Query, Some(State::Granted)) => ControlVerb::Writing,
            (ControlVerb::Query, _) if is_in_flight => ControlVerb::Writing,
            (ControlVerb::Query, _) if has_ended => ControlVerb::WriteEnded,
            (ControlVerb::Query, Some(state)) => {
                // It has not begun, and does not begin any more.
                *state = State::Refused(EndedOffer::Revoked);
                ControlVerb::NotWriting
            }
            (ControlVerb::Query, None) => ControlVerb::NotWriting,
            _ => return ControlOutcome::Nothing,
        };
        if answer == ControlVerb::NotWriting {
            inner.disowned.insert(&key);
            drop(inner);
            let until = unix_time.saturating_add(OfferSpec::LIFE_TIME);
            SpentKeys::of_this_process().disown(&key, (unix_time, until));
        }
        ControlOutcome::Answer(ControlMessage { key: key.as_bytes(), token, verb: answer }.encode())
    }

    /// Whether the owner asks this side before it takes for granted that an offer, made at that time by its clock, is not being
    /// written by it.
    pub(crate) fn is_known(&self, owner: &PeerId, made_unix_millis: u64) -> bool {
        self.lock().known_since.get(owner).is_some_and(|since| *since < made_unix_millis)
    }

    fn note_in_flight(&self, key: &NotificationKey) {
        self.lock().in_flight.insert(key);
    }

    fn note_write_ended(&self, key: &NotificationKey) {
        self.lock().write_ended.insert(key);
    }

    /// Notes that an offer is being written without a claim.
    fn write(&self, key: &NotificationKey) -> Result<(), TransportError> {
        let mut inner = self.lock();
        if inner.disowned.contains(key) {
            return Err(ended(EndedOffer::Revoked));
        }
        inner.by_key.insert(key.clone(), State::Granted);
        Ok(())
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The latest keys, 65,536 at most.
#[derive(Debug, Default)]
struct BoundedSet {
    keys: HashSet<NotificationKey>,
    order: VecDeque<NotificationKey>,
}

impl BoundedSet {
    const MOST: usize = 1 << 16;

    fn insert(&mut self, key: &NotificationKey) {
        if self.keys.insert(key.clone()) {
            self.order.push_back(key.clone());
        }
        if self.order.len() > Self::MOST
            && let Some(oldest) = self.order.pop_front()
        {
            self.keys.remove(&oldest);
        }
    }

    fn contains(&self, key: &NotificationKey) -> bool {
        self.keys.contains(key)
    }
}

impl Inner {
    /// Owners that are remembered at most; of one that is not, every offer is claimed.
    const OWNERS: usize = 4096;

    fn note_known(&mut self, owner: &str, since: u64) {
        if self.known_since.len() >= Self::OWNERS {
            self.known_since.clear();
        }
        // The first time counts: the owner has asked this side about offers since then.
        self.known_since.entry(PeerId::new(owner)).or_insert(since);
    }
}

/// An execution that writes to an offer once its owner has granted the claim, or without one, as one that the owner asks about.
#[allow(missing_debug_implementations, reason = "executions have none")]
pub(crate) struct MessageClaim {
    execution: Box<dyn Execution>,
    claims: Arc<Claims>,
    transport: Arc<dyn Transport>,
    peer: PeerId,
    clock: Arc<dyn Clock>,
    key: NotificationKey,
    token: u64,
    /// How the owner reaches this side.
    metadata: Bytes,
    stage: Stage,
    /// The execution was polled.
    begun: bool,
    /// The owner knows this side and demands no claim.
    is_known: bool,
}

#[derive(Clone, Copy, Eq, PartialEq)]
enum Stage {
    Unsent,
    Waiting { since: Duration, sent: Duration },
    Granted,
    Ended,
}

/// Where a claim goes, and what it says of this side.
pub(crate) struct ClaimRoute {
    pub(crate) transport: Arc<dyn Transport>,
    pub(crate) peer: PeerId,
    pub(crate) metadata: Bytes,
}

impl MessageClaim {
    /// A claim that is not answered is repeated after this long.
    const REPEAT: Duration = Duration::from_millis(250);
    /// A claim that is not answered fails after this long.
    const PATIENCE: Duration = Duration::from_secs(10);

    pub(crate) fn before(
        execution: Box<dyn Execution>,
        claims: Arc<Claims>,
        clock: Arc<dyn Clock>,
        (key, token): (NotificationKey, u64),
        route: ClaimRoute,
        is_known: bool,
    ) -> Box<dyn Execution> {
        let ClaimRoute { transport, peer, metadata } = route;
        Box::new(Self {
            execution,
            claims,
            transport,
            peer,
            clock,
            key,
            token,
            metadata,
            stage: Stage::Unsent,
            begun: false,
            is_known,
        })
    }

    /// Whether the owner has granted the claim.
    fn claim(&mut self) -> Poll<Result<(), TransportError>> {
        if self.stage == Stage::Unsent && self.is_known {
            self.claims.write(&self.key)?;
            self.stage = Stage::Granted;
        }
        let now = self.clock.now();
        if self.stage == Stage::Unsent {
            self.claims.lock().by_key.insert(self.key.clone(), State::Waiting);
            self.stage = Stage::Waiting { since: now, sent: now };
            return self.send(now, now);
        }
        let Stage::Waiting { since, sent } = self.stage else { return Poll::Ready(Ok(())) };
        let state = self.claims.lock().by_key.get(&self.key).copied();
        match state {
            Some(State::Granted) => {
                self.stage = Stage::Granted;
                return Poll::Ready(Ok(()));
            }
            Some(State::Refused(why)) => return Poll::Ready(Err(ended(why))),
            Some(State::Waiting) | None => {}
        }
        if now.saturating_sub(since) >= Self::PATIENCE {
            return Poll::Ready(Err(ended(EndedOffer::Unanswered)));
        }
        match now.saturating_sub(sent) >= Self::REPEAT {
            true => self.send(since, now),
            false => Poll::Pending,
        }
    }

    fn send(&mut self, since: Duration, now: Duration) -> Poll<Result<(), TransportError>> {
        let verb = ControlVerb::Claim { metadata: &self.metadata };
        match self.tell(verb) {
            Poll::Ready(Ok(())) => {
                self.stage = Stage::Waiting { since, sent: now };
                Poll::Pending
            }
            Poll::Ready(Err(error)) => Poll::Ready(Err(error)),
            // Now is the earliest time for the next try.
            Poll::Pending => {
                let sent = now.saturating_sub(Self::REPEAT);
                self.stage = Stage::Waiting { since, sent };
                Poll::Pending
            }
        }
    }

    fn tell(&self, verb: ControlVerb<'_>) -> Poll<Result<(), TransportError>> {
        let message = ControlMessage { key: self.key.as_bytes(), token: self.token, verb };
        self.transport.notify(&self.peer, &message.encode())
    }

    /// Nothing of the operation is in flight, and it was not a success.
    fn give_up(&mut self) {
        let before = std::mem::replace(&mut self.stage, Stage::Ended);
        if before == Stage::Unsent || before == Stage::Ended {
            return;
        }
        let touched = self.begun && !self.execution.peer_memory().is_quiet();
        if touched {
            self.claims.note_write_ended(&self.key);
        }
        self.claims.lock().by_key.remove(&self.key);
        if !touched {
            // If it cannot be sent now, the owner asks.
            let _ = self.tell(ControlVerb::NotWriting);
        }
    }

    fn succeed(&mut self) {
        self.stage = Stage::Ended;
        self.claims.lock().by_key.remove(&self.key);
    }
}

#[deny(clippy::missing_trait_methods, reason = "a wrapper forwards every method")]
impl Execution for MessageClaim {
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), TransportError>> {
        if self.stage != Stage::Granted
            && let Err(error) = ready!(self.claim())
        {
            self.give_up();
            return Poll::Ready(Err(error));
        }
        self.begun = true;
        let result = ready!(self.execution.poll(cx));
        match &result {
            Ok(()) => self.succeed(),
            Err(_) => self.give_up(),
        }
        Poll::Ready(result)
    }

    fn abandon(&mut self) -> bool {
        let quiet = self.stage != Stage::Granted || self.execution.abandon();
        if quiet {
            self.give_up();
        }
        quiet
    }

    fn expected(&self) -> Option<Duration> {
        // The claim comes first.
        None
    }

    fn completion_mode(&self) -> CompletionMode {
        match self.begun {
            true => self.execution.completion_mode(),
            false => CompletionMode::Polled,
        }
    }

    fn awaits_notification(&self) -> bool {
        self.stage != Stage::Granted || self.execution.awaits_notification()
    }

    fn posts_quickly(&self) -> bool {
        false
    }

    fn steps(&self) -> u64 {
        self.execution.steps() + u64::from(self.stage == Stage::Granted)
    }

    fn peer_memory(&self) -> PeerMemory {
        match self.begun {
            false => PeerMemory::UNTOUCHED,
            true => self.execution.peer_memory(),
        }
    }

    forward_execution! { execution: report takes_turns target_told }
}

impl Drop for MessageClaim {
    fn drop(&mut self) {
        if self.stage != Stage::Ended && !self.abandon() {
            // In flight, and nothing waits for its end: the owner needs another proof than this side's message.
            self.claims.note_in_flight(&self.key);
            self.claims.lock().by_key.remove(&self.key);
        }
    }
}

fn ended(why: EndedOffer) -> TransportError {
    TransportError::OfferEnded { why }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn the_owner_is_told_what_has_become_of_a_write() {
        let claims = Claims::default();
        let answer = |claims: &Claims, key: &NotificationKey| {
            let query = ControlMessage { key: key.as_bytes(), token: 7, verb: ControlVerb::Query };
            let ControlOutcome::Answer(bytes) =
                claims.receive("owner", &query, Duration::from_secs(9))
            else {
                panic!("a query is answered");
            };
            let answer = ControlMessage::decode(&bytes).unwrap();
            assert_eq!((answer.key, answer.token), (key.as_bytes(), 7));
            match answer.verb {
                ControlVerb::Writing => "writing",
                ControlVerb::WriteEnded => "ended",
                ControlVerb::NotWriting => "not writing",
                other => panic!("{other:?}"),
            }
        };
        let [granted, flying, failed, unknown] = [(); 4].map(|()| NotificationKey::random());
        claims.write(&granted).unwrap();
        claims.note_in_flight(&flying);
        claims.note_write_ended(&failed);
        assert_eq!(answer(&claims, &granted), "writing");
        assert_eq!(answer(&claims, &flying), "writing");
        assert_eq!(answer(&claims, &failed), "ended");
        assert_eq!(answer(&claims, &unknown), "not writing");
        assert!(claims.write(&unknown).is_err(), "it keeps its word");
    }
}
