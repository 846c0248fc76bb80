//! Code of the tests on simulated and on real GPUs: caches with a pattern, and the check of every byte.

use std::ops::Range;
use std::time::Duration;

use nixl_descriptor::layout::{Dimensions, Inner, LayerOrder, Layout, LayoutGeometry, LayoutKind};
use nixl_descriptor::{Descriptor, Region};
use nixl_executor::{
    BlockError, BlockExecutor, BlockOptions, MemoryKind, PathKind, Strategy, StrategyPolicy,
};
use nixl_ops::{Completion, CopyOperation, OperationError};

pub(crate) const LAYOUTS: [LayoutKind; 3] = [
    LayoutKind::FullyContiguous,
    LayoutKind::PerLayer(LayerOrder::BlockFirst),
    LayoutKind::PerLayer(LayerOrder::OuterFirst),
];

/// Memory of each kind, and ways to look into it.
pub(crate) trait Machine {
    fn region(&self, kind: MemoryKind, len: usize) -> Region;
    fn upload(&self, region: &Region, bytes: &[u8]);
    fn download(&self, region: &Region) -> Vec<u8>;
}

pub(crate) fn geometry(blocks: usize, layers: usize, inner: usize, width: usize) -> LayoutGeometry {
    LayoutGeometry::try_from(Dimensions {
        blocks,
        layers,
        outer: 2,
        page_size: 4,
        inner: Inner::Elements(inner),
        element_width: width,
    })
    .unwrap()
}

/// A layout over regions of its own, with guard bytes before and after each part.
pub(crate) struct Cache {
    pub(crate) layout: Layout,
    regions: Vec<Region>,
    guard: usize,
}

impl Cache {
    /// Parts begin `guard` bytes into their regions: an odd number makes every access unaligned.
    pub(crate) fn new(
        machine: &impl Machine,
        kind: MemoryKind,
        shape: LayoutKind,
        g: LayoutGeometry,
        guard: usize,
    ) -> Self {
        Self::mixed(machine, &[kind], shape, g, guard)
    }

    /// The same with parts of these kinds in turn.
    pub(crate) fn mixed(
        machine: &impl Machine,
        kinds: &[MemoryKind],
        shape: LayoutKind,
        g: LayoutGeometry,
        guard: usize,
    ) -> Self {
        let mut kinds = kinds.iter().copied().cycle();
        let mut part = |len: usize| {
            let kind = kinds.next().unwrap();
            let region = machine.region(kind, len + 2 * guard);
            let part: Descriptor = region.descriptor(guard..guard + len).unwrap();
            (region, part)
        };
        let (regions, layout) = match shape {
            LayoutKind::PerLayer(order) => {
                let len = g.blocks() * g.layer_len();
                let (regions, parts) = (0..g.layers()).map(|_| part(len)).unzip();
                (regions, Layout::per_layer(g, order, parts).unwrap())
            }
            _ => {
                let (region, part) = part(g.bytes());
                (vec![region], Layout::fully_contiguous(g, part).unwrap())
            }
        };
        Self { layout, regions, guard }
    }

    /// What every region should hold, if chunk `(block, layer, outer)` holds what `source` says.
    fn expected(
        &self,
        source: impl Fn((usize, usize, usize)) -> (u64, (usize, usize, usize)),
    ) -> Vec<Vec<u8>> {
        let mut images: Vec<_> = self.regions.iter().map(|r| vec![0xEE; r.len()]).collect();
        let g = *self.layout.geometry();
        for block in 0..g.blocks() {
            for layer in 0..g.layers() {
                for outer in 0..g.outer() {
                    let span = self.layout.chunk(block, layer, outer).unwrap();
                    let (seed, key) = source((block, layer, outer));
                    let from = self.guard + span.offset;
                    let pattern = pattern(seed, key);
                    for (at, byte) in
                        images[span.part][from..from + span.len].iter_mut().enumerate()
                    {
                        *byte = pattern(at);
                    }
                }
            }
        }
        images
    }

    pub(crate) fn fill(&self, machine: &impl Machine, seed: u64) {
        let images = self.expected(|key| (seed, key));
        for (region, image) in self.regions.iter().zip(images) {
            machine.upload(region, &image);
        }
    }

    /// Every byte, guards included.
    pub(crate) fn check(
        &self,
        machine: &impl Machine,
        what: &str,
        source: impl Fn((usize, usize, usize)) -> (u64, (usize, usize, usize)),
    ) {
        for (part, image) in self.expected(source).into_iter().enumerate() {
            let found = machine.download(&self.regions[part]);
            if found != image {
                let at = found.iter().zip(&image).position(|(f, i)| f != i);
                panic!("{what}: part {part} differs first at byte {at:?} of {}", image.len());
            }
        }
    }
}

