//! The processes of the model, and the steps of which it is made.

use std::collections::{BTreeMap, VecDeque};
use std::num::NonZeroU64;
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::thread;
use std::time::{Duration, Instant};

use nixl_metadata::{ExportMetadata, WordsLocation};
use nixl_ops::{Clock, DriverConfig};

use super::super::{ImportOptions, RemoteExport};
use super::Random;
use super::clock::AheadClock;
use super::owner::{BLOCKS, Granted, LAYERS, Owner};
use super::reader::{Ended, Read, Reader};
use crate::Connector;
use crate::simulated::{Fabric, MessageFault};

const READERS: usize = 3;
const READS: usize = 8;
/// Tickets that readers still use.
const TICKETS: usize = 24;
/// The most that is moved at a time.
const CHUNK: NonZeroU64 = NonZeroU64::new(64).unwrap();
const LIMIT: Duration = Duration::from_secs(60);

pub(super) struct World {
    random: Random,
    clock: Arc<AheadClock>,
    fabric: Fabric,
    owner: Owner,
    /// Until that step it does nothing.
    owner_stopped_until: usize,
    readers: Vec<Reader>,
    reads: Vec<Read>,
    tickets: VecDeque<Rc<Granted>>,
    steps: usize,
    counts: BTreeMap<&'static str, usize>,
    moved_at: Instant,
}

impl World {
    pub(super) fn new(seed: u64) -> Self {
        let clock = Arc::new(AheadClock::new());
        let fabric = Fabric::stepped(clock.clone(), CHUNK);
        let mut random = Random(seed);
        let owner = start_owner(&fabric, &clock, 0);
        let readers = 0..READERS;
        let readers = readers.map(|_| start_reader(&fabric, &clock, &owner, &mut random));
        let readers = readers.collect();
        Self {
            random,
            clock,
            fabric,
            owner,
            owner_stopped_until: 0,
            readers,
            reads: Vec::new(),
            tickets: VecDeque::new(),
            steps: 0,
            counts: BTreeMap::new(),
            moved_at: Instant::now(),
        }
    }

    /// What has happened so far.
    pub(super) fn steps(&self) -> usize {
        self.steps
    }

    /// One of the things that can happen, or none.
    pub(super) fn step(&mut self) {
        let now_possible = self.steps >= self.owner_stopped_until;
        let happened = match self.random.below(1_000) {
            0 => self.stop_a_process(),
            1 => self.advance(),
            2 if self.random.one_in(4) => self.restart_a_reader(),
            3 if self.random.one_in(8) => self.restart_the_owner(),
            4..40 if now_possible => self.grant(),
            40..60 if now_possible => self.owner.end(&mut self.random),
            60..90 if now_possible => {
                let (block, layer) = (self.random.below(BLOCKS), self.random.below(LAYERS));
                self.owner.overwrite(block, layer)
            }
            90..150 => self.begin_a_read(),
            150..158 => self.cancel_a_read(),
            158..170 => self.say_done(),
            170..180 if now_possible => self.overtake_a_read(),
            170.. => self.move_a_chunk(),
            _ => false,
        };
        self.poll_reads();
        if happened {
            self.steps += 1;
            self.moved_at = Instant::now();
        } else {
            // The drivers have their turn.
            thread::yield_now();
            assert!(self.moved_at.elapsed() < LIMIT, "nothing happens any more");
        }
    }

