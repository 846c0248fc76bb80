//! Owners and readers that are killed, stopped and started anew: each read is right, or says why it is not.

use std::cell::Cell;
use std::collections::{BTreeMap, VecDeque};
use std::process::{Command, Stdio};
use std::rc::Rc;
use std::thread;
use std::time::{Duration, Instant};

use nixl_tests::{Cache, Peer, PeerError, Random, alone_within, crc32, pattern};

use super::{By, PEER, local, start};

/// Tokens of a page: blocks have 64 KiB.
const PAGE: usize = 256;
const BLOCK_LEN: usize = PAGE * 256;
const READERS: usize = 3;
const GRANTS: usize = 12;
/// Tickets expire by a clock that is behind by up to a tick of the kernel's.
const COARSE: Duration = Duration::from_millis(12);
const TICKETS: usize = 16;

/// What was granted, and what is known of its end.
struct Granted {
    number: String,
    ticket: String,
    blocks: Vec<usize>,
    /// What the blocks held.
    sum: String,
    owner: u32,
    /// The owner has said that it is over.
    is_over: Cell<bool>,
    /// A reader may have said that it is done.
    may_be_over: Cell<bool>,
    expires: Instant,
}

impl Granted {
    fn may_be_over(&self) -> bool {
        self.is_over.get() || self.may_be_over.get() || Instant::now() >= self.expires
    }
}

struct Reading {
    granted: Rc<Granted>,
    was_over: bool,
}

struct Reader {
    peer: Peer,
    reading: Option<Reading>,
    /// In a PID namespace of its own it maps nothing of the owner's.
    is_apart: bool,
    is_stopped: bool,
}

impl Reader {
    fn start(by: By, is_apart: bool, export: &str) -> Self {
        let mut peer = if is_apart { apart(by) } else { start(by, PAGE) };
        peer.ask(&format!("import {export}")).unwrap();
        Self { peer, reading: None, is_apart, is_stopped: false }
    }

    fn resume(&mut self) {
        if std::mem::take(&mut self.is_stopped) {
            self.peer.resume().unwrap();
        }
    }
}

fn unshare() -> Command {
    let mut command = Command::new("unshare");
    command.args(["--pid", "--fork", "--kill-child", "--mount-proc"]);
    command
}

/// Whether this process may make PID namespaces.
fn may_unshare() -> bool {
    let status = unshare().arg("true").stderr(Stdio::null()).status();
    status.is_ok_and(|status| status.success())
}

fn apart(by: By) -> Peer {
    let mut command = unshare();
    command.arg(PEER);
    if by == By::Paths {
        command.env(By::STAGED.0, By::STAGED.1);
    }
    let mut peer = Peer::spawn_by(&mut command).unwrap();
    peer.answer("start").unwrap();
    peer.ask(&format!("pages {PAGE}")).unwrap();
    peer
}

struct Model {
    by: By,
    random: Random,
    owner: Peer,
    owners: u32,
    export: String,
    readers: Vec<Reader>,
    /// What each block is filled from.
    contents: Vec<Vec<u8>>,
    alive: Vec<Rc<Granted>>,
    tickets: VecDeque<Rc<Granted>>,
    seed: u64,
    counts: BTreeMap<&'static str, usize>,
}

impl Model {
    fn new(by: By, seed: u64) -> Self {
        let (owner, export, contents) = start_owner(by, 1);
        let can_be_apart = may_unshare();
        let readers = (0..READERS).map(|at| Reader::start(by, can_be_apart && at == 0, &export));
        Self {
            by,
            random: Random::new(seed),
            readers: readers.collect(),
            owner,
            owners: 1,
            export,
            contents,
            alive: Vec::new(),
            tickets: VecDeque::new(),
            seed: 1_000,
            counts: BTreeMap::new(),
        }
    }

    fn below(&mut self, most: usize) -> usize {
        self.random.below(most as u64) as usize
    }

    fn count(&mut self, what: &'static str) {
        *self.counts.entry(what).or_default() += 1;
    }

    fn step(&mut self) {
        match self.below(1_000) {
            0 => self.restart_the_owner(),
            1..4 => self.restart_a_reader(),
            4..12 => self.stop_a_reader(),
            12..16 => self.stop_the_owner(),
            16..200 => self.grant(),
            200..260 => self.end(),
            260..340 => self.refill(),
            340..370 => self.say_done(),
            370..600 => self.begin_a_read(),
            600..800 => self.overtake_a_read(),
            _ => self.collect_a_read(),
        }
    }

