//! Blocks that a request waits for, alone and beside writes that are offered at full rate.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use anyhow::Result;
use nixl_descriptor::layout::Layout;
use nixl_executor::files::{FileExecutor, FileIoOptions, FileLayout};
use tokio::task::JoinSet;

use super::SUITE;
use super::arrangement::Arrangement;
use super::case::model;
use super::engine::Engine;
use super::place::Place;
use super::side::Side;
use super::world::World;
use crate::cases::Effort;
use crate::clock;
use crate::initiator::Findings;
use crate::pattern::Pattern;
use crate::report::{Gauge, Row};
use crate::samples::Samples;

pub(super) const CASE: &str = "read-demanded-block";
/// What it is beside.
pub(super) const BESIDE: [&str; 2] = ["alone", "beside-writes"];
/// The gauge of the writes.
pub(super) const WRITES: &str = "writes beside reads of demand";

/// Writes of a block each that are offered at a time.
const WRITERS: usize = 64;
/// Blocks that are read in turn.
const BLOCKS: usize = 16;

pub(super) fn measure(world: &mut World, effort: Effort, findings: &mut Findings) -> Result<()> {
    let (read, written) = (model(BLOCKS), model(WRITERS));
    let mut side = |shape| {
        let bytes = nixl_descriptor::layout::LayoutGeometry::try_from(shape)?.bytes();
        let file = world.file(Place::Disk, bytes as u64)?;
        Side::new(&file, Arrangement::Contiguous, shape, 1)
    };
    let (read, written) = (side(read)?, side(written)?);
    let (pattern, of_writes) = (Pattern::new(11), Pattern::new(12));
    read.fill_file(pattern)?;
    written.fill_file(of_writes.poison())?;
    written.fill_memory(of_writes)?;
    let reads = effort.pick(60, 200);
    let alone = world.runtime.block_on(demanded(&world.executor, &read, reads))?;
    let beside = world.runtime.block_on(async {
        let (stop, bytes) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
        let mut writers = JoinSet::new();
        for (of_file, block) in written.file_blocks.iter().zip(&written.blocks) {
            let places = (written.memory.clone(), *block, written.file.clone(), *of_file);
            let (executor, stop, bytes) =
                (world.executor.clone(), Arc::clone(&stop), Arc::clone(&bytes));
            writers.spawn(writes(executor, places, stop, bytes));
        }
        // All writers have begun.
        tokio::task::yield_now().await;
        read.fill_memory(pattern.poison())?;
        let (begun, before) = (clock::now(), bytes.load(Ordering::Relaxed));
        let samples = demanded(&world.executor, &read, reads).await?;
        let (took, after) = (clock::now() - begun, bytes.load(Ordering::Relaxed));
        stop.store(true, Ordering::Relaxed);
        while let Some(ended) = writers.join_next().await {
            ended??;
        }
        anyhow::Ok((samples, (after - before) as f64 / took as f64))
    });
    let (beside, written_gbps) = beside?;
    read.check_memory(pattern)?;
    written.check_file(of_writes)?;
    let bytes = read.file.geometry().block_len();
    for (which, samples) in BESIDE.into_iter().zip([alone, beside]) {
        let row = Row::new(&format!("{CASE}-{which}"), Engine::Executor, &samples)?;
        let row = row.between(SUITE, "contiguous", Place::Disk).of(bytes).moving(bytes);
        findings.rows.push(row.over("file", "executor").verified());
    }
    let rounded = (written_gbps * 1000.0).round() / 1000.0;
    findings.gauges.push(Gauge::new(WRITES, rounded, "GB/s"));
    Ok(())
}

/// Reads one block after the other.
async fn demanded(executor: &FileExecutor, side: &Side, reads: usize) -> Result<Samples> {
    let (mut samples, options) = (Samples::default(), FileIoOptions::new());
    for read in 0..reads {
        let index = read % side.blocks.len();
        let (of_file, block) = (side.file_blocks[index], side.blocks[index]);
        let begun = clock::now();
        executor
            .read_blocks(&side.file, &[of_file], &side.memory, &[block], &options)?
            .wait_for_completion()
            .await?;
        samples.push(clock::now() - begun);
    }
    Ok(samples)
}

/// Writes one block again and again.
async fn writes(
    executor: FileExecutor,
    (memory, block, file, of_file): (Layout, usize, FileLayout, usize),
    stop: Arc<AtomicBool>,
    bytes: Arc<AtomicUsize>,
) -> Result<()> {
    let options = FileIoOptions::new();
    while !stop.load(Ordering::Relaxed) {
        executor
            .write_blocks(&memory, &[block], &file, &[of_file], &options)?
            .wait_for_completion()
            .await?;
        bytes.fetch_add(file.geometry().block_len(), Ordering::Relaxed);
    }
    Ok(())
}
