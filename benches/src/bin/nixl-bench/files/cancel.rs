//! The time until the memory of a long read is back after its cancellation.

use std::thread;
use std::time::Duration;

use anyhow::{Result, ensure};
use nixl_descriptor::LeaseMode;
use nixl_executor::files::FileIoOptions;

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
use crate::report::Row;
use crate::samples::Samples;

pub(super) const CASE: &str = "cancel-read-of-blocks-64";

/// How long a read goes on before it is cancelled, and the pause between two looks at its memory.
const BEFORE: Duration = Duration::from_millis(20);
const PAUSE: Duration = Duration::from_micros(100);

pub(super) fn measure(world: &mut World, effort: Effort, findings: &mut Findings) -> Result<()> {
    let shape = model(64);
    let bytes = nixl_descriptor::layout::LayoutGeometry::try_from(shape)?.bytes();
    let file = world.file(Place::Disk, bytes as u64)?;
    let side = Side::new(&file, Arrangement::Contiguous, shape, 1)?;
    side.fill_file(Pattern::new(5))?;
    let mut samples = Samples::default();
    for _ in 0..effort.pick(10, 50) {
        let options = FileIoOptions::new();
        let (of_file, blocks) = (&side.file_blocks, &side.blocks);
        let read =
            world.executor.read_blocks(&side.file, of_file, &side.memory, blocks, &options)?;
        thread::sleep(BEFORE);
        let begun = clock::now();
        drop(read);
        while side.memory.lease(blocks, 0..shape.layers, LeaseMode::Write).is_err() {
            ensure!(clock::now() - begun < 10_000_000_000, "the memory is leased after 10 s");
            thread::sleep(PAUSE);
        }
        samples.push(clock::now() - begun);
    }
    let row = Row::new(CASE, Engine::Executor, &samples)?;
    let row = row.between(SUITE, "contiguous", Place::Disk);
    findings.rows.push(row.of(bytes / shape.blocks).in_batches_of(shape.blocks));
    Ok(())
}