    fn grant(&mut self) {
        if self.alive.len() >= GRANTS {
            return self.refill();
        }
        let (first, count) = (self.below(Cache::BLOCKS), 1 + self.below(4));
        let blocks: Vec<_> = (0..count).map(|at| (first + 9 * at) % Cache::BLOCKS).collect();
        let millis = [20, 500, 60_000][self.below(3)];
        let list = blocks.iter().map(ToString::to_string).collect::<Vec<_>>().join(",");
        let expires = Instant::now() + Duration::from_millis(millis) - COARSE;
        let answer = self.owner.ask(&format!("grant {list} {millis}")).unwrap();
        let (number, ticket) = answer.split_once(' ').unwrap();
        let bytes: Vec<u8> = blocks.iter().flat_map(|&at| self.contents[at].clone()).collect();
        let granted = Rc::new(Granted {
            number: number.to_owned(),
            ticket: ticket.to_owned(),
            blocks,
            sum: crc32(&bytes),
            owner: self.owners,
            is_over: Cell::new(false),
            may_be_over: Cell::new(false),
            expires,
        });
        if self.tickets.len() == TICKETS {
            self.tickets.pop_front();
        }
        self.tickets.push_back(Rc::clone(&granted));
        self.alive.push(granted);
        self.count("grants");
    }

    fn take_alive(&mut self) -> Option<Rc<Granted>> {
        if self.alive.is_empty() {
            return None;
        }
        let at = self.below(self.alive.len());
        Some(self.alive.swap_remove(at))
    }

    fn end(&mut self) {
        let Some(granted) = self.take_alive() else { return };
        let answer = self.owner.ask(&format!("end {}", granted.number)).unwrap();
        assert!(answer == "true" || granted.may_be_over(), "a grant has ended too early");
        granted.is_over.set(true);
    }

    fn refill(&mut self) {
        if let Some(granted) = self.take_alive() {
            self.refill_of(&granted);
        }
    }

    /// Ends a grant, and overwrites its blocks at once.
    fn refill_of(&mut self, granted: &Granted) {
        self.seed += 100;
        let answer = self.owner.ask(&format!("refill {} {}", granted.number, self.seed)).unwrap();
        let mut words = answer.split(' ').map(|word| word == "true");
        assert!(words.next().unwrap() || granted.may_be_over(), "a grant has ended too early");
        granted.is_over.set(true);
        for (&block, was_filled) in granted.blocks.iter().zip(words) {
            let covering = self.alive.iter().filter(|other| other.blocks.contains(&block));
            if was_filled {
                for other in covering {
                    assert!(other.may_be_over(), "granted block {block} was overwritten");
                    other.is_over.set(true);
                }
                self.contents[block] = pattern(self.seed + block as u64, BLOCK_LEN);
            } else {
                assert!(covering.count() > 0, "free block {block} could not be overwritten");
            }
        }
    }

    /// An idle reader that runs.
    fn idle_reader(&mut self) -> Option<usize> {
        let first = self.below(READERS);
        (first..READERS).chain(0..first).find(|&at| {
            let reader = &self.readers[at];
            reader.reading.is_none() && !reader.is_stopped
        })
    }

    fn begin_a_read(&mut self) {
        let Some(at) = self.idle_reader() else { return self.collect_a_read() };
        if self.tickets.is_empty() {
            return;
        }
        let most = if self.below(3) == 0 { self.tickets.len() } else { self.tickets.len().min(4) };
        let granted =
            &self.tickets[self.tickets.len() - 1 - self.random.below(most as u64) as usize];
        let granted = Rc::clone(granted);
        self.read(at, granted);
    }

    fn read(&mut self, at: usize, granted: Rc<Granted>) {
        let reader = &mut self.readers[at];
        reader.peer.tell(&format!("blocks {}", granted.ticket)).unwrap();
        let was_over = granted.is_over.get();
        reader.reading = Some(Reading { granted, was_over });
    }

    /// The owner ends the grant of a read that has just begun, and overwrites its blocks.
    fn overtake_a_read(&mut self) {
        let Some(at) = self.idle_reader() else { return self.collect_a_read() };
        let Some(granted) = self.take_alive() else { return };
        self.read(at, Rc::clone(&granted));
        let until = Instant::now() + Duration::from_micros(self.random.below(400));
        while Instant::now() < until {
            std::hint::spin_loop();
        }
        self.refill_of(&granted);
        self.collect(at);
    }

    fn collect_a_read(&mut self) {
        let at = self.below(READERS);
        self.collect(at);
    }

    /// Waits for the end of a reader's read.
    fn collect(&mut self, at: usize) {
        let reader = &mut self.readers[at];
        reader.resume();
        let Some(Reading { granted, was_over }) = reader.reading.take() else { return };
        let what = match reader.peer.answer("blocks") {
            Ok(sum) => {
                assert!(sum == granted.sum, "wrong bytes of blocks {:?}", granted.blocks);
                assert!(!was_over, "a read of an ended grant succeeded");
                "right"
            }
            Err(PeerError::Refused(said)) if said.contains("Stale") => {
                assert!(granted.may_be_over(), "it is not stale: {said}");
                "stale"
            }
            Err(PeerError::Refused(said)) if said.contains("Expired") => {
                assert!(Instant::now() >= granted.expires, "it has not expired: {said}");
                "expired"
            }
            // Of an owner that was killed, and perhaps of an import that is gone.
            Err(PeerError::Refused(said)) => {
                assert!(granted.owner != self.owners, "both processes live: {said}");
                "gone"
            }
            Err(error) => panic!("{error}"),
        };
        self.count(what);
    }

