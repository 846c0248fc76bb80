//! Random interleavings of everything that can happen, against the promises of the crate.

use std::sync::Arc;
use std::time::Duration;

use nixl_metadata::NotificationKey;
use nixl_ops::{
    ClaimDemand, Driver, Next, OfferSpec, OperationOptions, OperationStatus, ReadOperation,
    ReadableOperation, WritableOperation,
};
use proptest::collection::vec;
use proptest::prelude::*;

use crate::peer::PeerSlot;
use crate::world::{DRAIN, Engine, Memory, Offering, World, broken, timeout};

/// As long as the clocks of two hosts may differ.
const SKEW: Duration = Duration::from_secs(60);

/// What is offered: to be written as Dynamo's, or with claims demanded, or to be read.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Kind {
    Plain,
    Claimable,
    Readable,
}

#[derive(Clone, Debug)]
enum Step {
    Begin {
        large: bool,
        timeout: Option<u64>,
    },
    Offer {
        kind: Kind,
        exported: bool,
        timeout: Option<u64>,
    },
    /// By the slot.
    Claim {
        which: usize,
    },
    Undo {
        which: usize,
    },
    Say {
        which: usize,
        well: bool,
    },
    EngineEnds {
        which: usize,
        well: bool,
    },
    Notify {
        which: usize,
    },
    Junk(Vec<u8>),
    Cancel {
        which: usize,
    },
    Drop {
        which: usize,
    },
    Advance {
        millis: u64,
    },
    Turn,
}

fn step() -> impl Strategy<Value = Step> {
    let timeout = || proptest::option::of(0..30_000u64);
    let which = || any::<usize>();
    prop_oneof![
        2 => (any::<bool>(), timeout()).prop_map(|(large, timeout)| Step::Begin { large, timeout }),
        3 => (kind(), any::<bool>(), timeout())
            .prop_map(|(kind, exported, timeout)| Step::Offer { kind, exported, timeout }),
        2 => which().prop_map(|which| Step::Claim { which }),
        1 => which().prop_map(|which| Step::Undo { which }),
        2 => (which(), any::<bool>()).prop_map(|(which, well)| Step::Say { which, well }),
        2 => (which(), any::<bool>()).prop_map(|(which, well)| Step::EngineEnds { which, well }),
        2 => which().prop_map(|which| Step::Notify { which }),
        1 => vec(any::<u8>(), 0..50).prop_map(Step::Junk),
        1 => which().prop_map(|which| Step::Cancel { which }),
        1 => which().prop_map(|which| Step::Drop { which }),
        1 => prop_oneof![0..20u64, 0..40_000u64].prop_map(|millis| Step::Advance { millis }),
        4 => Just(Step::Turn),
    ]
}

fn kind() -> impl Strategy<Value = Kind> {
    prop_oneof![Just(Kind::Plain), Just(Kind::Claimable), Just(Kind::Readable)]
}

enum Operation {
    Read(ReadOperation),
    Writable(Box<WritableOperation>),
    Readable(Box<ReadableOperation>),
}

impl Operation {
    fn status(&self) -> OperationStatus {
        match self {
            Self::Read(read) => read.status(),
            Self::Writable(writable) => writable.status(),
            Self::Readable(readable) => readable.status(),
        }
    }

    fn cancel(&mut self) {
        match self {
            Self::Read(read) => read.cancel(),
            Self::Writable(writable) => writable.cancel(),
            Self::Readable(readable) => readable.cancel(),
        };
    }
}

/// Who may touch the memory, apart from its owner.
enum Other {
    Engine(Arc<Engine>),
    Peer(Peer),
}

/// A peer that was offered memory.
struct Peer {
    key: NotificationKey,
    kind: Kind,
    /// It has the metadata.
    exported: bool,
    slot: Option<PeerSlot>,
    /// It has sent its word by the engine.
    sent: bool,
    /// It has claimed the offer.
    claimed: bool,
    /// What it has left in the slot.
    said: Option<bool>,
    /// The owner has taken in that it is done.
    told: bool,
    /// Whether the owner had to wait for it, once it gave the offer up.
    kept: Option<bool>,
}

