//! An owner and a reader that live to the end.

use std::time::Duration;

use anyhow::Result;

use super::{Bench, Rounds, Trial};
use crate::messages::{Executor, Memory, Work};
use crate::process::Place;
use crate::side::Side;
use crate::watch;

/// How long operations and memory may take to come back after a phase.
const QUIET: Duration = Duration::from_secs(10);
/// How long that is waited for once it has failed.
const HASTE: Duration = Duration::from_millis(100);

/// What the two do, phase after phase. Between phases nothing is in flight, and samples are taken.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pair {
    pub(super) executor: Executor,
    pub(super) work: Work,
    pub(super) memory: Memory,
    pub(super) longest: usize,
    /// The number of tasks in each phase of a cycle.
    pub(super) tasks: &'static [usize],
    /// The length of a phase of the quick run.
    pub(super) quick_ms: u64,
    /// The cycles of the quick run.
    pub(super) cycles: usize,
}

impl Pair {
    /// The length of a phase of a long run.
    const LONG_MS: u64 = 1000;

    pub(super) fn run(self, bench: &mut Bench, trial: &mut Trial) -> Result<()> {
        let setups = [bench.setup(self.executor), bench.setup(self.executor)];
        let [mut owner, mut reader] = bench.start(Place::Host, setups)?;
        trial.sides.extend([Side::new("owner"), Side::new("reader")]);
        let ms = if trial.time.is_quick() { self.quick_ms } else { Self::LONG_MS };
        let quick = Rounds::of(self.cycles, self.tasks.len());
        let mut cycles = 0;
        while trial.goes_on(cycles, quick) {
            for tasks in self.tasks {
                let mut load = bench.load(&owner, ms);
                load.tasks = *tasks;
                (load.work, load.memory, load.longest) = (self.work, self.memory, self.longest);
                let ran = reader.run(&load)?;
                let [owner_side, reader_side] = &mut trial.sides[..] else { return Ok(()) };
                reader_side.add(ran);
                let mut pairs = [(owner_side, &mut owner), (reader_side, &mut reader)];
                let within = if trial.failures.is_empty() { QUIET } else { HASTE };
                if let Some(left) = watch::quiet(&mut pairs, within)?
                    && trial.failures.is_empty()
                {
                    trial.failures.push(left);
                }
            }
            cycles += 1;
        }
        Ok(())
    }
}
