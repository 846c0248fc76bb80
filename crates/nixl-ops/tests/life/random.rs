//! Random interleavings of everything that can happen, against the promises of the crate.

use std::sync::Arc;
use std::time::Duration;

use nixl_metadata::NotificationKey;
use nixl_ops::{Driver, Next, OperationOptions, OperationStatus, ReadOperation, WritableOperation};
use proptest::collection::vec;
use proptest::prelude::*;

use crate::world::{DRAIN, Engine, Memory, World, broken, timeout};

#[derive(Clone, Debug)]
enum Step {
    Begin { large: bool, timeout: Option<u64> },
    Offer { exported: bool, timeout: Option<u64> },
    EngineEnds { which: usize, well: bool },
    Notify { which: usize },
    Junk(Vec<u8>),
    Cancel { which: usize },
    Drop { which: usize },
    Advance { millis: u64 },
    Turn,
}

fn step() -> impl Strategy<Value = Step> {
    let timeout = || proptest::option::of(0..30_000u64);
    let which = || any::<usize>();
    prop_oneof![
        2 => (any::<bool>(), timeout()).prop_map(|(large, timeout)| Step::Begin { large, timeout }),
        2 => (any::<bool>(), timeout())
            .prop_map(|(exported, timeout)| Step::Offer { exported, timeout }),
        2 => (which(), any::<bool>()).prop_map(|(which, well)| Step::EngineEnds { which, well }),
        2 => which().prop_map(|which| Step::Notify { which }),
        1 => vec(any::<u8>(), 0..50).prop_map(Step::Junk),
        1 => which().prop_map(|which| Step::Cancel { which }),
        1 => which().prop_map(|which| Step::Drop { which }),
        1 => prop_oneof![0..20u64, 0..40_000u64].prop_map(|millis| Step::Advance { millis }),
        4 => Just(Step::Turn),
    ]
}

enum Operation {
    Read(ReadOperation),
    Writable(Box<WritableOperation>),
}

impl Operation {
    fn status(&self) -> OperationStatus {
        match self {
            Self::Read(read) => read.status(),
            Self::Writable(writable) => writable.status(),
        }
    }

    fn cancel(&mut self) {
        match self {
            Self::Read(read) => read.cancel(),
            Self::Writable(writable) => writable.cancel(),
        };
    }
}

/// Who may touch the memory, apart from its owner.
enum Other {
    Engine(Arc<Engine>),
    /// `notified` once a turn has seen the notification; `exported` if there can be one.
    Peer {
        key: NotificationKey,
        exported: bool,
        notified: bool,
        queued: bool,
    },
}

struct Item {
    operation: Option<Operation>,
    other: Other,
    memory: Memory,
    deadline: Option<Duration>,
    ended: Option<OperationStatus>,
    /// When the driver may give up on the other side at the earliest.
    abandoned_at: Option<Duration>,
}

struct Model {
    world: World,
    items: Vec<Item>,
    now: Duration,
}

impl Model {
    fn new() -> Self {
        Self { world: World::new(), items: Vec::new(), now: Duration::ZERO }
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
            Step::Offer { exported, timeout } => {
                let (memory, after) = (Memory::small(), timeout.map(Duration::from_millis));
                let writable = self.world.writable(&memory, options(after)).unwrap();
                let key = {
                    let offers = self.world.announced.offers.lock().unwrap();
                    offers.last().unwrap().key().clone()
                };
                if exported {
                    assert_eq!(writable.metadata().notification_key(), &key);
                }
                let other = Other::Peer { key, exported, notified: false, queued: false };
                self.add(Operation::Writable(Box::new(writable)), other, memory, after);
            }
            Step::EngineEnds { which, well } => {
                if let Some(Item { other: Other::Engine(engine), .. }) = self.pick(which) {
                    engine.end(if well { Ok(()) } else { Err(broken()) });
                }
            }
            Step::Notify { which } => {
                let inbox = Arc::clone(&self.world.inbox);
                if let Some(Item {
                    other: Other::Peer { key, exported: true, queued, .. }, ..
                }) = self.pick(which)
                {
                    inbox.push(key.as_bytes());
                    *queued = true;
                }
            }
            Step::Junk(payload) => self.world.inbox.push(&payload),
            Step::Cancel { which } => {
                if let Some(Item { operation: Some(operation), .. }) = self.pick(which) {
                    operation.cancel();
                }
            }
            Step::Drop { which } => {
                if let Some(item) = self.pick(which) {
                    item.operation = None;
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

    fn turn(&mut self) {
        self.world.reactor.turn();
        let (now, taken) = (self.now, self.world.inbox.len() == 0);
        for item in &mut self.items {
            if let Other::Peer { notified, queued, .. } = &mut item.other
                && taken
            {
                *notified |= *queued;
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
                assert!(wanted || engine.in_flight(), "kept although nobody wants it");
            }
        }
    }

    fn check(&mut self) {
        let (mut engines, mut peers, mut quarantined) = (0, 0, 0);
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
            match &item.other {
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
                Other::Peer { exported, notified, .. } => {
                    let quiet = if *exported { *notified } else { over };
                    if status == Some(OperationStatus::Complete) {
                        assert!(*notified);
                    }
                    assert_eq!(leased, !quiet, "leased exactly while the peer may touch it");
                    peers += usize::from(leased);
                    quarantined += u64::from(leased && over);
                }
            }
        }
        let stats = self.world.driver.stats();
        assert_eq!(stats.active, engines);
        assert_eq!(stats.passive, peers);
        assert_eq!(stats.quarantined_without_terms.bytes, 64 * quarantined);
    }

    fn finish(mut self) {
        for item in &mut self.items {
            item.operation = None;
        }
        self.check();
        // One turn to see that they are abandoned, one after the drain time.
        self.turn();
        self.world.clock.advance(DRAIN);
        self.now += DRAIN;
        self.turn();
        self.check();
        assert_eq!(self.world.driver.stats().active, 0, "the count returns to zero");
        let World { driver, mut reactor, .. } = self.world;
        drop::<Arc<Driver>>(driver);
        assert_eq!(reactor.turn(), Next::Exit, "a quarantine keeps no driver");
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
