//! Engines, files and memory of the tests.

use std::fs;
use std::os::unix::fs::FileExt as _;
use std::sync::Arc;

use nixl_descriptor::Region;
use nixl_descriptor::file::{FileLayout, FileOptions, FileRegion};
use nixl_descriptor::layout::{Dimensions, Inner, LayerOrder, Layout, LayoutGeometry, LayoutKind};
use nixl_ops::{Clock, SystemClock};
use tempfile::TempDir;

use super::super::executor::FileExecutor;
use super::super::operation::FileEngine;
use super::super::simulated::SimulatedFiles;
use super::super::threads::ThreadFiles;
use super::super::uring::UringFiles;

pub(super) fn clock() -> Arc<dyn Clock> {
    Arc::new(SystemClock::new())
}

pub(super) fn disk() -> SimulatedFiles {
    SimulatedFiles::new(clock(), 7).unwrap()
}

/// All engines that the machine has, each with its name.
pub(super) fn engines() -> Vec<(&'static str, Arc<dyn FileEngine>)> {
    let threads: Arc<dyn FileEngine> = Arc::new(ThreadFiles::new());
    let simulated: Arc<dyn FileEngine> = Arc::new(disk());
    let mut engines = vec![("threads", threads), ("simulated", simulated)];
    match UringFiles::new() {
        Ok(ring) => engines.push(("io_uring", Arc::new(ring))),
        Err(error) => eprintln!("io_uring is not tested: {error}"),
    }
    engines
}

pub(super) fn on(engine: &Arc<dyn FileEngine>) -> FileExecutor {
    FileExecutor::on(clock(), Some(Arc::clone(engine)), FileExecutor::MAX_WAITING).unwrap()
}

pub(super) fn on_disk(disk: &SimulatedFiles) -> FileExecutor {
    FileExecutor::simulated(disk.clone(), clock()).unwrap()
}

/// Blocks of three layers of K and V, of `inner` bytes each.
pub(super) fn geometry(blocks: usize, inner: usize) -> LayoutGeometry {
    LayoutGeometry::try_from(Dimensions {
        blocks,
        layers: 3,
        outer: 2,
        page_size: 1,
        inner: Inner::Elements(inner),
        element_width: 1,
    })
    .unwrap()
}

pub(super) const KINDS: [LayoutKind; 3] = [
    LayoutKind::FullyContiguous,
    LayoutKind::PerLayer(LayerOrder::BlockFirst),
    LayoutKind::PerLayer(LayerOrder::OuterFirst),
];

pub(super) fn memory(geometry: LayoutGeometry, kind: LayoutKind) -> Layout {
    let part = |len| Region::zeroed(len).unwrap().into();
    match kind {
        LayoutKind::PerLayer(order) => {
            let parts = (0..3).map(|_| part(geometry.layer_len() * geometry.blocks())).collect();
            Layout::per_layer(geometry, order, parts).unwrap()
        }
        _ => Layout::fully_contiguous(geometry, part(geometry.bytes())).unwrap(),
    }
}

/// The bytes of a block, of which no two are alike.
pub(super) fn content(geometry: &LayoutGeometry, block: usize) -> Vec<u8> {
    (0..geometry.block_len()).map(|at| (at * 7 + at / 253 + block * 131 + 1) as u8).collect()
}

/// A file with room for blocks, in a folder of its own.
pub(super) struct Spill {
    pub(super) folder: TempDir,
    pub(super) layout: FileLayout,
}

impl Spill {
    pub(super) fn new(geometry: LayoutGeometry, direct: bool) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let len = FileLayout::stride_of(&geometry).unwrap() * geometry.blocks() as u64;
        let options = FileOptions::read_write().create(len);
        let options = if direct { options.direct() } else { options };
        let file = FileRegion::open(folder.path(), "spill", &options).unwrap();
        let layout = FileLayout::new(geometry, file, 0).unwrap();
        Self { folder, layout }
    }

    /// Writes a block by the standard library.
    pub(super) fn fill(&self, block: usize, bytes: &[u8]) {
        let file = fs::File::options().write(true).open(self.layout.file().path()).unwrap();
        file.write_all_at(bytes, block as u64 * self.layout.stride()).unwrap();
    }

    /// The bytes of a block, as the standard library reads them.
    pub(super) fn block(&self, block: usize) -> Vec<u8> {
        let file = fs::File::open(self.layout.file().path()).unwrap();
        let mut bytes = vec![0; self.layout.geometry().block_len()];
        file.read_exact_at(&mut bytes, block as u64 * self.layout.stride()).unwrap();
        bytes
    }
}

/// Waits until an operation that was given up is quiet, as the leases show.
pub(super) fn until(condition: impl Fn() -> bool) {
    while !condition() {
        std::thread::yield_now();
    }
}