impl Peer {
    /// Whether the owner has given the offer up.
    fn is_over(&self) -> bool {
        self.told || self.kept.is_some()
    }

    /// The owner has given up.
    fn give_up(&mut self) {
        if self.is_over() {
            return;
        }
        if self.said.is_some() {
            self.told = true;
            return;
        }
        let may_write = self.kind == Kind::Plain || self.kind == Kind::Claimable && self.claimed;
        self.kept = Some(self.exported && may_write);
    }

    fn is_leased(&self) -> bool {
        !self.told && self.kept != Some(false)
    }

    fn is_retained(&self) -> bool {
        self.kind == Kind::Readable && self.exported && !self.told && self.kept.is_some()
    }

    /// Whether the slot takes a word of one who has not claimed the offer.
    fn is_open(&self) -> bool {
        !self.is_over() && !self.claimed && self.said.is_none()
    }
}

impl Other {
    /// The owner, which gives an offer up, looks at its slot.
    fn look(&mut self) {
        if let Self::Peer(peer) = self {
            peer.told |= peer.said.is_some();
        }
    }
}

struct Item {
    operation: Option<Operation>,
    other: Other,
    memory: Memory,
    begun: Duration,
    deadline: Option<Duration>,
    ended: Option<OperationStatus>,
    /// When the driver may give up on the other side at the earliest.
    abandoned_at: Option<Duration>,
}

impl Item {
    fn drop_operation(&mut self) {
        if self.operation.take().is_some() {
            self.other.look();
        }
    }
}

struct Model {
    world: World,
    items: Vec<Item>,
    now: Duration,
    /// When the last turn was.
    turned: Duration,
}

impl Model {
    fn new() -> Self {
        let (now, turned) = (Duration::ZERO, Duration::ZERO);
        Self { world: World::new(), items: Vec::new(), now, turned }
    }

    fn pick(&mut self, which: usize) -> Option<&mut Item> {
        let len = self.items.len();
        (len > 0).then(|| &mut self.items[which % len])
    }

    fn add(&mut self, operation: Operation, other: Other, memory: Memory, after: Option<Duration>) {
        let deadline = after.map(|after| self.now + after);
        let operation = Some(operation);
        self.items.push(Item {
            operation,
            other,
            memory,
            begun: self.now,
            deadline,
            ended: None,
            abandoned_at: None,
        });
    }

    fn apply(&mut self, step: Step) {
        let options = |after: Option<Duration>| after.map_or(OperationOptions::new(), timeout);
        match step {
            Step::Begin { large, timeout } => {
                let memory = if large { Memory::large() } else { Memory::small() };
                let (engine, after) = (Engine::pending(), timeout.map(Duration::from_millis));
                let read = self.world.read(&engine, &memory, options(after)).unwrap();
                self.add(Operation::Read(read), Other::Engine(engine), memory, after);
            }
            Step::Offer { kind, exported, timeout } => {
                let (memory, after) = (Memory::small(), timeout.map(Duration::from_millis));
                self.offer(kind, exported, memory, after);
            }
            Step::Claim { which } => {
                if let Some(Item { other: Other::Peer(peer), .. }) = self.pick(which)
                    && let (Some(slot), Kind::Claimable) = (&peer.slot, peer.kind)
                {
                    assert_eq!(slot.claim(), peer.is_open());
                    peer.claimed |= peer.is_open();
                }
            }
            Step::Undo { which } => {
                if let Some(Item { other: Other::Peer(peer), .. }) = self.pick(which)
                    && let Some(slot) = &peer.slot
                {
                    let is_held = peer.claimed && !peer.told && peer.said.is_none();
                    // One that the owner waits for says that it is done: it does not undo.
                    if peer.kept.is_none() {
                        assert_eq!(slot.undo(), is_held);
                        peer.claimed &= !is_held;
                    }
                }
            }
            Step::Say { which, well } => {
                if let Some(Item { other: Other::Peer(peer), .. }) = self.pick(which)
                    && let Some(slot) = &peer.slot
                {
                    let (said, expected) = match peer.kind {
                        Kind::Readable => (slot.read(well, 1), peer.is_open()),
                        _ => {
                            let is_held = peer.claimed && !peer.told && peer.said.is_none();
                            (slot.written(well), is_held)
                        }
                    };
                    assert_eq!(said, expected);
                    if said {
                        peer.said = Some(well);
                    }
                }
            }
            Step::EngineEnds { which, well } => {
                if let Some(Item { other: Other::Engine(engine), .. }) = self.pick(which) {
                    engine.end(if well { Ok(()) } else { Err(broken()) });
                }
            }
            Step::Notify { which } => {
                let inbox = Arc::clone(&self.world.inbox);
                if let Some(Item { other: Other::Peer(peer), .. }) = self.pick(which)
                    && peer.exported
                {
                    inbox.push(peer.key.as_bytes());
                    peer.sent = true;
                }
            }
            Step::Junk(payload) => self.world.inbox.push(&payload),
            Step::Cancel { which } => {
                if let Some(item) = self.pick(which)
                    && let Some(operation) = &mut item.operation
                {
                    operation.cancel();
                    item.other.look();
                }
            }
            Step::Drop { which } => {
                if let Some(item) = self.pick(which) {
                    item.drop_operation();
                }
            }
            Step::Advance { millis } => {
                let by = Duration::from_millis(millis);
                self.world.clock.advance(by);
                self.now += by;
            }
            Step::Turn => self.turn(),
        }
    }