    /// Lets everything end, and sees that nothing is left. Returns how often each thing happened.
    pub(super) fn settle(mut self) -> BTreeMap<&'static str, usize> {
        for reader in &mut self.readers {
            reader.stopped_until = 0;
        }
        let until = Instant::now() + LIMIT;
        while !self.reads.is_empty() || !self.owner.is_free() || !self.are_idle() {
            self.move_a_chunk();
            self.poll_reads();
            thread::yield_now();
            assert!(Instant::now() < until, "{} reads are left", self.reads.len());
        }
        self.counts
    }

    fn are_idle(&self) -> bool {
        self.readers.iter().all(|reader| reader.connector.stats().active() == 0)
    }

    fn count(&mut self, what: &'static str) -> bool {
        *self.counts.entry(what).or_default() += 1;
        true
    }

    fn grant(&mut self) -> bool {
        let Some(granted) = self.owner.grant(&mut self.random) else { return false };
        if self.tickets.len() == TICKETS {
            self.tickets.pop_front();
        }
        self.tickets.push_back(granted);
        self.count("grants")
    }

    fn begin_a_read(&mut self) -> bool {
        if self.reads.len() == READS || self.tickets.is_empty() {
            return false;
        }
        // Mostly one of the latest.
        let most =
            if self.random.one_in(4) { self.tickets.len() } else { self.tickets.len().min(6) };
        let granted = &self.tickets[self.tickets.len() - 1 - self.random.below(most)];
        let reader = self.random.below(READERS);
        let read = Read::begin(&mut self.readers[reader], granted, &mut self.random);
        self.reads.push(read);
        true
    }

    /// A read begins, the grant ends after some of its chunks, and the rest follows at once.
    fn overtake_a_read(&mut self) -> bool {
        let Some(granted) = self.owner.any_alive(&mut self.random) else { return false };
        let at = self.random.below(READERS);
        let agent = self.readers[at].connector.name().to_owned();
        let is_busy = self.reads.iter().any(|read| read.agent == agent);
        if is_busy || self.steps < self.readers[at].stopped_until {
            return false;
        }
        self.reads.push(Read::begin(&mut self.readers[at], &granted, &mut self.random));
        self.poll_reads();
        for _ in 0..self.random.below(12) {
            self.steps += usize::from(self.fabric.step(&agent, self.random.next()));
        }
        self.owner.end_this(&granted, &mut self.random);
        let until = Instant::now() + Duration::from_millis(5);
        while self.reads.iter().any(|read| read.agent == agent) && Instant::now() < until {
            match self.fabric.step(&agent, self.random.next()) {
                true => self.steps += 1,
                false => thread::yield_now(),
            }
            self.poll_reads();
        }
        self.count("overtaken")
    }

    /// The engine goes on with it.
    fn cancel_a_read(&mut self) -> bool {
        if self.reads.is_empty() || !self.random.one_in(4) {
            return false;
        }
        let at = self.random.below(self.reads.len());
        self.reads.swap_remove(at);
        self.count("cancelled")
    }

    fn say_done(&mut self) -> bool {
        let Some(granted) = self.tickets.back().filter(|_| self.random.one_in(2)) else {
            return false;
        };
        if granted.owner != self.owner.number {
            return false;
        }
        let at = self.random.below(READERS);
        let Reader { connector, import, is_cut_off, stopped_until, .. } = &self.readers[at];
        let agent = connector.name();
        // It waits for reads by the ticket that are under way: here for cancelled ones.
        let is_of = |read: &Read| read.agent == agent && Rc::ptr_eq(&read.granted, granted);
        if self.steps < *stopped_until || self.reads.iter().any(is_of) {
            return false;
        }
        let fault = match self.random.below(6) {
            _ if *is_cut_off => Some(MessageFault::Lost),
            0 => Some(MessageFault::Lost),
            1 => Some(MessageFault::Twice),
            2 => Some(MessageFault::Delayed(Duration::from_millis(3))),
            _ => None,
        };
        self.fabric.faults_of(connector.name()).unwrap().messages([fault]);
        granted.may_be_over.set(true);
        let (import, ticket) = (import.clone(), granted.ticket.clone());
        drive(&self.fabric, Some(agent), async { import.done(&ticket).await }).unwrap();
        self.count("done")
    }

    fn move_a_chunk(&mut self) -> bool {
        let first = self.random.below(READERS);
        (first..READERS).chain(0..first).any(|at| {
            let reader = &self.readers[at];
            let runs = self.steps >= reader.stopped_until;
            runs && self.fabric.step(reader.connector.name(), self.random.next())
        })
    }

    fn poll_reads(&mut self) {
        let mut at = 0;
        while at < self.reads.len() {
            let clock = &self.clock;
            let Poll::Ready(ended) = self.reads[at].poll(|| clock.now()) else {
                at += 1;
                continue;
            };
            let read = self.reads.swap_remove(at);
            self.count(ended.name());
            let reader = self.readers.iter_mut().find(|r| r.connector.name() == read.agent);
            if ended == Ended::Gone {
                let is_dead = reader.is_none() || read.granted.owner != self.owner.number;
                assert!(is_dead, "a read failed though both processes live");
            } else if let Some(reader) = reader {
                reader.rooms.push(read.into_room());
            }
        }
    }

    /// For a time nothing of it happens, and of a reader, perhaps, no message arrives.
    fn stop_a_process(&mut self) -> bool {
        let until = self.steps + 50 + self.random.below(400);
        let at = self.random.below(READERS + 1);
        match self.readers.get_mut(at) {
            None => self.owner_stopped_until = until,
            Some(reader) => {
                reader.stopped_until = until;
                reader.is_cut_off = self.random.one_in(2);
            }
        }
        self.count("stops")
    }

    fn advance(&mut self) -> bool {
        self.clock.advance([30, 300, 4_000][self.random.below(3)]);
        self.count("advances")
    }

    fn restart_a_reader(&mut self) -> bool {
        let at = self.random.below(READERS);
        assert!(self.fabric.kill(self.readers[at].connector.name()));
        self.readers[at] = start_reader(&self.fabric, &self.clock, &self.owner, &mut self.random);
        self.count("readers killed")
    }

    fn restart_the_owner(&mut self) -> bool {
        for granted in &self.tickets {
            granted.may_be_over.set(true);
        }
        for read in &self.reads {
            read.granted.may_be_over.set(true);
        }
        assert!(self.fabric.kill(self.owner.connector.name()));
        self.owner = start_owner(&self.fabric, &self.clock, self.owner.number + 1);
        for reader in &mut self.readers {
            reader.import = import(&self.fabric, &reader.connector, &self.owner, &mut self.random);
        }
        self.count("owners killed")
    }
}

