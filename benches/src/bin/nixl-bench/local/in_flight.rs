//! Many transfers in flight.

use std::collections::VecDeque;
use std::fs;

use anyhow::{Context as _, Result};

use super::block_on::block_on;
use super::case::Case;
use super::machine::Machine;
use super::measure::options;
use super::pair::Pair;
use super::{Engine, SUITE};
use crate::cases::Effort;
use crate::clock;
use crate::initiator::Findings;
use crate::report::{Gauge, Row};
use crate::samples::Samples;

/// Transfers in flight.
pub(crate) const IN_FLIGHT: usize = 256;
/// Transfers of a run.
const TRANSFERS: usize = 10_000;

/// A sample is the time of a run divided by its transfers. The first run, in which pools grow, does not count.
pub(crate) fn in_flight(
    machine: &Machine,
    case: &Case,
    effort: Effort,
    findings: &mut Findings,
) -> Result<()> {
    let pair = Pair::new(machine, case.shape)?;
    run(machine, &pair)?;
    pair.check(machine)?;
    let runs = effort.pick(2, 10);
    let mut samples = Samples::default();
    let (mut cpu, mut wall) = (0, 0);
    let mut path = String::new();
    let before = resident()?;
    for _ in 0..runs {
        pair.dst.poison(machine)?;
        let (cpu_begun, begun) = (clock::cpu_time(), clock::now());
        path = run(machine, &pair)?;
        let took = clock::now() - begun;
        cpu += clock::cpu_time() - cpu_begun;
        wall += took;
        samples.push(took / TRANSFERS as u64);
        pair.check(machine)?;
    }
    let after = resident()?;
    let (src, dst) = (pair.src.kind, pair.dst.kind);
    let bytes = pair.bytes / IN_FLIGHT;
    let row = Row::new(&case.name, Engine::Executor, &samples)?
        .over(Engine::Executor.path().0, &path)
        .between(SUITE, src, dst)
        .of(bytes)
        .in_batches_of(IN_FLIGHT)
        .verified();
    let rate = 1e9 / row.p50_ns.max(1) as f64;
    findings.rows.push(row.moving(bytes));
    let mut gauge = |what: &str, value: f64, unit: &str| {
        findings.gauges.push(Gauge::new(gauge_name(what, src, dst), value, unit));
    };
    gauge("rate", rate.round(), "transfers/s");
    gauge("cpu", (cpu as f64 / wall.max(1) as f64 * 1000.0).round() / 1000.0, "CPU s/s");
    gauge("rss_before", before as f64, "KiB");
    gauge("rss_after", after as f64, "KiB");
    Ok(())
}

pub(crate) fn gauge_name(what: &str, src: impl ToString, dst: impl ToString) -> String {
    format!("in_flight_{what}.{}->{}", src.to_string(), dst.to_string())
}

/// Keeps as many in flight as may be, and awaits the oldest first. Returns the way that the last took.
fn run(machine: &Machine, pair: &Pair) -> Result<String> {
    let options = options();
    let mut operations = VecDeque::with_capacity(IN_FLIGHT);
    let mut path = String::new();
    for index in 0..TRANSFERS + IN_FLIGHT {
        if index >= IN_FLIGHT {
            let mut oldest: nixl_ops::CopyOperation =
                operations.pop_front().context("there is one for each in flight")?;
            let completion = block_on(oldest.wait_for_completion())?;
            if index == TRANSFERS + IN_FLIGHT - 1 {
                path = completion.path().map_or_else(String::new, |path| path.kind().to_string());
            }
        }
        if index < TRANSFERS {
            // The same block was IN_FLIGHT transfers ago, so it is free again.
            let slot = index % IN_FLIGHT;
            let (from, to) = (&pair.src_blocks[slot..=slot], &pair.dst_blocks[slot..=slot]);
            let (src, dst) = (&pair.src.layout, &pair.dst.layout);
            operations.push_back(machine.executor.execute(src, from, dst, to, &options)?);
        }
    }
    Ok(path)
}

/// KiB of memory that this process has in RAM.
fn resident() -> Result<u64> {
    let status = fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let value = line.and_then(|line| line.trim().strip_suffix(" kB"));
    Ok(value.context("the kernel does not say how much memory is resident")?.parse()?)
}