    fn offer(&mut self, kind: Kind, exported: bool, memory: Memory, after: Option<Duration>) {
        let options = after.map_or(OperationOptions::new(), timeout);
        let world = &self.world;
        let claimable = || Offering::writable().with_slot().claims(ClaimDemand::Everywhere);
        let readable = || Offering::readable().with_slot().readers(1);
        let operation = match kind {
            Kind::Plain => Operation::Writable(Box::new(world.writable(&memory, options).unwrap())),
            Kind::Claimable => {
                Operation::Writable(Box::new(world.offer_for(claimable(), &memory, options)))
            }
            Kind::Readable => {
                Operation::Readable(Box::new(world.readable_for(readable(), &memory, options)))
            }
        };
        let key = world.announced.offers.lock().unwrap().last().unwrap().key().clone();
        let metadata = exported.then(|| match &operation {
            Operation::Writable(offer) => offer.metadata(),
            Operation::Readable(offer) => offer.metadata(),
            Operation::Read(_) => panic!("it offers nothing"),
        });
        assert!(metadata.is_none_or(|metadata| *metadata.notification_key() == key));
        let slot = metadata.filter(|metadata| metadata.slot_address().is_some()).map(PeerSlot::of);
        let (sent, claimed, said, told, kept) = (false, false, None, false, None);
        let peer = Peer { key, kind, exported, slot, sent, claimed, said, told, kept };
        self.add(operation, Other::Peer(peer), memory, after);
    }

    fn turn(&mut self) {
        // Tells whether words are looked for.
        self.world.inbox.push(b"junk");
        // A turn that finds something on the page leaves the engine's messages to the next.
        self.world.reactor.turn();
        self.world.reactor.turn();
        self.turned = self.now;
        let (now, taken) = (self.now, self.world.inbox.len() == 0);
        for item in &mut self.items {
            if let Other::Peer(peer) = &mut item.other
                && taken
            {
                // A readable offer that was given up hears by the engine alone.
                peer.told |= peer.sent || peer.said.is_some();
            }
            if let Some(operation) = &item.operation
                && item.deadline.is_some_and(|deadline| now >= deadline)
            {
                assert!(operation.status().is_terminal(), "a wait went past its deadline");
            }
            if let Other::Engine(engine) = &item.other
                && !engine.is_gone()
            {
                let wanted = item.operation.as_ref().is_some_and(|o| !o.status().is_terminal());
                assert!(wanted || engine.in_flight(), "kept although its operation has ended");
            }
        }
    }

