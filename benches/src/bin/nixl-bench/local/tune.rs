//! Measures what each strategy costs on each route of this machine, for the executor's table.

use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result};
use nixl_descriptor::layout::LayoutKind;
use nixl_executor::{CopyRoute, Cost, Costs, MemoryKind, Strategy, StrategyPolicy};

use super::case::plain;
use super::fit::{Line, Point, fit, worst};
use super::machine::Machine;
use super::measure::{execute, options};
use super::pair::{Pair, Shape};
use crate::cases::Effort;
use crate::samples::Samples;
use crate::table::aligned;

const KIB: usize = 1024;
const MIB: usize = 1024 * KIB;

/// Chunks and bytes of each. Together they tell the three parts of a cost apart.
const POINTS: [(usize, usize); 8] = [
    (1, 4 * KIB),
    (1, MIB),
    (1, 64 * MIB),
    (16, 4 * KIB),
    (256, 4 * KIB),
    (4096, 4 * KIB),
    (1024, 64 * KIB),
    (64, MIB),
];

const HEADINGS: [&str; 6] =
    ["route", "strategy", "fixed us", "per chunk us", "GB/s", "worst error"];

/// Prints the table and writes it to `out`. What cannot be measured is left out, and the error printed.
pub(crate) fn tune(effort: Effort, out: &Path) -> Result<()> {
    let machine = Machine::open(Costs::default())?;
    let (mut rows, mut lines) = (Vec::new(), Vec::new());
    for (src, dst) in routes(&machine) {
        let route = CopyRoute::between(src, dst);
        for strategy in Strategy::ALL {
            // Strategies for pageable memory have no other figures for pinned memory, and the other way round.
            if strategy.check(src, dst, &machine.capabilities).is_err()
                || rows.iter().any(|(r, s, _)| (*r, *s) == (route, strategy))
            {
                continue;
            }
            match measured(&machine, effort, (src, dst), strategy) {
                Ok((line, error)) => {
                    let cost = Cost::new(line[0], line[1], gbps(line));
                    rows.push((route, strategy, cost));
                    lines.push(vec![
                        format!("{src}->{dst}"),
                        strategy.to_string(),
                        format!("{:.1}", cost.fixed_us()),
                        format!("{:.3}", cost.per_chunk_us()),
                        format!("{:.1}", cost.gbps()),
                        format!("{:.0} %", error * 100.0),
                    ]);
                }
                Err(error) => eprintln!("tune: {src}->{dst} by {strategy} is left out: {error:#}"),
            }
        }
    }
    println!("{}", aligned(&HEADINGS, lines));
    let costs = Costs::new(machine.name.clone(), rows);
    fs::write(out, costs.to_json() + "\n")
        .with_context(|| format!("cannot write {}", out.display()))?;
    println!("Written: {}", out.display());
    Ok(())
}

fn routes(machine: &Machine) -> Vec<(MemoryKind, MemoryKind)> {
    use MemoryKind::{Gpu, Pageable, Pinned};
    let mut routes = vec![(Pageable, Pageable)];
    if machine.gpus.count() > 0 {
        routes.extend([
            (Gpu(0), Pinned),
            (Pinned, Gpu(0)),
            (Gpu(0), Gpu(0)),
            (Gpu(0), Pageable),
            (Pageable, Gpu(0)),
        ]);
    }
    if machine.gpus.count() > 1 {
        routes.push((Gpu(0), Gpu(1)));
    }
    routes
}

/// The line of a strategy, and its largest relative error.
fn measured(
    machine: &Machine,
    effort: Effort,
    (src, dst): (MemoryKind, MemoryKind),
    strategy: Strategy,
) -> Result<(Line, f64)> {
    let kind = LayoutKind::FullyContiguous;
    let options = options().policy(StrategyPolicy::Require(strategy));
    let mut points = Vec::new();
    for (chunks, bytes) in POINTS {
        let moved = plain(chunks, bytes);
        let pair = Pair::new(machine, Shape { src: (src, kind), dst: (dst, kind), moved })?;
        let mut samples = Samples::default();
        execute(machine, &pair, &options)?;
        pair.check(machine)?;
        for _ in 0..effort.pick(5, 25) {
            samples.push(execute(machine, &pair, &options)?.0);
        }
        let p50 = samples.percentiles().context("no iteration was measured")?.p50;
        points.push(Point {
            chunks: pair.ops.len() as f64,
            bytes: pair.bytes as f64,
            us: p50 as f64 / 1e3,
        });
    }
    let line = fit(&points).context("the measured times determine no line")?;
    Ok((line, worst(&points, &line)))
}

/// Bytes that cost nothing are as good as infinitely fast: no link is nearly as fast as this.
fn gbps(line: Line) -> f64 {
    const FASTEST: f64 = 1e5;
    (1e-3 / line[2].max(1e-3 / FASTEST)).min(FASTEST)
}
