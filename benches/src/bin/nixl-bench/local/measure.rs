//! One transfer at a time: the executor and the baselines in turns.
#![allow(unsafe_code, reason = "the baselines copy by address")]

use std::time::Duration;

use anyhow::{Context as _, Result};
use nixl_descriptor::layout::LayoutKind;
use nixl_executor::{BlockOptions, MemoryKind};

use super::block_on::block_on;
use super::case::{Case, plain};
use super::machine::Machine;
use super::pair::{Pair, Shape};
use super::{Engine, SUITE};
use crate::cases::Effort;
use crate::clock;
use crate::initiator::Findings;
use crate::report::Row;
use crate::samples::Samples;

/// Iterations before the first that is timed; they are checked like all others.
const WARM_UP: usize = 3;
/// Up to this, the data of every iteration is checked; above, that of the first, the middle and the last.
const CHECK_ALL: usize = 64 << 20;
/// What is copied before each one that is timed.
const SMALL: usize = 4096;
/// No transfer takes nearly as long.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// One engine, on the memory that it copies.
struct Subject<'a> {
    engine: Engine,
    pair: &'a Pair,
    /// Copied before each one that is timed.
    small: &'a Pair,
    samples: Samples,
    path: String,
}

pub(crate) fn measure(
    machine: &Machine,
    case: &Case,
    effort: Effort,
    findings: &mut Findings,
) -> Result<()> {
    let pair = Pair::new(machine, case.shape)?;
    let engines = engines(machine, case.shape, pair.ops.len());
    let small = Pair::new(machine, whole(case.shape, SMALL))?;
    // The limit needs memory in one piece, of which chunks have none.
    let whole = match engines.contains(&Engine::CudaOneCopy) && pair.ops.len() > 1 {
        true => Some(Pair::new(machine, whole(case.shape, pair.bytes))?),
        false => None,
    };
    let subject = |engine: Engine| {
        let pair = whole.as_ref().filter(|_| engine == Engine::CudaOneCopy).unwrap_or(&pair);
        Subject {
            engine,
            pair,
            small: &small,
            samples: Samples::default(),
            path: engine.path().1.to_owned(),
        }
    };
    let mut subjects: Vec<_> = engines.into_iter().map(subject).collect();
    let iterations = iterations(effort, pair.bytes);
    let rounds = WARM_UP + iterations;
    let mut round = 0;
    while round < rounds {
        let checked = pair.bytes <= CHECK_ALL
            || [0, WARM_UP, WARM_UP + iterations / 2, rounds - 1].contains(&round);
        for turn in 0..subjects.len() {
            let index = (round + turn) % subjects.len();
            let Some(subject) = subjects.get_mut(index) else { continue };
            let once = subject.once(machine, checked);
            match once {
                Ok(took) if round >= WARM_UP => subject.samples.push(took),
                Ok(_) => {}
                // What cannot do it leaves the others their row; the round goes on without its turn.
                Err(error) => {
                    let name = subject.engine.name();
                    findings.left_out.push(format!("{case} by {name}: {error:#}"));
                    subjects.remove(index);
                    if subjects.is_empty() {
                        return Ok(());
                    }
                }
            }
        }
        round += 1;
    }
    for subject in subjects {
        findings.rows.push(subject.row(case)?);
    }
    Ok(())
}

/// Who can copy there.
fn engines(machine: &Machine, shape: Shape, chunks: usize) -> Vec<Engine> {
    let (src, dst) = (shape.src.0, shape.dst.0);
    let mut engines = vec![Engine::Executor];
    if src.is_host() && dst.is_host() {
        engines.push(Engine::Memcpy);
    } else if src == MemoryKind::Pageable || dst == MemoryKind::Pageable {
        engines.push(Engine::CudaPageable);
    } else {
        if chunks > 1 {
            engines.push(Engine::CudaCopies);
            if machine.capabilities.batch() {
                engines.push(Engine::CudaBatch);
            }
        }
        engines.push(Engine::CudaOneCopy);
    }
    engines
}

/// As many bytes between the same memories in one piece.
fn whole(shape: Shape, bytes: usize) -> Shape {
    let kind = LayoutKind::FullyContiguous;
    Shape { src: (shape.src.0, kind), dst: (shape.dst.0, kind), moved: plain(1, bytes) }
}

