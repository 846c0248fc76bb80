//! Block transfers on simulated GPUs: every pair of memories, of layouts and every strategy, byte for byte.
#![allow(clippy::unwrap_used, reason = "helpers of tests")]
#![allow(unsafe_code, reason = "looks into memory that stands for a GPU's")]

mod common;
#[path = "common/simulated.rs"]
mod simulated;

use std::sync::Arc;

use common::{
    Cache, LAYOUTS, copy_and_check, copy_by_parts_and_check, geometry, several_slices, wait,
};
use nixl_descriptor::layout::{LayerOrder, Layout, LayoutKind};
use nixl_descriptor::{AccessError, LeaseMode, Region, copy, copy_range};
use nixl_executor::{
    BlockError, BlockExecutor, BlockOptions, Costs, GpuBackend, GpuCapabilities, MemoryKind,
    SimulatedGpus, Strategy, StrategyPolicy,
};
use nixl_ops::{CancelOutcome, MemoryFate, OperationError, TransportError};
use proptest::prelude::*;
use proptest::strategy::Strategy as _;

const KINDS: [MemoryKind; 4] =
    [MemoryKind::Pageable, MemoryKind::Pinned, MemoryKind::Gpu(0), MemoryKind::Gpu(1)];

fn capabilities() -> GpuCapabilities {
    GpuCapabilities::new(2).with_batch(true).with_kernel(true).with_peers([(0, 1)])
}

fn machine(can: GpuCapabilities) -> (Arc<SimulatedGpus>, BlockExecutor) {
    let gpus = Arc::new(SimulatedGpus::new(can).unwrap());
    let executor =
        BlockExecutor::new(Arc::clone(&gpus) as Arc<dyn GpuBackend>, Costs::default()).unwrap();
    (gpus, executor)
}

/// Addresses are used again, by memory of another kind.
#[test]
fn memory_is_pinned_only_as_long_as_it_lives() {
    let (gpus, _executor) = machine(capabilities());
    for _ in 0..100 {
        let pinned = gpus.region(MemoryKind::Pinned, 1 << 16).unwrap();
        assert_eq!(gpus.memory_kind(pinned.device(), pinned.address()), MemoryKind::Pinned);
        drop(pinned);
        let other = gpus.region(MemoryKind::Pageable, 1 << 16).unwrap();
        assert_eq!(gpus.memory_kind(other.device(), other.address()), MemoryKind::Pageable);
    }
}

