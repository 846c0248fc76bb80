//! One operation of many blocks at a time, by all engines in turns.

use std::collections::HashMap;

use anyhow::{Context as _, Result};
use nixl_executor::files::{FileExecutor, FileIoOptions, FileOperation, IoKind};
use tokio::task::JoinSet;

use super::case::Batch;
use super::engine::Engine;
use super::posix::Known;
use super::ring::Ring;
use super::side::Side;
use super::world::World;
use crate::blocks::{Holds, Polled};
use crate::cases::Effort;
use crate::clock;
use crate::initiator::Findings;
use crate::pattern::Pattern;
use crate::report::{Gauge, Row};
use crate::samples::Samples;

/// Rounds before the first that counts.
const WARM_UP: usize = 1;

/// The gauge of the longest poll.
pub(super) fn held(case: &str) -> String {
    format!("longest poll of {case}, CPU time, p50")
}

/// The gauge of the begin, which is no poll.
pub(super) fn begun(case: &str) -> String {
    format!("begin of {case}, CPU time, p50")
}

/// What one engine took.
struct Subject {
    engine: Engine,
    took: Samples,
    cpu: Samples,
    path: String,
}

/// What the engines need, made once.
struct Tools<'a> {
    world: &'a World,
    side: &'a Side,
    rings: HashMap<String, Ring>,
    known: Option<Known>,
    holds: Holds,
    begins: Samples,
}

pub(super) fn measure(
    world: &mut World,
    case: &Batch,
    effort: Effort,
    findings: &mut Findings,
) -> Result<()> {
    let len = case.shape.blocks * case.apart * case.block_bytes();
    let file = world.file(case.place, len as u64)?;
    let side = Side::new(&file, case.arrangement, case.shape, case.apart)?;
    let original = Pattern::new(7);
    side.fill_file(original)?;
    let mut tools = Tools {
        world,
        side: &side,
        rings: HashMap::new(),
        known: None,
        holds: Holds::default(),
        begins: Samples::default(),
    };
    let mut subjects = Vec::new();
    for &engine in &case.engines {
        // A baseline that cannot be set up leaves the others their rows.
        match tools.set_up(engine) {
            Ok(()) => subjects.push(Subject {
                engine,
                took: Samples::default(),
                cpu: Samples::default(),
                path: String::new(),
            }),
            Err(error) => findings.left_out.push(format!("{case} by {engine}: {error:#}")),
        }
    }
    let rounds = WARM_UP + effort.pick(5, 15);
    for round in 0..rounds {
        let is_checked = [0, WARM_UP, rounds / 2, rounds - 1].contains(&round);
        for turn in 0..subjects.len() {
            let index = (round + turn) % subjects.len();
            let pattern = Pattern::new(1000 + (round * subjects.len() + turn) as u64);
            let subject = &mut subjects[index];
            if is_checked {
                match case.kind {
                    IoKind::Read => side.fill_memory(original.poison())?,
                    _ => side.fill_memory(pattern)?,
                }
            }
            let (begun, cpu) = (clock::now(), clock::cpu_time());
            let path = tools.once(subject.engine, case.kind);
            let (took, cpu) = (clock::now() - begun, clock::cpu_time() - cpu);
            subject.path = path.with_context(|| format!("{case} by {}", subject.engine))?;
            if is_checked {
                match case.kind {
                    IoKind::Read => side.check_memory(original),
                    _ => side.check_file(pattern),
                }
                .with_context(|| format!("{case} by {}", subject.engine))?;
            }
            if round >= WARM_UP {
                subject.took.push(took);
                subject.cpu.push(cpu);
            }
        }
    }
    for Subject { engine, took, cpu, path } in subjects {
        let cpu = cpu.percentiles().context("no iteration was measured")?.p50;
        let row = Row::new(&case.name, case.name_of(engine), &took)?;
        let (local, remote) = case.ends();
        let row = row.between(case.suite, local, remote).over("file", &path);
        let row = row.of(case.block_bytes()).in_batches_of(case.shape.blocks);
        findings.rows.push(row.moving(side.bytes()).using(cpu).verified());
    }
    let name = case.to_string();
    let of_executor = [(held(&name), &tools.holds.longest_cpu), (begun(&name), &tools.begins)];
    for (name, samples) in of_executor {
        if let Some(p) = samples.percentiles() {
            findings.gauges.push(Gauge::new(name, p.p50 as f64 / 1e3, "us"));
        }
    }
    Ok(())
}

