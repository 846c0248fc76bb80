//! The initiator's side of claims by messages.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use nixl_device::locks::lock;
use nixl_metadata::NotificationKey;

use super::message::{ControlMessage, ControlVerb};
use super::owners::Owners;
use crate::clock::millis;
use crate::{
    Clock, CompletionMode, EndedOffer, Execution, OfferSpec, PeerId, PeerMemory, Transport,
    TransportError, forward_execution,
};

/// The claims of one connection.
#[derive(Debug, Default)]
pub(crate) struct Claims {
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    by_key: HashMap<NotificationKey, Write>,
    /// Of writes that are in flight and that no operation waits for.
    in_flight: BoundedSet,
    /// Of writes whose requests have ended without success.
    write_ended: BoundedSet,
    /// Those that this side has declined to write.
    disowned: BoundedSet,
    /// Offers that were made earlier, in milliseconds since 1970, are claimed: one of them may have been disowned, and the set has
    /// lost its key since.
    disowned_until: u64,
    owners: Owners,
}

/// A write to an offer.
#[derive(Debug)]
struct Write {
    /// The queried agent, whose answer counts.
    owner: PeerId,
    state: State,
    /// The time of the first query.
    asked: Duration,
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

    /// An owner has ended.
    pub(crate) fn forget(&self, owner: &PeerId) {
        self.lock().owners.forget(owner.as_str());
    }

    /// A message of an owner. Only owners that this side has sent a claim to have a reason to send any.
    pub(crate) fn receive(
        &self,
        from: &str,
        message: &ControlMessage<'_>,
        clock: &dyn Clock,
    ) -> ControlOutcome {
        let &ControlMessage { key, token, verb } = message;
        let text = std::str::from_utf8(key).ok();
        let Some(key) = text.and_then(|text| NotificationKey::new(text).ok()) else {
            return ControlOutcome::Nothing;
        };
        let mut inner = self.lock();
        if !inner.owners.were_asked(from) {
            return ControlOutcome::Nothing;
        }
        let is_in_flight = inner.in_flight.contains(&key);
        let has_ended = inner.write_ended.contains(&key);
        let write = inner.by_key.get_mut(&key);
        if write.as_ref().is_some_and(|write| write.owner.as_str() != from) {
            return ControlOutcome::Nothing;
        }
        let answer = match (verb, write) {
            (ControlVerb::Granted { known_since }, Some(write))
                if write.state == State::Waiting =>
            {
                write.state = State::Granted;
                let asked = write.asked;
                inner.owners.note_granted(from, known_since, asked);
                return ControlOutcome::Taken;
            }
            (ControlVerb::Refused(why), Some(write)) if write.state == State::Waiting => {
                write.state = State::Refused(why);
                return ControlOutcome::Taken;
            }
            (ControlVerb::Query, Some(write)) if write.state == State::Granted => {
                ControlVerb::Writing
            }
            (ControlVerb::Query, _) if is_in_flight => ControlVerb::Writing,
            (ControlVerb::Query, _) if has_ended => ControlVerb::WriteEnded,
            (ControlVerb::Query, Some(write)) => {
                // It has not begun, and does not begin any more.
                write.state = State::Refused(EndedOffer::Revoked);
                ControlVerb::NotWriting
            }
            (ControlVerb::Query, None) => ControlVerb::NotWriting,
            _ => return ControlOutcome::Nothing,
        };
        if answer == ControlVerb::NotWriting && inner.disowned.insert(&key) {
            // The owner's clock may be ahead.
            let ahead = clock.unix_time().saturating_add(OfferSpec::LIFE_TIME);
            inner.disowned_until = millis(ahead);
        }
        ControlOutcome::Answer(ControlMessage { key: key.as_bytes(), token, verb: answer }.encode())
    }

    /// Whether the owner asks this side before it takes for granted that an offer, made at that time by its clock, is not being
    /// written by it.
    pub(crate) fn is_known(&self, owner: &PeerId, made_unix_millis: u64, now: Duration) -> bool {
        let inner = self.lock();
        made_unix_millis > inner.disowned_until
            && inner.owners.know(owner.as_str(), made_unix_millis, now)
    }

    fn note_in_flight(&self, key: &NotificationKey) {
        self.lock().in_flight.insert(key);
    }

    fn note_write_ended(&self, key: &NotificationKey) {
        self.lock().write_ended.insert(key);
    }

    /// Notes that an offer is being written without a claim.
    fn write(&self, key: &NotificationKey, owner: &PeerId) -> Result<(), TransportError> {
        let mut inner = self.lock();
        if inner.disowned.contains(key) {
            return Err(ended(EndedOffer::Revoked));
        }
        let write = Write { owner: owner.clone(), state: State::Granted, asked: Duration::ZERO };
        inner.by_key.insert(key.clone(), write);
        Ok(())
    }

