//! Block transfers on simulated GPUs: every pair of memories, of layouts and every strategy, byte for byte.
#![allow(unsafe_code, reason = "looks into memory that stands for a GPU's")]

use std::sync::Arc;
use std::time::Duration;

use nixl_descriptor::Region;
use nixl_descriptor::layout::{Dimensions, Inner, LayerOrder, Layout, LayoutGeometry, LayoutKind};
use nixl_executor::{
    Abilities, BlockError, BlockExecutor, BlockOptions, Costs, Gpus, MemoryKind, PathKind,
    PathPolicy, SimulatedGpus, Strategy,
};
use nixl_ops::{CancelOutcome, OperationError, TransportError};
use proptest::prelude::*;
use proptest::strategy::Strategy as _;

const KINDS: [MemoryKind; 4] =
    [MemoryKind::Pageable, MemoryKind::Pinned, MemoryKind::Gpu(0), MemoryKind::Gpu(1)];
const LAYOUTS: [LayoutKind; 3] = [
    LayoutKind::FullyContiguous,
    LayoutKind::PerLayer(LayerOrder::BlockFirst),
    LayoutKind::PerLayer(LayerOrder::OuterFirst),
];

fn abilities() -> Abilities {
    let mut can = Abilities::default();
    (can.gpus, can.batch, can.kernel, can.peers) = (2, true, true, vec![(0, 1)]);
    can
}

fn machine(can: Abilities) -> (Arc<SimulatedGpus>, BlockExecutor) {
    let gpus = Arc::new(SimulatedGpus::new(can).unwrap());
    let executor =
        BlockExecutor::new(Arc::clone(&gpus) as Arc<dyn Gpus>, Costs::default()).unwrap();
    (gpus, executor)
}