#[test]
fn every_pair_of_memories_and_layouts_with_every_strategy() {
    let (gpus, executor) = machine(capabilities());
    let g = geometry(5, 3, 24, 2);
    let mut used = Vec::new();
    for src in KINDS {
        for dst in KINDS {
            for (a, b) in LAYOUTS.into_iter().flat_map(|a| LAYOUTS.map(|b| (a, b))) {
                let from = Cache::new(&*gpus, src, a, g, 64);
                let to = Cache::new(&*gpus, dst, b, g, 64);
                let some =
                    copy_and_check(&*gpus, &executor, (&from, &to), (&[3, 0], &[1, 4]), 0..3);
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
        guard in 0usize..20, order in Just((0usize..6).collect::<Vec<_>>()).prop_shuffle(), count in 1usize..6,
    ) {
        let (gpus, executor) = machine(capabilities());
        let g = geometry(6, layers, inner, 1 << width);
        let from = Cache::new(&*gpus, KINDS[src_kind], LAYOUTS[a], g, guard);
        let to = Cache::new(&*gpus, KINDS[dst_kind], LAYOUTS[b], g, guard / 3);
        let first = cut.0 as usize % layers;
        let range = first..first + 1 + cut.1 as usize % (layers - first);
        let dst: Vec<_> = order[..count].to_vec();
        let src: Vec<_> = order.iter().rev().take(count).copied().collect();
        prop_assert!(!copy_and_check(&*gpus, &executor, (&from, &to), (&src, &dst), range).is_empty());
    }
}

/// Parts of a layout are of one device; on the host they may be pinned or not.
fn parts() -> impl proptest::strategy::Strategy<Value = Vec<MemoryKind>> {
    let host = prop_oneof![Just(MemoryKind::Pageable), Just(MemoryKind::Pinned)];
    prop_oneof![
        3 => prop::collection::vec(host, 1..6),
        1 => Just(vec![MemoryKind::Gpu(0)]),
        1 => Just(vec![MemoryKind::Gpu(1)]),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn parts_of_any_memory_are_copied_byte_for_byte(
        src_kinds in parts(), dst_kinds in parts(), a in 0usize..3, b in 0usize..3,
        inner in prop_oneof![1usize..70, 20_000usize..60_000], layers in 1usize..6,
        guard in 0usize..20, peers: bool, kernel: bool,
    ) {
        let mut can = capabilities().with_kernel(kernel);
        if !peers {
            can = can.with_peers([]);
        }
        let (gpus, executor) = machine(can);
        let g = geometry(4, layers, inner, 1);
        let from = Cache::mixed(&*gpus, &src_kinds, LAYOUTS[a], g, guard);
        let to = Cache::mixed(&*gpus, &dst_kinds, LAYOUTS[b], g, guard);
        let (src, dst, options) = ([2, 0, 3], [1, 3, 0], BlockOptions::new());
        let plan = executor.plan(&from.layout, &src, &to.layout, &dst, &options).unwrap();
        let kind = |cache: &Cache, layer: usize| {
            let part = &cache.layout.parts()[layer.min(cache.layout.parts().len() - 1)];
            gpus.memory_kind(part.device(), part.address())
        };
        let mut pairs = Vec::new();
        for pair in (0..layers).map(|layer| (kind(&from, layer), kind(&to, layer))) {
            if !pairs.contains(&pair) {
                pairs.push(pair);
            }
        }
        let planned: Vec<_> = plan.groups().iter().map(|group| (group.src(), group.dst())).collect();
        prop_assert_eq!(planned, pairs.clone());
        let shown = plan.to_string();
        for (src, dst) in pairs {
            let heading = format!("{src} -> {dst}: ");
            prop_assert!(shown.contains(&heading), "{}", shown);
        }
        copy_by_parts_and_check(&*gpus, &executor, (&from, &to), (&src, &dst));
    }
}

/// A kernel of a plan for the first layer alone would read pageable memory of the second.
#[test]
fn a_pinned_and_a_pageable_layer_go_to_a_gpu_by_a_kernel_and_by_slots() {
    let (gpus, executor) = machine(capabilities());
    let g = geometry(64, 2, 8, 2);
    let kinds = [MemoryKind::Pinned, MemoryKind::Pageable];
    let from = Cache::mixed(&*gpus, &kinds, LAYOUTS[2], g, 0);
    let to = Cache::new(&*gpus, MemoryKind::Gpu(0), LAYOUTS[0], g, 0);
    let ids: Vec<usize> = (0..64).rev().collect();
    let options = BlockOptions::new();
    let plan = executor.plan(&from.layout, &ids, &to.layout, &ids, &options).unwrap();
    let strategies: Vec<_> = plan.groups().iter().map(|group| group.strategy()).collect();
    assert_eq!(strategies, [Strategy::Kernel, Strategy::PinnedRing]);
    let used = copy_by_parts_and_check(&*gpus, &executor, (&from, &to), (&ids, &ids));
    assert_eq!(used, "kernel + pinned-ring");
    // A strategy that some part cannot take is refused, with the memories that it is not for.
    let options = options.policy(StrategyPolicy::Require(Strategy::Kernel));
    let error = executor.execute(&from.layout, &ids, &to.layout, &ids, &options).unwrap_err();
    assert!(error.to_string().contains("from pageable to cuda:0"), "{error}");
}

/// One group fails at once, the other is still copied: the memory comes back when both are over.
#[test]
fn a_group_that_fails_waits_for_the_others() {
    let (gpus, executor) = machine(capabilities());
    let g = geometry(8, 2, 1000, 1);
    let kinds = [MemoryKind::Pinned, MemoryKind::Pageable];
    let from = Cache::mixed(&*gpus, &kinds, LAYOUTS[1], g, 0);
    let to = Cache::new(&*gpus, MemoryKind::Gpu(0), LAYOUTS[1], g, 0);
    let ids: Vec<usize> = (0..8).collect();
    let paused = gpus.pause();
    // The first request to copy is that of the first group.
    gpus.refuse(1);
    let operation =
        executor.execute(&from.layout, &ids, &to.layout, &ids, &BlockOptions::new()).unwrap();
    assert_eq!(executor.in_flight(), 1);
    let clash = executor.execute(&to.layout, &[0], &from.layout, &[0], &BlockOptions::new());
    assert!(matches!(clash, Err(BlockError::Lease(_))));
    drop(paused);
    let error = wait(operation).unwrap_err();
    assert!(error.to_string().contains("simulated refusal"), "{error}");
    wait(executor.execute(&to.layout, &[0], &from.layout, &[0], &BlockOptions::new()).unwrap())
        .unwrap();
}

#[test]
fn more_than_the_ring_holds() {
    let (gpus, executor) = machine(capabilities());
    // 40 MiB through slots of 4 MiB, at a length that no slot divides.
    let g = geometry(3, 2, 833_333, 1);
    let from = Cache::new(&*gpus, MemoryKind::Pageable, LayoutKind::FullyContiguous, g, 64);
    let to =
        Cache::new(&*gpus, MemoryKind::Gpu(1), LayoutKind::PerLayer(LayerOrder::OuterFirst), g, 64);
    let used = copy_and_check(&*gpus, &executor, (&from, &to), (&[0, 1, 2], &[2, 0, 1]), 0..2);
    assert_eq!(used, [Strategy::PinnedRing]);
}

#[test]
fn packed_copies_in_several_slices() {
    let (gpus, executor) = machine(capabilities());
    several_slices(&*gpus, &executor);
}

#[test]
fn without_batch_calls_kernels_or_peers_the_next_best_is_used_and_the_plan_says_why() {
    let (gpus, executor) = machine(GpuCapabilities::new(2));
    let g = geometry(4, 2, 16, 2);
    let device = Cache::new(&*gpus, MemoryKind::Gpu(0), LAYOUTS[1], g, 64);
    let pinned = Cache::new(&*gpus, MemoryKind::Pinned, LAYOUTS[0], g, 64);
    let other = Cache::new(&*gpus, MemoryKind::Gpu(1), LAYOUTS[0], g, 64);
    let options = BlockOptions::new();
    let plan = executor.plan(&device.layout, &[0], &pinned.layout, &[1], &options).unwrap();
    assert_eq!(plan.groups()[0].strategy(), Strategy::Copies);
    assert!(plan.to_string().contains("not batch: the driver has no cuMemcpyBatchAsync"), "{plan}");
    let plan = executor.plan(&device.layout, &[0], &other.layout, &[1], &options).unwrap();
    assert_eq!(plan.groups()[0].strategy(), Strategy::ThroughPinned);
    assert!(plan.to_string().contains("cannot reach each other"), "{plan}");
}

#[test]
fn a_gpu_that_is_not_there_is_an_error_that_names_it() {
    let (gpus, executor) = machine(capabilities());
    let g = geometry(4, 2, 16, 2);
    let here = Cache::new(&*gpus, MemoryKind::Pinned, LAYOUTS[0], g, 64);
    let nowhere = Cache::new(&*gpus, MemoryKind::Gpu(7), LAYOUTS[0], g, 64);
    let error = executor
        .execute(&here.layout, &[0], &nowhere.layout, &[0], &BlockOptions::new())
        .unwrap_err();
    assert!(matches!(error, BlockError::NoStrategy { .. }), "{error}");
    assert!(error.to_string().contains("there is no cuda:7"), "{error}");
}

#[test]
fn blocks_in_use_are_refused_and_come_back() {
    let (gpus, executor) = machine(capabilities());
    let g = geometry(4, 2, 16, 2);
    let from = Cache::new(&*gpus, MemoryKind::Gpu(0), LAYOUTS[0], g, 64);
    let to = Cache::new(&*gpus, MemoryKind::Gpu(1), LAYOUTS[1], g, 64);
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

/// The executor's threads and GPUs copy by address, without the locks of regions: the leases alone keep others away.
#[test]
fn the_hosts_copies_do_not_get_in_the_way_of_a_transfer() {
    let (gpus, executor) = machine(capabilities());
    let g = geometry(4, 2, 16, 2);
    let layout = |region: &Region| Layout::fully_contiguous(g, region.clone()).unwrap();
    let [host, free] = [(); 2].map(|()| Region::zeroed(g.bytes()).unwrap());
    let device = gpus.region(MemoryKind::Gpu(0), g.bytes()).unwrap();
    let all: Vec<usize> = (0..4).collect();
    let into_host = || copy_range(&free.whole(), 0, &host.whole(), 8, 8, &[]);
    let from_host = || copy(&host.whole(), &free.whole());
    for (src, dst, mode) in [(&host, &device, LeaseMode::Read), (&device, &host, LeaseMode::Write)]
    {
        let paused = gpus.pause();
        let options = BlockOptions::new();
        let operation = executor.execute(&layout(src), &all, &layout(dst), &all, &options).unwrap();
        assert_eq!(into_host(), Err(AccessError::Leased { mode }));
        let reads = from_host();
        match mode {
            LeaseMode::Read => assert_eq!(reads, Ok(())),
            _ => assert_eq!(reads, Err(AccessError::Leased { mode })),
        }
        drop(paused);
        wait(operation).unwrap();
        assert_eq!((into_host(), from_host()), (Ok(()), Ok(())));
    }
}

#[test]
fn a_cancelled_transfer_keeps_its_blocks_until_the_gpu_has_passed() {
    let (gpus, executor) = machine(capabilities());
    let g = geometry(4, 2, 16, 2);
    let from = Cache::new(&*gpus, MemoryKind::Gpu(0), LAYOUTS[0], g, 64);
    let to = Cache::new(&*gpus, MemoryKind::Gpu(0), LAYOUTS[1], g, 64);
    let options = BlockOptions::new();
    let paused = gpus.pause();
    let mut operation = executor.execute(&from.layout, &[0], &to.layout, &[1], &options).unwrap();
    assert_eq!(operation.cancel(), CancelOutcome::Cancelled);
    let clash = executor.execute(&from.layout, &[2], &to.layout, &[1], &options).unwrap_err();
    assert!(matches!(clash, BlockError::Lease(_)), "{clash}");
    drop(paused);
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let settled = runtime.block_on(operation.settle());
    assert_eq!(settled.outcome, Err(OperationError::Cancelled));
    assert_eq!(settled.memory, MemoryFate::Released);
    wait(executor.execute(&from.layout, &[2], &to.layout, &[1], &options).unwrap()).unwrap();
}

#[test]
fn a_poisoned_gpu_fails_its_transfers_and_leaves_the_hosts_alone() {
    let (gpus, executor) = machine(capabilities());
    let g = geometry(4, 2, 16, 2);
    let from = Cache::new(&*gpus, MemoryKind::Gpu(0), LAYOUTS[0], g, 64);
    let to = Cache::new(&*gpus, MemoryKind::Pinned, LAYOUTS[1], g, 64);
    let host = Cache::new(&*gpus, MemoryKind::Pageable, LAYOUTS[0], g, 64);
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
    let (gpus, executor) = machine(capabilities());
    let g = geometry(2000, 1, 8, 1);
    let from = Cache::new(&*gpus, MemoryKind::Gpu(0), LAYOUTS[0], g, 64);
    let to = Cache::new(&*gpus, MemoryKind::Gpu(1), LAYOUTS[0], g, 64);
    from.fill(&*gpus, 1);
    to.fill(&*gpus, 2);
    let options = BlockOptions::new().policy(StrategyPolicy::Require(Strategy::Copies));
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
    to.check(&*gpus, "copies", |key| (1, key));
}
