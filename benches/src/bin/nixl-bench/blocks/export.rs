//! Time of an export of untouched memory, and of the first write of all of it afterwards.

use std::fmt;
use std::num::NonZeroUsize;
use std::thread;
use std::time::Duration;

use anyhow::{Result, ensure};
use nixl_connector::{ExportOptions, ExportProgress};
use nixl_descriptor::layout::{Dimensions, Inner, LayerOrder, Layout, LayoutGeometry};
use nixl_descriptor::{Region, SharedMemory};

use super::SUITE;
use super::session::Session;
use crate::clock;
use crate::initiator::Findings;
use crate::report::Row;
use crate::samples::Samples;

pub(crate) const CASE: &str = "export";
const FIRST_WRITE: &str = "first-write";
const LAYERS: usize = 8;
const PAGE_BYTES: usize = 64 << 10;

/// Memory, and by how many threads its pages are allocated ahead.
#[derive(Clone, Copy)]
struct Way {
    huge: bool,
    threads: usize,
}

impl fmt::Display for Way {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.huge { "huge-pages" } else { "pages" })?;
        match self.threads {
            0 => f.write_str("-untouched"),
            threads => write!(f, "-by-{threads}"),
        }
    }
}

impl Way {
    fn all() -> Vec<Self> {
        let cores = thread::available_parallelism().map_or(1, usize::from);
        let mut threads = vec![0, 1, 2, 4, 8, cores];
        threads.retain(|threads| *threads <= cores);
        threads.sort_unstable();
        threads.dedup();
        let of = |huge| threads.iter().map(move |&threads| Self { huge, threads });
        let has_huge = SharedMemory::with_huge_pages(1).is_ok();
        of(false).chain(of(true).filter(|_| has_huge)).collect()
    }

    fn memory(self, len: usize) -> Result<Region> {
        let memory = match self.huge {
            true => SharedMemory::with_huge_pages(len)?,
            false => SharedMemory::new(len)?,
        };
        Ok(Region::try_from(memory)?)
    }
}

pub(crate) fn export(session: &mut Session, findings: &mut Findings) -> Result<()> {
    let blocks = session.effort.pick(512, 4096);
    let ways = Way::all();
    let mut taken = vec![(Samples::default(), Samples::default()); ways.len()];
    for _ in 0..session.effort.pick(3, 7) {
        for (way, (export, write)) in ways.iter().zip(&mut taken) {
            let (exported, written) = once(session, *way, blocks)?;
            export.push(exported);
            write.push(written);
        }
    }
    let bytes = blocks * LAYERS * PAGE_BYTES;
    for (way, (export, write)) in ways.iter().zip(taken) {
        for (case, samples) in [(CASE, export), (FIRST_WRITE, write)] {
            let row = Row::new(&format!("{case}-{way}"), super::grants::OWNER, &samples)?;
            findings.rows.push(row.between(SUITE, "host", "host").of(bytes).moving(bytes));
        }
    }
    Ok(())
}

/// The time of an export, and of the first write by one thread, in nanoseconds.
fn once(session: &Session, way: Way, blocks: usize) -> Result<(u64, u64)> {
    let geometry = LayoutGeometry::try_from(Dimensions {
        blocks,
        layers: LAYERS,
        outer: 1,
        page_size: 16,
        inner: Inner::Elements(PAGE_BYTES / 32),
        element_width: 2,
    })?;
    let len = blocks * PAGE_BYTES;
    let regions = (0..LAYERS).map(|_| way.memory(len)).collect::<Result<Vec<_>>>()?;
    let parts = regions.iter().map(Region::whole).collect();
    let layout = Layout::per_layer(geometry, LayerOrder::BlockFirst, parts)?;
    let progress = ExportProgress::new();
    let options = ExportOptions::new().progress(&progress);
    let options = match NonZeroUsize::new(way.threads) {
        Some(threads) => options.populate(threads),
        None => options,
    };
    let exporting = session.connector.export_with([("fresh", layout)], options);
    let begun = clock::now();
    let export = session.runtime.block_on(exporting)?;
    let exported = clock::now() - begun;
    ensure!(progress.bytes_registered() == progress.total(), "the export says that it lacks bytes");
    let bytes = vec![1; PAGE_BYTES];
    let begun = clock::now();
    for region in &regions {
        for block in 0..blocks {
            region.copy_from_slice(block * PAGE_BYTES, &bytes)?;
        }
    }
    let written = clock::now() - begun;
    ensure!(session.runtime.block_on(export.close(Duration::from_secs(20))), "it stays registered");
    Ok((exported, written))
}