fn iterations(effort: Effort, bytes: usize) -> usize {
    match bytes {
        0..=65_536 => effort.pick(100, 1000),
        65_537..=16_777_216 => effort.pick(20, 100),
        16_777_217..=100_000_000 => effort.pick(8, 40),
        _ => effort.pick(4, 15),
    }
}

impl Subject<'_> {
    /// Poisons the destination, copies, and checks. Returns the nanoseconds that the copy took.
    fn once(&mut self, machine: &Machine, checked: bool) -> Result<u64> {
        self.pair.dst.poison(machine)?;
        // Poisoning and checking take so long that the processor has gone to sleep and the code out of its caches: some
        // twenty microseconds more would be measured, of all engines.
        self.copy(machine, self.small)?;
        let took = self.copy(machine, self.pair)?;
        if checked {
            self.pair.check(machine)?;
        }
        Ok(took)
    }

    /// Returns the nanoseconds that it took.
    fn copy(&mut self, machine: &Machine, pair: &Pair) -> Result<u64> {
        match self.engine {
            Engine::Executor => {
                let (took, path) = execute(machine, pair, &options())?;
                self.path = path;
                Ok(took)
            }
            Engine::CudaBatch => batch(machine, pair),
            Engine::CudaCopies | Engine::CudaOneCopy | Engine::CudaPageable => {
                copies(machine, pair)
            }
            Engine::Memcpy => Ok(memcpy(pair)),
        }
    }

    fn row(&self, case: &Case) -> Result<Row> {
        let chunks = self.pair.ops.len().max(1);
        let row = Row::new(&case.name, self.engine, &self.samples)?
            .over(self.engine.path().0, &self.path)
            .between(SUITE, self.pair.src.kind, self.pair.dst.kind)
            .of(self.pair.bytes / chunks)
            .in_batches_of(chunks)
            .verified();
        Ok(row.moving(self.pair.bytes))
    }
}

pub(crate) fn options() -> BlockOptions {
    BlockOptions::new().timeout(PATIENCE)
}

/// From submit to awaited completion, and which way the bytes took.
pub(crate) fn execute(
    machine: &Machine,
    pair: &Pair,
    options: &BlockOptions,
) -> Result<(u64, String)> {
    let Pair { src, dst, src_blocks, dst_blocks, .. } = pair;
    let begun = clock::now();
    let mut operation =
        machine.executor.execute(&src.layout, src_blocks, &dst.layout, dst_blocks, options)?;
    let completion = block_on(operation.wait_for_completion())?;
    let took = clock::now() - begun;
    let path = completion.path().context("the executor does not say which way it took")?;
    Ok((took, path.kind().to_string()))
}

fn copies(machine: &Machine, pair: &Pair) -> Result<u64> {
    let stream = &machine.copier(pair.src.kind, pair.dst.kind)?.stream;
    let begun = clock::now();
    let queued = pair.ops.iter().try_for_each(|op| {
        // SAFETY: the plan's ranges lie in the memory of the two sides, which is kept, and which nothing else uses,
        // until the stream has passed, below.
        unsafe { stream.copy_async(op.dst(), op.src(), op.bytes() as usize) }
    });
    stream.synchronize()?;
    queued?;
    Ok(clock::now() - begun)
}

fn batch(machine: &Machine, pair: &Pair) -> Result<u64> {
    let stream = &machine.copier(pair.src.kind, pair.dst.kind)?.stream;
    let dsts: Vec<_> = pair.ops.iter().map(|op| op.dst()).collect();
    let srcs: Vec<_> = pair.ops.iter().map(|op| op.src()).collect();
    let lens: Vec<_> = pair.ops.iter().map(|op| op.bytes() as usize).collect();
    let begun = clock::now();
    // SAFETY: as in `copies`; a plan has no overlapping destinations.
    let queued = unsafe { stream.copy_batch_async(&dsts, &srcs, &lens) };
    stream.synchronize()?;
    queued?;
    Ok(clock::now() - begun)
}

fn memcpy(pair: &Pair) -> u64 {
    let begun = clock::now();
    for op in &pair.ops {
        let (src, dst) = (op.src() as *const u8, op.dst() as *mut u8);
        // SAFETY: the plan's ranges lie in host memory of the two sides, which nothing else uses now, and do not overlap.
        unsafe { std::ptr::copy_nonoverlapping(src, dst, op.bytes() as usize) };
    }
    clock::now() - begun
}
