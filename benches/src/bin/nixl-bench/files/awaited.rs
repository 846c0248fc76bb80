//! One page after the other, awaited in a task of tokio, and a plain `pread` of the same pages, in turns of some each.

use std::thread;
use std::time::Duration;

use anyhow::{Result, ensure};
use nixl_executor::files::{FileExecutor, FileIoOptions, IoKind};

use super::SUITE;
use super::arrangement::Arrangement;
use super::case::{PAGE, plain};
use super::engine::Engine;
use super::place::Place;
use super::side::Side;
use super::threads::once;
use super::world::World;
use crate::blocks::{Holds, Polled};
use crate::cases::Effort;
use crate::clock;
use crate::initiator::Findings;
use crate::pattern::Pattern;
use crate::report::{Gauge, Row};
use crate::samples::Samples;

pub(super) const CASE: &str = "read-page-awaited";
/// The gauge of an executor with nothing to do.
pub(super) const IDLE: &str = "processor time of an executor of files with nothing to do";

/// Pages of the file, of which each is read in turn.
const PAGES: usize = 4096;
/// Reads before the first that counts.
const WARM_UP: usize = 128;
/// Reads of one engine before it is the other's turn.
const RUN: usize = 32;

/// The gauge of the longest poll.
pub(super) fn held(place: Place) -> String {
    format!("longest poll of {CASE} {place}, CPU time, p99")
}

pub(super) fn measure(
    world: &mut World,
    place: Place,
    effort: Effort,
    findings: &mut Findings,
) -> Result<()> {
    let file = world.file(place, (2 * PAGES * PAGE) as u64)?;
    let side = Side::new(&file, Arrangement::Contiguous, plain(PAGES, PAGE), 2)?;
    let pattern = Pattern::new(3);
    side.fill_file(pattern)?;
    side.fill_memory(pattern.poison())?;
    ensure!(side.calls.len() == PAGES, "pages of the file lie together");
    let engines = [Engine::Executor, Engine::Threads(1)];
    let mut took = engines.map(|_| (Samples::default(), Samples::default()));
    let mut holds = Holds::default();
    let reads = WARM_UP + effort.pick(1000, PAGES - WARM_UP);
    for first in (0..reads).step_by(RUN) {
        for turn in 0..engines.len() {
            let index = (first / RUN + turn) % engines.len();
            for page in first..reads.min(first + RUN) {
                let (begun, cpu) = (clock::now(), clock::cpu_time());
                match engines[index] {
                    Engine::Executor => {
                        let read = read(&world.executor, &side, page);
                        world.runtime.block_on(Polled::new(read, &mut holds))?;
                    }
                    _ => once(side.fd(), IoKind::Read, &side.calls[PAGES - 1 - page])?,
                }
                let (took_now, cpu) = (clock::now() - begun, clock::cpu_time() - cpu);
                if page >= WARM_UP {
                    took[index].0.push(took_now);
                    took[index].1.push(cpu);
                }
            }
        }
    }
    // A quick run reads some pages alone.
    if effort == Effort::Full {
        side.check_memory(pattern)?;
    }
    for (engine, (took, cpu)) in engines.into_iter().zip(took) {
        let cpu = cpu.percentiles().map_or(0, |p| p.p50);
        let row = Row::new(CASE, engine, &took)?.between(SUITE, "contiguous", place);
        let path = match engine {
            Engine::Executor => world.executor.choice(&file).kind().name(),
            _ => "preadv",
        };
        findings.rows.push(row.over("file", path).of(PAGE).moving(PAGE).using(cpu).verified());
    }
    if let Some(p) = holds.longest_cpu.percentiles() {
        findings.gauges.push(Gauge::new(held(place), p.p99 as f64 / 1e3, "us"));
    }
    Ok(())
}

async fn read(executor: &FileExecutor, side: &Side, page: usize) -> Result<()> {
    let (of_file, block) = (side.file_blocks[page], side.blocks[page]);
    let options = FileIoOptions::new();
    let mut operation =
        executor.read_blocks(&side.file, &[of_file], &side.memory, &[block], &options)?;
    operation.wait_for_completion().await?;
    Ok(())
}

/// The processor time of this process while its executors have nothing to do.
pub(super) fn idle(_: &World, findings: &mut Findings) -> Result<()> {
    const WATCHED: Duration = Duration::from_secs(2);
    let cpu = clock::cpu_time();
    thread::sleep(WATCHED);
    let share = (clock::cpu_time() - cpu) as f64 / WATCHED.as_nanos() as f64;
    findings.gauges.push(Gauge::new(IDLE, (share * 1e5).round() / 1e3, "% of a core"));
    Ok(())
}
