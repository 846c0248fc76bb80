//! The scenarios.

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
use crate::growth::{self, Pace};
use crate::messages::{Executor, Load, Memory, Setup, Work};
use crate::process::{Node, Place, Sockets};
use crate::report::Finding;
use crate::side::{Side, SideReport};

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

    /// The time after which a quick run does no more than the least of it.
    const fn quick(self) -> Duration {
        Duration::from_secs(match self {
            Self::Fresh => 24,
            Self::Abandoned => 16,
            // The rounds of a partition are few, and none is left out.
            Self::Partition => 0,
            Self::Restarts | Self::Exits => 12,
            Self::Kept => 6,
            Self::Exported => 18,
        })
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
        let count = variants.len() as f64;
        for variant in variants {
            let whole = bench.whole.map(|whole| whole.mul_f64(self.share()));
            let time = match whole {
                Some(whole) => Time::Long(whole.div_f64(count)),
                None => Time::Quick { most: self.quick().div_f64(count), times: 1 },
            };
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
type Run = dyn Fn(&mut Bench, &mut Trial) -> Result<()>;

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
    time: Time,
}

/// How long a variant goes on.
#[derive(Clone, Copy, Debug)]
enum Time {
    /// So many times its rounds, or on a slow machine so many times as long as this.
    Quick { most: Duration, times: u32 },
    /// For as long as this.
    Long(Duration),
}

impl Time {
    /// A quick run that grew goes on so many times as long when it is judged again.
    const AGAIN: u32 = 4;

    const fn is_quick(self) -> bool {
        matches!(self, Self::Quick { .. })
    }

    /// The time in which growth is judged again, after a run that was short.
    const fn again(self) -> Option<Self> {
        match self {
            Self::Quick { most, times: 1 } => Some(Self::Quick { most, times: Self::AGAIN }),
            Self::Quick { .. } | Self::Long(_) => None,
        }
    }

    /// Whether another round is due after this time and so many.
    fn goes_on(self, begun: Duration, rounds: usize, quick: Rounds) -> bool {
        match self {
            Self::Quick { most, times } => {
                let all = quick.all * times as usize;
                rounds < quick.least || (rounds < all && begun < most * times)
            }
            Self::Long(time) => rounds < quick.all || begun < time,
        }
    }
}

/// The rounds of a quick run.
#[derive(Clone, Copy, Debug)]
struct Rounds {
    all: usize,
    /// On a slow machine.
    least: usize,
}

impl Rounds {
    /// As many as growth is judged by, where each takes so many samples.
    const fn of(all: usize, samples: usize) -> Self {
        Self { all, least: growth::FEWEST.div_ceil(samples) }
    }
}

impl Variant {
    fn new(
        name: impl Into<String>,
        pace: Pace,
        run: impl Fn(&mut Bench, &mut Trial) -> Result<()> + 'static,
    ) -> Self {
        Self { name: name.into(), pace, run: Box::new(run) }
    }

    /// The few samples of a quick run may show growth where there is none: then a longer run decides.
    fn run(&self, scenario: Scenario, bench: &mut Bench, time: Time) -> Finding {
        let (mut finding, growths) = self.once(scenario, bench, time);
        if let Some(again) = time.again()
            && !growths.is_empty()
            && finding.failures.is_empty()
        {
            let (longer, grown) = self.once(scenario, bench, again);
            let seconds = finding.seconds + longer.seconds;
            finding = Finding { seconds, ..longer };
            finding
                .notes
                .push(format!("judged again in a longer run, since {}", growths.join(", ")));
            finding.failures.extend(grown);
        } else {
            finding.failures.extend(growths);
        }
        finding
    }

    /// A run of this time, and the metrics that grew in it.
    fn once(&self, scenario: Scenario, bench: &mut Bench, time: Time) -> (Finding, Vec<String>) {
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
        let (mut failures, mut growths) = (trial.failures, Vec::new());
        if trial.skipped.is_none() {
            failures.extend(sides.iter().flat_map(SideReport::failures));
            growths.extend(sides.iter().flat_map(SideReport::growths));
        }
        let finding = Finding {
            scenario: scenario.name(),
            variant: self.name.clone(),
            seconds: trial.begun.elapsed().as_secs_f64(),
            sides,
            failures,
            notes: trial.notes,
            skipped: trial.skipped,
        };
        (finding, growths)
    }
}

impl Trial {
    /// Whether another round is due: the quick run has so many, a long one at least those.
    fn goes_on(&self, rounds: usize, quick: Rounds) -> bool {
        self.time.goes_on(self.begun.elapsed(), rounds, quick)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_quick_run_ends_after_its_rounds_or_its_time_but_not_before_growth_can_be_judged() {
        let rounds = Rounds::of(8, 1);
        let (short, long) = (Duration::from_secs(1), Duration::from_secs(3));
        let quick = Time::Quick { most: Duration::from_secs(2), times: 1 };
        assert!(quick.goes_on(short, 7, rounds) && !quick.goes_on(short, 8, rounds));
        assert!(quick.goes_on(long, 3, rounds) && !quick.goes_on(long, 4, rounds));
        assert!(
            quick.goes_on(long, 0, Rounds::of(8, 4)) && !quick.goes_on(long, 1, Rounds::of(8, 4))
        );
        let again = quick.again().unwrap();
        assert!(again.goes_on(long, 31, rounds) && !again.goes_on(long, 32, rounds));
        assert!(!again.goes_on(long * 3, 4, rounds) && again.again().is_none());
        let whole = Time::Long(Duration::from_secs(2));
        assert!(whole.goes_on(short, 100, rounds) && whole.goes_on(long, 7, rounds));
        assert!(!whole.goes_on(long, 8, rounds));
    }

    #[test]
    fn the_quick_run_takes_less_than_two_minutes() {
        let all: Duration =
            Scenario::value_variants().iter().map(|scenario| scenario.quick()).sum();
        assert!(all < Duration::from_secs(90), "starts, ends and partitions take time, too");
    }
}