fn geometry(blocks: usize, layers: usize, inner: usize, width: usize) -> LayoutGeometry {
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

/// A layout over memory of its own; the regions are labelled as the kind, and all of them host memory underneath.
struct Cache {
    layout: Layout,
    regions: Vec<Region>,
}

impl Cache {
    fn new(gpus: &SimulatedGpus, kind: MemoryKind, shape: LayoutKind, g: LayoutGeometry) -> Self {
        let region = |len| gpus.region(kind, len).unwrap();
        match shape {
            LayoutKind::PerLayer(order) => {
                let len = g.blocks() * g.layer_len();
                let regions: Vec<_> = (0..g.layers()).map(|_| region(len)).collect();
                let parts = regions.iter().map(Region::whole).collect();
                Self { layout: Layout::per_layer(g, order, parts).unwrap(), regions }
            }
            _ => {
                let regions = vec![region(g.bytes())];
                Self { layout: Layout::fully_contiguous(g, regions[0].whole()).unwrap(), regions }
            }
        }
    }

    /// Reads or writes a chunk through the address, since "GPU" memory refuses the host's copies.
    fn chunk(&self, block: usize, layer: usize, outer: usize) -> &mut [u8] {
        let span = self.layout.chunk(block, layer, outer).unwrap();
        let base = self.regions[span.part].address() as *mut u8;
        // SAFETY: the regions are vectors of this process that nothing else touches while no transfer runs; the
        // span lies inside.
        unsafe { std::slice::from_raw_parts_mut(base.add(span.offset), span.len) }
    }

    fn fill(&self, seed: u64) {
        self.each(|key, chunk| {
            for (at, byte) in chunk.iter_mut().enumerate() {
                *byte = pattern(seed, key, at);
            }
        });
    }

    fn each(&self, mut visit: impl FnMut((usize, usize, usize), &mut [u8])) {
        let g = *self.layout.geometry();
        for block in 0..g.blocks() {
            for layer in 0..g.layers() {
                for outer in 0..g.outer() {
                    visit((block, layer, outer), self.chunk(block, layer, outer));
                }
            }
        }
    }
}

/// Differs for every block, layer, K or V, and place: a swap or a shift of any of them is seen.
fn pattern(seed: u64, (block, layer, outer): (usize, usize, usize), at: usize) -> u8 {
    let key = [block as u64, layer as u64, outer as u64, at as u64]
        .into_iter()
        .fold(seed, |h, x| (h ^ x).wrapping_mul(0x9E37_79B9_7F4A_7C15).rotate_left(29));
    (key >> 32) as u8
}

fn wait(mut operation: nixl_ops::CopyOperation) -> Result<nixl_ops::Completion, OperationError> {
    tokio::runtime::Builder::new_current_thread()
        .build()
        .unwrap()
        .block_on(operation.wait_for_completion())
}

/// Copies with every strategy that the executor allows and checks every byte of the destination.
fn check(
    gpus: &SimulatedGpus,
    executor: &BlockExecutor,
    (from, to): (&Cache, &Cache),
    (src, dst): (&[usize], &[usize]),
    layers: std::ops::Range<usize>,
) -> Vec<Strategy> {
    let _ = gpus;
    let mut used = Vec::new();
    for strategy in Strategy::ALL {
        let options = BlockOptions::new()
            .policy(PathPolicy::Require(strategy))
            .layers(layers.clone())
            .timeout(Duration::from_secs(30));
        let operation = match executor.execute(&from.layout, src, &to.layout, dst, &options) {
            Ok(operation) => operation,
            Err(BlockError::NoStrategy { .. }) => continue,
            Err(other) => panic!("{strategy}: {other}"),
        };
        from.fill(1);
        to.fill(2);
        // The operation may have begun before the fill, so do it again on settled memory.
        wait(operation).unwrap();
        from.fill(3);
        to.fill(4);
        let operation = executor.execute(&from.layout, src, &to.layout, dst, &options).unwrap();
        let done = wait(operation).unwrap();
        assert_eq!(done.path().unwrap().kind, PathKind::Local(strategy.name()));
        to.each(|(block, layer, outer), chunk| {
            let source = dst.iter().position(|b| *b == block).filter(|_| layers.contains(&layer));
            for (at, byte) in chunk.iter().enumerate() {
                let expected = match source {
                    Some(index) => pattern(3, (src[index], layer, outer), at),
                    None => pattern(4, (block, layer, outer), at),
                };
                assert_eq!(
                    *byte, expected,
                    "{strategy}: block {block} layer {layer} outer {outer} byte {at}"
                );
            }
        });
        used.push(strategy);
    }
    used
}

#[test]
fn every_pair_of_memories_and_layouts_with_every_strategy() {
    let (gpus, executor) = machine(abilities());
    let g = geometry(5, 3, 24, 2);
    let mut used = Vec::new();
    for src in KINDS {
        for dst in KINDS {
            for (a, b) in LAYOUTS.into_iter().flat_map(|a| LAYOUTS.map(|b| (a, b))) {
                let from = Cache::new(&gpus, src, a, g);
                let to = Cache::new(&gpus, dst, b, g);
                let some = check(&gpus, &executor, (&from, &to), (&[3, 0], &[1, 4]), 0..3);
                assert!(!some.is_empty(), "{src} to {dst}");
                used.extend(some);
            }
        }
    }
    for strategy in Strategy::ALL {
        assert!(used.contains(&strategy), "{strategy} was never used");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn odd_sizes_partial_layers_and_any_blocks(
        src_kind in 0usize..4, dst_kind in 0usize..4, a in 0usize..3, b in 0usize..3,
        inner in 1usize..70, width in 0u32..4, layers in 1usize..5, cut in any::<(u8, u8)>(),
        order in Just((0usize..6).collect::<Vec<_>>()).prop_shuffle(), count in 1usize..6,
    ) {
        let (gpus, executor) = machine(abilities());
        let g = geometry(6, layers, inner, 1 << width);
        let from = Cache::new(&gpus, KINDS[src_kind], LAYOUTS[a], g);
        let to = Cache::new(&gpus, KINDS[dst_kind], LAYOUTS[b], g);
        let first = cut.0 as usize % layers;
        let range = first..first + 1 + cut.1 as usize % (layers - first);
        let dst: Vec<_> = order[..count].to_vec();
        let src: Vec<_> = order.iter().rev().take(count).copied().collect();
        prop_assert!(!check(&gpus, &executor, (&from, &to), (&src, &dst), range).is_empty());
    }
}

#[test]
fn more_than_the_ring_holds() {
    let (gpus, executor) = machine(abilities());
    // 40 MiB through slots of 4 MiB, at a length that no slot divides.
    let g = geometry(3, 2, 833_333, 1);
    let from = Cache::new(&gpus, MemoryKind::Pageable, LayoutKind::FullyContiguous, g);
    let to = Cache::new(&gpus, MemoryKind::Gpu(1), LayoutKind::PerLayer(LayerOrder::OuterFirst), g);
    let used = check(&gpus, &executor, (&from, &to), (&[0, 1, 2], &[2, 0, 1]), 0..2);
    assert_eq!(used, [Strategy::PinnedRing]);
}

#[test]
fn without_batch_calls_kernels_or_peers_the_next_best_is_used_and_the_plan_says_why() {
    let mut can = abilities();
    (can.batch, can.kernel, can.peers) = (false, false, vec![]);
    let (gpus, executor) = machine(can);
    let g = geometry(4, 2, 16, 2);
    let device = Cache::new(&gpus, MemoryKind::Gpu(0), LAYOUTS[1], g);
    let pinned = Cache::new(&gpus, MemoryKind::Pinned, LAYOUTS[0], g);
    let other = Cache::new(&gpus, MemoryKind::Gpu(1), LAYOUTS[0], g);
    let options = BlockOptions::new();
    let plan = executor.plan(&device.layout, &[0], &pinned.layout, &[1], &options).unwrap();
    assert_eq!(plan.strategy, Strategy::Copies);
    assert!(plan.to_string().contains("not batch: the driver has no cuMemcpyBatchAsync"), "{plan}");
    let plan = executor.plan(&device.layout, &[0], &other.layout, &[1], &options).unwrap();
    assert_eq!(plan.strategy, Strategy::ThroughPinned);
    assert!(plan.to_string().contains("cannot reach each other"), "{plan}");
}

#[test]
fn a_gpu_that_is_not_there_is_an_error_that_names_it() {
    let (gpus, executor) = machine(abilities());
    let g = geometry(4, 2, 16, 2);
    let here = Cache::new(&gpus, MemoryKind::Pinned, LAYOUTS[0], g);
    let nowhere = Cache::new(&gpus, MemoryKind::Gpu(7), LAYOUTS[0], g);
    let error = executor
        .execute(&here.layout, &[0], &nowhere.layout, &[0], &BlockOptions::new())
        .unwrap_err();
    assert!(matches!(error, BlockError::NoStrategy { .. }), "{error}");
    assert!(error.to_string().contains("there is no cuda:7"), "{error}");
}

#[test]
fn blocks_in_use_are_refused_and_come_back() {
    let (gpus, executor) = machine(abilities());
    let g = geometry(4, 2, 16, 2);
    let from = Cache::new(&gpus, MemoryKind::Gpu(0), LAYOUTS[0], g);
    let to = Cache::new(&gpus, MemoryKind::Gpu(1), LAYOUTS[1], g);
    let options = BlockOptions::new();
    let paused = gpus.pause();
    let first = executor.execute(&from.layout, &[0], &to.layout, &[1], &options).unwrap();
    let clash = executor.execute(&from.layout, &[2], &to.layout, &[1], &options).unwrap_err();
    assert!(matches!(clash, BlockError::Lease(_)), "{clash}");
    let other = executor.execute(&from.layout, &[0], &to.layout, &[3], &options).unwrap();
    drop(paused);
    wait(first).unwrap();
    wait(other).unwrap();
    wait(executor.execute(&from.layout, &[2], &to.layout, &[1], &options).unwrap()).unwrap();
}

#[test]
fn a_cancelled_transfer_keeps_its_blocks_until_the_gpu_has_passed() {
    let (gpus, executor) = machine(abilities());
    let g = geometry(4, 2, 16, 2);
    let from = Cache::new(&gpus, MemoryKind::Gpu(0), LAYOUTS[0], g);
    let to = Cache::new(&gpus, MemoryKind::Gpu(0), LAYOUTS[1], g);
    let options = BlockOptions::new();
    let paused = gpus.pause();
    let mut operation = executor.execute(&from.layout, &[0], &to.layout, &[1], &options).unwrap();
    assert_eq!(operation.cancel(), CancelOutcome::Cancelled);
    let clash = executor.execute(&from.layout, &[2], &to.layout, &[1], &options).unwrap_err();
    assert!(matches!(clash, BlockError::Lease(_)), "{clash}");
    drop(paused);
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let back = runtime.block_on(operation.reclaim());
    assert_eq!(back.outcome, Err(OperationError::Cancelled));
    assert!(back.memory.is_some());
    wait(executor.execute(&from.layout, &[2], &to.layout, &[1], &options).unwrap()).unwrap();
}

#[test]
fn a_poisoned_gpu_fails_its_transfers_and_leaves_the_hosts_alone() {
    let (gpus, executor) = machine(abilities());
    let g = geometry(4, 2, 16, 2);
    let from = Cache::new(&gpus, MemoryKind::Gpu(0), LAYOUTS[0], g);
    let to = Cache::new(&gpus, MemoryKind::Pinned, LAYOUTS[1], g);
    let host = Cache::new(&gpus, MemoryKind::Pageable, LAYOUTS[0], g);
    let options = BlockOptions::new();
    gpus.fail();
    let failed = executor.execute(&from.layout, &[0], &to.layout, &[0], &options).unwrap();
    let error = wait(failed).unwrap_err();
    assert!(
        matches!(error, OperationError::Transport(TransportError::Engine { engine: "local", .. })),
        "{error}"
    );
    wait(executor.execute(&to.layout, &[1], &host.layout, &[1], &options).unwrap()).unwrap();
    assert_eq!(executor.in_flight(), 0);
}

#[test]
fn thousands_in_flight_all_end() {
    let (gpus, executor) = machine(abilities());
    let g = geometry(2000, 1, 8, 1);
    let from = Cache::new(&gpus, MemoryKind::Gpu(0), LAYOUTS[0], g);
    let to = Cache::new(&gpus, MemoryKind::Gpu(1), LAYOUTS[0], g);
    from.fill(1);
    to.fill(2);
    let options = BlockOptions::new().policy(PathPolicy::Require(Strategy::Copies));
    let paused = gpus.pause();
    let all: Vec<_> = (0..2000)
        .map(|b| executor.execute(&from.layout, &[b], &to.layout, &[b], &options).unwrap())
        .collect();
    assert_eq!(executor.in_flight(), 2000);
    drop(paused);
    for operation in all {
        wait(operation).unwrap();
    }
    assert_eq!(executor.in_flight(), 0);
    to.each(|key, chunk| {
        assert!(chunk.iter().enumerate().all(|(at, byte)| *byte == pattern(1, key, at)));
    });
}