impl Tools<'_> {
    fn set_up(&mut self, engine: Engine) -> Result<()> {
        let (side, fd) = (self.side, self.side.fd());
        match engine {
            Engine::Ring(_) | Engine::RingFixed(_) => {
                let fixed = matches!(engine, Engine::RingFixed(_));
                self.rings.insert(engine.name(), Ring::new(fd, &side.memory, fixed)?);
            }
            Engine::Posix => {
                let posix =
                    self.world.posix.as_ref().map_err(|error| anyhow::anyhow!("{error:#}"))?;
                self.known = Some(posix.register(&side.memory, fd, side.file.range().end)?);
            }
            _ => {}
        }
        Ok(())
    }

    /// Moves all blocks once. Returns the path.
    fn once(&mut self, engine: Engine, kind: IoKind) -> Result<String> {
        let (side, world) = (self.side, self.world);
        let (fd, calls) = (side.fd(), &side.calls);
        match engine {
            Engine::Executor => {
                let (holds, begins) = (&mut self.holds, &mut self.begins);
                world.runtime.block_on(async {
                    let cpu = clock::thread_cpu_time();
                    let operation = begin(&world.executor, side, kind)?;
                    begins.push(clock::thread_cpu_time() - cpu);
                    Polled::new(end(operation), holds).await
                })
            }
            Engine::ExecutorThreads => {
                let operation =
                    world.runtime.block_on(async { begin(&world.threaded, side, kind) });
                world.runtime.block_on(end(operation?))
            }
            Engine::ExecutorEach(count) => {
                world.runtime.block_on(each(&world.executor, side, kind, count))
            }
            Engine::Threads(count) => {
                super::threads::run(fd, kind, calls, count)?;
                Ok("preadv".to_owned())
            }
            Engine::Ring(depth) | Engine::RingFixed(depth) => {
                let ring = self.rings.get_mut(&engine.name()).context("the ring is gone")?;
                ring.run(fd, kind, calls, depth)?;
                Ok("io_uring".to_owned())
            }
            Engine::Posix => {
                let posix = world.posix.as_ref().map_err(|error| anyhow::anyhow!("{error:#}"))?;
                posix.run(fd, kind, calls)?;
                Ok("POSIX".to_owned())
            }
        }
    }
}

fn begin(executor: &FileExecutor, side: &Side, kind: IoKind) -> Result<FileOperation> {
    let options = FileIoOptions::new();
    let (of_file, blocks) = (&side.file_blocks, &side.blocks);
    Ok(match kind {
        IoKind::Read => {
            executor.read_blocks(&side.file, of_file, &side.memory, blocks, &options)?
        }
        _ => executor.write_blocks(&side.memory, blocks, &side.file, of_file, &options)?,
    })
}

/// Waits for the end. Returns the path.
async fn end(mut operation: FileOperation) -> Result<String> {
    let completion = operation.wait_for_completion().await?;
    Ok(completion.path().map_or_else(|| "none".to_owned(), |path| path.transport().to_owned()))
}

/// One operation for each block, by so many tasks.
async fn each(executor: &FileExecutor, side: &Side, kind: IoKind, tasks: usize) -> Result<String> {
    let mut set = JoinSet::new();
    for task in 0..tasks {
        let pairs = side.file_blocks.iter().copied().zip(side.blocks.iter().copied());
        let pairs: Vec<_> = pairs.skip(task).step_by(tasks).collect();
        let (executor, file, memory) = (executor.clone(), side.file.clone(), side.memory.clone());
        set.spawn(async move {
            let options = FileIoOptions::new();
            for (of_file, block) in pairs {
                let mut operation = match kind {
                    IoKind::Read => {
                        executor.read_blocks(&file, &[of_file], &memory, &[block], &options)?
                    }
                    _ => executor.write_blocks(&memory, &[block], &file, &[of_file], &options)?,
                };
                operation.wait_for_completion().await?;
            }
            anyhow::Ok(())
        });
    }
    while let Some(ended) = set.join_next().await {
        ended??;
    }
    Ok(executor.choice(side.region()).kind().name().to_owned())
}
