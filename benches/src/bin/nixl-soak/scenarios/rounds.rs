//! A process that lives on, and peers of its that end in the middle of operations, one after another.

use std::os::unix::process::ExitStatusExt as _;
use std::process::ExitStatus;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::Result;
use rustix::process::Signal;

use super::{Bench, Trial};
use crate::messages::{Command, Executor, Load, Memory, Setup, Work};
use crate::process::{Node, Place, Sockets};
use crate::side::Side;
use crate::watch::Baseline;

/// Deadline of operations and offers: those of a peer that has ended may last so long.
const DEADLINE_MS: u64 = 300;
/// How long after its peer's end a process may hold what was the peer's.
const FLAT: Duration = Duration::from_secs(10);

/// How long the first operations of two processes may take.
const UNDER_WAY: Duration = Duration::from_secs(20);

/// How a process ends.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum End {
    /// It calls `exit`.
    Exit,
    /// It returns from `main`.
    Return,
    Terminate,
    Kill,
}

/// What one process does with the offers of the other.
#[derive(Clone, Copy, Debug)]
pub(super) struct Traffic {
    pub(super) work: Work,
    pub(super) memory: Memory,
    pub(super) longest: usize,
}

#[derive(Clone, Copy, Debug)]
pub(super) struct Rounds {
    pub(super) executor: Executor,
    /// What the process that lives on is called.
    pub(super) role: &'static str,
    pub(super) survivor: Option<Traffic>,
    pub(super) child: Option<Traffic>,
    /// Round by round, over and over.
    pub(super) ends: &'static [End],
    /// The rounds of the quick run.
    pub(super) quick: usize,
}

impl Rounds {
    pub(super) fn run(self, bench: &mut Bench, trial: &mut Trial) -> Result<()> {
        let setup = self.setup(bench);
        let [mut survivor] = bench.start(Place::Host, [setup])?;
        let mut side = Side::new(self.role);
        let mut baseline = Baseline::default();
        let result = self.all(bench, trial, &mut survivor, &mut side, &mut baseline);
        trial
            .notes
            .push(format!("flat {:.1?} after its peer's end at the latest", baseline.slowest));
        trial.sides.push(side);
        result
    }

    fn all(
        self,
        bench: &mut Bench,
        trial: &mut Trial,
        survivor: &mut Node,
        side: &mut Side,
        baseline: &mut Baseline,
    ) -> Result<()> {
        let mut next = self.spawn(bench)?;
        let mut rounds = 0;
        while trial.goes_on(rounds, super::Rounds::of(self.quick, 1)) {
            let mut child = next;
            child.ready()?;
            // It starts while this round goes on.
            next = self.spawn(bench)?;
            let end = self.ends[rounds % self.ends.len()];
            let served =
                if self.survivor.is_some() { 0 } else { survivor.state()?.served.operations };
            let here = self.load(self.survivor, bench, &child);
            let there = self.load(self.child, bench, survivor);
            if let Some(load) = &there {
                child.begin(load)?;
            }
            if let Some(load) = &here {
                survivor.begin(load)?;
            }
            let owner = if self.survivor.is_some() { &mut child } else { &mut *survivor };
            if !is_under_way(owner, served)? {
                trial.failures.push(format!("round {rounds}: no operation within {UNDER_WAY:?}"));
                break;
            }
            thread::sleep(Duration::from_millis(bench.random.between(0, 150)));
            end.come(&mut child)?;
            match child.end()? {
                Some(status) if end.is(status) => {}
                Some(status) => trial.failures.push(format!("{end:?} led to {status}")),
                None => trial.failures.push(format!("{end:?}: the process did not end")),
            }
            Sockets::remove(&child.socket);
            if let Some(load) = &here {
                side.add(survivor.ran(load)?);
            }
            if let Some(left) = baseline.back(side, survivor, FLAT)? {
                trial.failures.push(format!("round {rounds}, {end:?}: {left}"));
                break;
            }
            rounds += 1;
        }
        Ok(())
    }

    fn setup(self, bench: &mut Bench) -> Setup {
        let setup = bench.setup(self.executor);
        Setup { timeout_ms: DEADLINE_MS, life_time_ms: 2 * DEADLINE_MS, ..setup }
    }

    fn spawn(self, bench: &mut Bench) -> Result<Node> {
        let mut node = Node::spawn(Place::Host)?;
        node.set_up(&self.setup(bench))?;
        Ok(node)
    }

    fn load(self, traffic: Option<Traffic>, bench: &mut Bench, owner: &Node) -> Option<Load> {
        let Traffic { work, memory, longest } = traffic?;
        // Longer than any process has before it ends.
        let load = bench.load(owner, 60_000);
        let timeout_ms = DEADLINE_MS;
        Some(Load { work, memory, longest, timeout_ms, lenient: true, ..load })
    }
}

/// Waits until an owner has made some offers more than these.
fn is_under_way(owner: &mut Node, served: u64) -> Result<bool> {
    let begun = Instant::now();
    while owner.state()?.served.operations < served + 2 {
        if begun.elapsed() > UNDER_WAY {
            return Ok(false);
        }
        thread::sleep(Duration::from_millis(2));
    }
    Ok(true)
}

impl End {
    /// The code that a process gives to `exit`.
    const CODE: u8 = 7;

    fn come(self, node: &mut Node) -> Result<()> {
        match self {
            Self::Exit => node.tell(&Command::Exit(Self::CODE)),
            Self::Return => node.tell(&Command::Return),
            Self::Terminate => node.signal(Signal::TERM),
            Self::Kill => node.signal(Signal::KILL),
        }
    }

    fn is(self, status: ExitStatus) -> bool {
        match self {
            Self::Exit => status.code() == Some(i32::from(Self::CODE)),
            Self::Return => status.code() == Some(0),
            Self::Terminate => status.signal() == Some(Signal::TERM.as_raw()),
            Self::Kill => status.signal() == Some(Signal::KILL.as_raw()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_end_is_known_by_its_status() {
        let all = [End::Exit, End::Return, End::Terminate, End::Kill];
        let statuses = [7 << 8, 0, 15, 9].map(ExitStatus::from_raw);
        for (row, end) in all.into_iter().enumerate() {
            for (column, status) in statuses.into_iter().enumerate() {
                assert_eq!(end.is(status), row == column, "{end:?} {status}");
            }
        }
    }
}