    fn collect_all(&mut self) {
        (0..READERS).for_each(|at| self.collect(at));
    }

    fn say_done(&mut self) {
        let (Some(at), Some(granted)) = (self.idle_reader(), self.tickets.back().cloned()) else {
            return;
        };
        if granted.owner == self.owners {
            granted.may_be_over.set(true);
            self.readers[at].peer.ask(&format!("done {}", granted.ticket)).unwrap();
            self.count("done");
        }
    }

    fn stop_a_reader(&mut self) {
        let at = self.below(READERS);
        let reader = &mut self.readers[at];
        // A signal does not reach through the process that made the namespace.
        if !reader.is_apart && !reader.is_stopped {
            reader.peer.stop().unwrap();
            reader.is_stopped = true;
            self.count("readers stopped");
        }
    }

    /// Reads begin while the owner stands still.
    fn stop_the_owner(&mut self) {
        self.owner.stop().unwrap();
        for _ in 0..READERS {
            if self.idle_reader().is_some() {
                self.begin_a_read();
            }
        }
        thread::sleep(Duration::from_millis(self.random.below(20)));
        self.owner.resume().unwrap();
        self.count("owners stopped");
    }

    fn restart_a_reader(&mut self) {
        let at = self.below(READERS);
        let is_apart = self.readers[at].is_apart;
        if is_apart {
            // What is killed is the process that made its namespace.
            self.collect(at);
        }
        self.readers[at].peer.kill().unwrap();
        self.readers[at] = Reader::start(self.by, is_apart, &self.export);
        self.count("readers killed");
    }

    fn restart_the_owner(&mut self) {
        self.owner.kill().unwrap();
        self.owners += 1;
        self.alive.clear();
        for granted in &self.tickets {
            granted.may_be_over.set(true);
        }
        self.collect_all();
        (self.owner, self.export, self.contents) = start_owner(self.by, self.owners.into());
        for reader in &mut self.readers {
            reader.peer.ask(&format!("import {}", self.export)).unwrap();
        }
        self.count("owners killed");
    }
}

/// The process, the metadata of its export, and what its blocks hold.
fn start_owner(by: By, seed: u64) -> (Peer, String, Vec<Vec<u8>>) {
    let mut owner = start(by, PAGE);
    let export = owner.ask(&format!("export {seed}")).unwrap();
    let contents = pattern(seed, Cache::BLOCKS * BLOCK_LEN);
    (owner, export, contents.chunks(BLOCK_LEN).map(<[u8]>::to_vec).collect())
}

/// A number that the environment gives.
fn given(variable: &str) -> Option<u64> {
    std::env::var(variable).ok()?.parse().ok()
}

fn run(name: &str, by: By, steps: usize) {
    alone_within(Duration::from_secs(1_800), name, &local(), || {
        let steps = given("NIXL_TEST_STEPS").map_or(steps, |steps| steps as usize);
        let mut model = Model::new(by, given("NIXL_TEST_SEED").unwrap_or(20_261_129));
        for _ in 0..steps {
            model.step();
        }
        model.collect_all();
        println!("{by:?}: {steps} steps: {:?}", model.counts);
        for outcome in ["right", "stale"] {
            let count = model.counts.get(outcome).copied().unwrap_or(0);
            assert!(count >= 20, "{outcome}: {:?}", model.counts);
        }
    });
}

#[test]
fn reads_are_right_or_stale_by_the_engine() {
    run("model::reads_are_right_or_stale_by_the_engine", By::Engine, 500);
}

#[test]
fn reads_are_right_or_stale_by_paths() {
    run("model::reads_are_right_or_stale_by_paths", By::Paths, 500);
}

#[test]
#[ignore = "minutes: cargo test --release -p nixl-tests --test grants -- --ignored --nocapture a_hundred_thousand_steps; NIXL_TEST_STEPS and NIXL_TEST_SEED set the number and the choices"]
fn a_hundred_thousand_steps_by_the_engine() {
    run("model::a_hundred_thousand_steps_by_the_engine", By::Engine, 100_000);
}

#[test]
#[ignore = "minutes: cargo test --release -p nixl-tests --test grants -- --ignored --nocapture a_hundred_thousand_steps"]
fn a_hundred_thousand_steps_by_paths() {
    run("model::a_hundred_thousand_steps_by_paths", By::Paths, 100_000);
}