/// Differs for every block, layer, K or V, and place: a swap or a shift of any of them is seen.
fn pattern(seed: u64, (block, layer, outer): (usize, usize, usize)) -> impl Fn(usize) -> u8 {
    let mix = |h: u64, x: usize| (h ^ x as u64).wrapping_mul(0x9E37_79B9_7F4A_7C15).rotate_left(29);
    let key = [block, layer, outer].into_iter().fold(seed, mix);
    move |at| (mix(key, at) >> 32) as u8
}

pub(crate) fn wait(mut operation: CopyOperation) -> Result<Completion, OperationError> {
    tokio::runtime::Builder::new_current_thread()
        .build()
        .unwrap()
        .block_on(operation.wait_for_completion())
}

/// Odd numbers of blocks out of order, of 2 and of 4 MiB and a bit: packed copies take 3 slices of different lengths for
/// them, and 5 of one block each.
pub(crate) fn several_slices(machine: &impl Machine, executor: &BlockExecutor) {
    let (host, gpu) = (MemoryKind::Pinned, MemoryKind::Gpu(0));
    for (blocks, inner, guard) in [(7, 131_073, 13), (5, 262_152, 16)] {
        let g = geometry(blocks, 2, inner, 1);
        let ids = |step: usize| -> Vec<_> { (0..blocks).map(|i| i * step % blocks).collect() };
        for (src, dst) in [(host, gpu), (gpu, host)] {
            let from = Cache::new(machine, src, LAYOUTS[0], g, guard);
            let to = Cache::new(machine, dst, LAYOUTS[2], g, guard);
            let packed = Strategy::PackedCopy;
            let ids = (&*ids(2), &*ids(3));
            let was_used = copy_and_check_with(packed, machine, executor, (&from, &to), ids, 0..2);
            assert!(was_used, "{src} to {dst}");
        }
    }
}

/// Copies with every strategy that can, and checks every byte of the destination. Returns those that could.
pub(crate) fn copy_and_check(
    machine: &impl Machine,
    executor: &BlockExecutor,
    ends: (&Cache, &Cache),
    ids: (&[usize], &[usize]),
    layers: Range<usize>,
) -> Vec<Strategy> {
    let mut used = Strategy::ALL.to_vec();
    used.retain(|s| copy_and_check_with(*s, machine, executor, ends, ids, layers.clone()));
    used
}

/// The same with one strategy. Returns whether it could.
fn copy_and_check_with(
    strategy: Strategy,
    machine: &impl Machine,
    executor: &BlockExecutor,
    (from, to): (&Cache, &Cache),
    (src, dst): (&[usize], &[usize]),
    layers: Range<usize>,
) -> bool {
    let options = BlockOptions::new()
        .policy(StrategyPolicy::Require(strategy))
        .layers(layers.clone())
        .timeout(Duration::from_secs(60));
    match executor.plan(&from.layout, src, &to.layout, dst, &options) {
        Ok(_) => {}
        Err(BlockError::NoStrategy { .. }) => return false,
        Err(other) => panic!("{strategy}: {other}"),
    }
    from.fill(machine, 3);
    to.fill(machine, 4);
    let operation = executor.execute(&from.layout, src, &to.layout, dst, &options).unwrap();
    let done = wait(operation).unwrap_or_else(|e| panic!("{strategy}: {e}"));
    assert_eq!(done.path().unwrap().kind(), PathKind::Local(strategy.name()));
    to.check(machine, strategy.name(), |(block, layer, outer)| {
        match dst.iter().position(|b| *b == block).filter(|_| layers.contains(&layer)) {
            Some(index) => (3, (src[index], layer, outer)),
            None => (4, (block, layer, outer)),
        }
    });
    true
}

/// Copies all layers as the executor sees fit, and checks every byte of the destination. Returns what carried them.
pub(crate) fn copy_by_parts_and_check(
    machine: &impl Machine,
    executor: &BlockExecutor,
    (from, to): (&Cache, &Cache),
    (src, dst): (&[usize], &[usize]),
) -> String {
    let options = BlockOptions::new().timeout(Duration::from_secs(60));
    from.fill(machine, 3);
    to.fill(machine, 4);
    let operation = executor.execute(&from.layout, src, &to.layout, dst, &options).unwrap();
    let done = wait(operation).unwrap();
    to.check(machine, "by parts", |(block, layer, outer)| {
        match dst.iter().position(|b| *b == block) {
            Some(index) => (3, (src[index], layer, outer)),
            None => (4, (block, layer, outer)),
        }
    });
    done.path().unwrap().transport().to_string()
}