fn connector(fabric: &Fabric, clock: &Arc<AheadClock>, name: &str) -> Connector {
    // No thread of the test waits for the network.
    let config = DriverConfig::default().inline_spin(Duration::ZERO);
    let builder = Connector::builder().transport(fabric.transport(name)).clock(clock.clone());
    drive(fabric, None, builder.driver(config).no_timeout().build()).unwrap()
}

fn start_owner(fabric: &Fabric, clock: &Arc<AheadClock>, number: u32) -> Owner {
    let connector = connector(fabric, clock, "owner");
    drive(fabric, None, Owner::new(connector, clock, number))
}

fn start_reader(
    fabric: &Fabric,
    clock: &Arc<AheadClock>,
    owner: &Owner,
    random: &mut Random,
) -> Reader {
    let connector = connector(fabric, clock, "reader");
    let import = import(fabric, &connector, owner, random);
    Reader::new(connector, import)
}

/// As a process of the owner's host has it, or one of another host, which cannot map the words.
fn import(fabric: &Fabric, reader: &Connector, owner: &Owner, random: &mut Random) -> RemoteExport {
    let here = owner.export.metadata();
    let afar = ExportMetadata::new(
        here.export(),
        here.agent_metadata().clone(),
        here.peer().clone(),
        here.layouts().to_vec(),
        WordsLocation { file: None, ..*here.words() },
    )
    .unwrap();
    let metadata = if random.one_in(3) { here } else { &afar };
    let importing = reader.import_unless(metadata, None, ImportOptions::new());
    drive(fabric, Some(reader.name()), importing).unwrap()
}

/// The output of a future, for which the agent's requests move.
fn drive<F: Future>(fabric: &Fabric, agent: Option<&str>, future: F) -> F::Output {
    let mut future = pin!(future);
    let until = Instant::now() + LIMIT;
    loop {
        let mut context = Context::from_waker(Waker::noop());
        if let Poll::Ready(output) = future.as_mut().poll(&mut context) {
            return output;
        }
        if !agent.is_some_and(|agent| fabric.step(agent, 0)) {
            thread::yield_now();
        }
        assert!(Instant::now() < until, "it does not end");
    }
}