    fn check(&mut self) {
        let (mut engines, mut peers, mut retained) = (0, 0, 0);
        let (mut with_terms, mut without_terms) = (0, 0);
        for item in &mut self.items {
            let status = item.operation.as_ref().map(Operation::status);
            if let Some(status) = status {
                if let Some(ended) = item.ended {
                    assert_eq!(status, ended, "a terminal state changed");
                } else if status.is_terminal() {
                    item.ended = Some(status);
                }
            }
            let over = status.is_none_or(OperationStatus::is_terminal);
            if over && item.abandoned_at.is_none() {
                item.abandoned_at = Some(self.now);
            }
            let drained = item.abandoned_at.is_some_and(|at| self.now >= at + DRAIN);
            let leased = item.memory.is_leased();
            match &mut item.other {
                Other::Engine(engine) => {
                    engines += usize::from(!engine.is_gone());
                    if engine.is_gone() && engine.in_flight() {
                        assert!(drained, "given up before the drain time");
                    }
                    let expected = !engine.is_gone() || engine.in_flight();
                    assert_eq!(leased, expected, "leased exactly while the engine may touch it");
                    if !over {
                        assert!(!engine.is_gone());
                    }
                }
                Other::Peer(peer) => {
                    if over {
                        peer.give_up();
                    }
                    if let Some(status) = status
                        && peer.told
                        && peer.kept.is_none()
                    {
                        // The slot is looked at first.
                        let well = peer.said.unwrap_or(peer.sent);
                        let expected = match well {
                            true => OperationStatus::Complete,
                            false => OperationStatus::Errored,
                        };
                        assert_eq!(status, expected);
                    }
                    assert_eq!(
                        leased,
                        peer.is_leased(),
                        "leased exactly while the peer may touch it"
                    );
                    peers += usize::from(leased);
                    let quarantined = u64::from(leased && over);
                    match peer.kind {
                        Kind::Plain => without_terms += quarantined,
                        Kind::Claimable | Kind::Readable => with_terms += quarantined,
                    }
                    let until = item.begun + OfferSpec::LIFE_TIME + SKEW;
                    retained += usize::from(peer.is_retained() && self.turned < until);
                }
            }
        }
        let stats = self.world.driver.stats();
        assert_eq!(stats.active() + stats.overdue().operations(), engines);
        assert_eq!(stats.passive(), peers);
        assert_eq!(stats.quarantined_without_terms().bytes(), 64 * without_terms);
        assert_eq!(stats.quarantined().bytes(), 64 * with_terms);
        assert_eq!(stats.retained().offers(), retained);
    }

    fn finish(mut self) {
        self.items.iter_mut().for_each(Item::drop_operation);
        self.check();
        // One turn to see that they are abandoned, one after the drain time.
        self.turn();
        self.world.clock.advance(DRAIN);
        self.now += DRAIN;
        self.turn();
        self.check();
        assert_eq!(self.world.driver.stats().active(), 0, "the count returns to zero");
        let retains = self.world.driver.stats().retained().offers() > 0;
        let World { driver, mut reactor, clock, .. } = self.world;
        drop::<Arc<Driver>>(driver);
        if retains {
            assert!(matches!(reactor.turn(), Next::Sleep(_)), "peers may be reading");
            clock.advance(DRAIN);
        }
        assert_eq!(reactor.turn(), Next::Exit, "a quarantine keeps no driver");
        drop(reactor);
        for item in &self.items {
            let may_touch = match &item.other {
                Other::Engine(engine) => engine.in_flight(),
                Other::Peer(peer) => peer.is_leased() || peer.is_retained(),
            };
            // Of what was retained, the life time may be over.
            if may_touch && self.turned < item.begun + OfferSpec::LIFE_TIME {
                assert!(item.memory.is_leased(), "leaked");
            } else if !may_touch {
                assert!(!item.memory.is_leased());
            }
        }
    }
}

proptest! {
    #[test]
    fn promises_hold_in_any_order(steps in vec(step(), 1..120)) {
        let mut model = Model::new();
        for step in steps {
            model.apply(step);
            model.check();
        }
        model.finish();
    }
}