    /// Notes that a claim of an offer is about to be sent to the owner.
    fn ask(&self, key: &NotificationKey, owner: &PeerId, now: Duration) {
        let mut inner = self.lock();
        inner.owners.note_asked(owner.as_str());
        let write = Write { owner: owner.clone(), state: State::Waiting, asked: now };
        inner.by_key.insert(key.clone(), write);
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        lock(&self.inner)
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

    /// Returns whether the oldest had to make room.
    fn insert(&mut self, key: &NotificationKey) -> bool {
        if self.keys.insert(key.clone()) {
            self.order.push_back(key.clone());
        }
        if self.order.len() > Self::MOST
            && let Some(oldest) = self.order.pop_front()
        {
            self.keys.remove(&oldest);
            return true;
        }
        false
    }

    fn contains(&self, key: &NotificationKey) -> bool {
        self.keys.contains(key)
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
    /// The owner has this side's identity and demands no claim.
    is_known: bool,
}

#[derive(Clone, Copy, Eq, PartialEq)]
enum Stage {
    Unsent,
    Waiting { since: Duration, sent: Duration },
    Granted,
    Ended,
}

/// The destination of a claim, and its identity of this side.
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
            self.claims.write(&self.key, &self.peer)?;
            self.stage = Stage::Granted;
        }
        let now = self.clock.now();
        if self.stage == Stage::Unsent {
            self.claims.ask(&self.key, &self.peer, now);
            self.stage = Stage::Waiting { since: now, sent: now };
            return self.send(now, now);
        }
        let Stage::Waiting { since, sent } = self.stage else { return Poll::Ready(Ok(())) };
        let state = self.claims.lock().by_key.get(&self.key).map(|write| write.state);
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
            // If it cannot be sent now, the owner requests it.
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
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;
    use crate::SystemClock;

    /// An initiator, and its clock.
    struct World(Claims, SystemClock);

    impl World {
        fn new() -> Self {
            Self(Claims::default(), SystemClock::new())
        }

        fn hear(&self, from: &str, key: &NotificationKey, verb: ControlVerb<'_>) -> ControlOutcome {
            let message = ControlMessage { key: key.as_bytes(), token: 7, verb };
            self.0.receive(from, &message, &self.1)
        }

        /// What the owner is answered.
        fn answer(&self, from: &str, key: &NotificationKey) -> Option<&'static str> {
            let ControlOutcome::Answer(bytes) = self.hear(from, key, ControlVerb::Query) else {
                return None;
            };
            let answer = ControlMessage::decode(&bytes)?;
            assert_eq!((answer.key, answer.token), (key.as_bytes(), 7));
            Some(match answer.verb {
                ControlVerb::Writing => "writing",
                ControlVerb::WriteEnded => "ended",
                ControlVerb::NotWriting => "not writing",
                other => panic!("{other:?}"),
            })
        }

        /// Sends the owner the claim of an offer.
        fn ask(&self, owner: &str) -> NotificationKey {
            let key = NotificationKey::random();
            self.0.ask(&key, &PeerId::new(owner), self.1.now());
            key
        }

        fn is_known(&self, owner: &str, made_unix_millis: u64) -> bool {
            self.0.is_known(&PeerId::new(owner), made_unix_millis, self.1.now())
        }

        fn soon(&self) -> u64 {
            millis(self.1.unix_time()) + 1000
        }
    }

    #[test]
    fn the_owner_is_told_what_has_become_of_a_write() {
        let world = World::new();
        let (claims, owner) = (&world.0, PeerId::new("owner"));
        world.ask("owner");
        let [granted, flying, failed, unknown] = [(); 4].map(|()| NotificationKey::random());
        claims.write(&granted, &owner).unwrap();
        claims.note_in_flight(&flying);
        claims.note_write_ended(&failed);
        let answer = |key| world.answer("owner", key).unwrap();
        assert_eq!(answer(&granted), "writing");
        assert_eq!(answer(&flying), "writing");
        assert_eq!(answer(&failed), "ended");
        assert_eq!(answer(&unknown), "not writing");
        assert!(claims.write(&unknown, &owner).is_err(), "it keeps its word");
    }

    #[test]
    fn an_answer_counts_for_the_owner_that_was_asked_alone() {
        let world = World::new();
        world.ask("victim");
        let key = world.ask("owner");
        let granted = ControlVerb::Granted { known_since: 0 };
        assert!(matches!(world.hear("victim", &key, granted), ControlOutcome::Nothing));
        let refused = ControlVerb::Refused(EndedOffer::Used);
        assert!(matches!(world.hear("victim", &key, refused), ControlOutcome::Nothing));
        assert_eq!(world.answer("victim", &key), None);
        assert!(!world.is_known("victim", world.soon()) && !world.is_known("owner", world.soon()));
        assert!(matches!(world.hear("owner", &key, granted), ControlOutcome::Taken));
        assert!(world.is_known("owner", world.soon()) && !world.is_known("victim", world.soon()));
    }

    #[test]
    fn a_stranger_gets_no_answer_and_leaves_nothing() {
        let world = World::new();
        world.ask("owner");
        for _ in 0..100 {
            assert_eq!(world.answer("stranger", &NotificationKey::random()), None);
        }
        assert!(world.0.lock().disowned.order.is_empty());
    }

    #[test]
    fn offers_of_which_it_may_have_forgotten_that_it_disowned_them_are_claimed() {
        let world = World::new();
        let key = world.ask("owner");
        world.hear("owner", &key, ControlVerb::Granted { known_since: 0 });
        let disowned = NotificationKey::random();
        assert_eq!(world.answer("owner", &disowned), Some("not writing"));
        assert!(world.is_known("owner", world.soon()));
        for _ in 0..BoundedSet::MOST {
            world.answer("owner", &NotificationKey::random());
        }
        assert!(!world.0.lock().disowned.contains(&disowned));
        assert!(!world.is_known("owner", world.soon()), "it would be written again");
        let later = world.soon() + millis(OfferSpec::LIFE_TIME);
        assert!(world.is_known("owner", later));
    }
}
