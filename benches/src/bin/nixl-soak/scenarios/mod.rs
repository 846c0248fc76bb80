//! What happens to the processes.

mod abandoned;
mod exits;
mod exported;
mod fresh;
mod kept;
mod network;
mod pair;
mod partition;
mod restarts;
mod rounds;

use std::time::{Duration, Instant};

use anyhow::Result;
use clap::ValueEnum;

use crate::bytes::Random;
use crate::growth::Pace;
use crate::messages::{Executor, Load, Memory, Setup, Work};
use crate::process::{Node, Place, Sockets};
use crate::report::Finding;
use crate::side::Side;

#[derive(Clone, Copy, Debug, Eq, PartialEq, ValueEnum)]
pub(crate) enum Scenario {
    /// A server with a new buffer for each request, read by 1, 8, 32 and 128 tasks
    Fresh,
    /// Reads and writes of 4 KiB between buffers that stay
    Kept,
    /// Reads by tickets of an export that stands, whose owner or readers are killed
    Exported,
    /// An owner that is killed and started anew under load
    Restarts,
    /// Offers that are not taken, revoked, dropped, declined, or whose initiators are killed
    Abandoned,
    /// A peer that is stopped for a while, or cut off
    Partition,
    /// Processes that end in the middle of operations
    Exits,
}

impl Scenario {
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Fresh => "fresh",
            Self::Kept => "kept",
            Self::Exported => "exported",
            Self::Restarts => "restarts",
            Self::Abandoned => "abandoned",
            Self::Partition => "partition",
            Self::Exits => "exits",
        }
    }

    /// Its part of a long run.
    const fn share(self) -> f64 {
        match self {
            Self::Fresh => 0.25,
            Self::Restarts => 0.2,
            Self::Kept | Self::Exported | Self::Partition => 0.15,
            Self::Abandoned | Self::Exits => 0.05,
        }
    }

    /// Runs the variants whose name contains `part` one after another, and reports each as it ends. They share the
    /// scenario's time.
    pub(crate) fn run(self, part: &str, bench: &mut Bench, report: &mut dyn FnMut(Finding)) {
        let mut variants = match self {
            Self::Fresh => fresh::variants(),
            Self::Kept => kept::variants(),
            Self::Exported => exported::variants(),
            Self::Restarts => restarts::variants(),
            Self::Abandoned => abandoned::variants(),
            Self::Partition => partition::variants(),
            Self::Exits => exits::variants(),
        };
        variants.retain(|variant| variant.name.contains(part));
        let share = self.share() / variants.len() as f64;
        for variant in variants {
            let time = bench.whole.map(|whole| whole.mul_f64(share));
            report(variant.run(self, bench, time));
        }
    }
}

/// What all scenarios work with.
#[derive(Debug)]
pub(crate) struct Bench {
    /// None stands for the quick run.
    whole: Option<Duration>,
    /// The first silence of a partition, unless it is a second.
    silence: Option<Duration>,
    random: Random,
    sockets: Sockets,
}

impl Bench {
    pub(crate) fn new(
        whole: Option<Duration>,
        silence: Option<Duration>,
        seed: u64,
    ) -> Result<Self> {
        Ok(Self { whole, silence, random: Random::new(seed), sockets: Sockets::new()? })
    }

    /// The set-up of most nodes.
    fn setup(&mut self, executor: Executor) -> Setup {
        Setup {
            executor,
            socket: self.sockets.next(),
            timeout_ms: 30_000,
            // Keys of offers are remembered for so long: short, so that what remembers them stops growing early.
            life_time_ms: 10_000,
            drain_ms: 60_000,
        }
    }

    /// Starts nodes beside each other and waits until they serve.
    fn start<const N: usize>(&mut self, place: Place, setups: [Setup; N]) -> Result<[Node; N]> {
        let mut nodes = Vec::with_capacity(N);
        for setup in &setups {
            let mut node = Node::spawn(place)?;
            node.set_up(setup)?;
            nodes.push(node);
        }
        for node in &mut nodes {
            node.ready()?;
        }
        nodes.try_into().map_err(|_| anyhow::anyhow!("as many nodes as set-ups"))
    }

    /// A load of the usual kind.
    fn load(&mut self, owner: &Node, ms: u64) -> Load {
        Load {
            socket: owner.socket.clone(),
            tasks: 8,
            ms,
            seed: self.random.next(),
            work: Work::Both,
            memory: Memory::Vec,
            longest: 1 << 20,
            timeout_ms: 30_000,
            ahead: 0,
            lenient: false,
        }
    }
}

/// What happens in a variant.
type Run = dyn FnOnce(&mut Bench, &mut Trial) -> Result<()>;

/// One way to run a scenario.
struct Variant {
    name: String,
    pace: Pace,
    run: Box<Run>,
}

/// A variant under way.
#[derive(Debug)]
struct Trial {
    sides: Vec<Side>,
    failures: Vec<String>,
    notes: Vec<String>,
    skipped: Option<String>,
    begun: Instant,
    time: Option<Duration>,
}

impl Variant {
    fn new(
        name: impl Into<String>,
        pace: Pace,
        run: impl FnOnce(&mut Bench, &mut Trial) -> Result<()> + 'static,
    ) -> Self {
        Self { name: name.into(), pace, run: Box::new(run) }
    }

    fn run(self, scenario: Scenario, bench: &mut Bench, time: Option<Duration>) -> Finding {
        let mut trial = Trial {
            sides: Vec::new(),
            failures: Vec::new(),
            notes: Vec::new(),
            skipped: None,
            begun: Instant::now(),
            time,
        };
        if let Err(error) = (self.run)(bench, &mut trial) {
            trial.failures.push(format!("{error:#}"));
        }
        let sides: Vec<_> = trial.sides.iter().map(|side| side.report(self.pace)).collect();
        let mut failures = trial.failures;
        if trial.skipped.is_none() {
            failures.extend(sides.iter().flat_map(|side| side.failures()));
        }
        Finding {
            scenario: scenario.name(),
            variant: self.name,
            seconds: trial.begun.elapsed().as_secs_f64(),
            sides,
            failures,
            notes: trial.notes,
            skipped: trial.skipped,
        }
    }
}

impl Trial {
    /// Whether another round is due: the quick run has so many, a long one at least those.
    fn goes_on(&self, rounds: usize, quick: usize) -> bool {
        rounds < quick || self.time.is_some_and(|time| self.begun.elapsed() < time)
    }
}
