//! Cost of copies of blocks on the host before a GPU works. The GPU is simulated and stands still meanwhile.
#![allow(missing_docs, reason = "criterion's macros make public items")]
#![allow(clippy::unwrap_used, reason = "a bench that cannot run has nothing to say")]

use std::sync::Arc;
use std::time::{Duration, Instant};

use criterion::{BatchSize, BenchmarkId, Criterion, criterion_group, criterion_main};
use nixl_descriptor::LeaseMode;
use nixl_descriptor::layout::{Dimensions, Inner, LayerOrder, Layout, LayoutGeometry};
use nixl_executor::{
    BlockExecutor, BlockOptions, Costs, GpuBackend, GpuCapabilities, MemoryKind, SimulatedGpus,
    Strategy, StrategyPolicy,
};
use tokio::runtime::{Builder, Runtime};

struct Scene {
    gpus: Arc<SimulatedGpus>,
    executor: BlockExecutor,
    sides: [(Layout, Vec<usize>); 2],
    options: BlockOptions,
    runtime: Runtime,
}

impl Scene {
    /// `moved` scattered blocks of 4 KiB pieces, each layer and K and V a piece of its own if there are several.
    fn new(moved: usize, layers: usize, outer: usize) -> Self {
        let can = GpuCapabilities::new(1).with_kernel(true);
        let gpus = Arc::new(SimulatedGpus::new(can).unwrap());
        let executor =
            BlockExecutor::new(Arc::clone(&gpus) as Arc<dyn GpuBackend>, Costs::default()).unwrap();
        let blocks = moved + moved / 4;
        let (inner, page_size, element_width) = (Inner::Elements(1024), 2, 2);
        let geometry = LayoutGeometry::try_from(Dimensions {
            blocks,
            layers,
            outer,
            page_size,
            inner,
            element_width,
        })
        .unwrap();
        let side = |step: usize| {
            let part = || {
                let len = blocks * geometry.layer_len();
                gpus.region(MemoryKind::Gpu(0), len).unwrap().whole()
            };
            let parts = (0..layers).map(|_| part()).collect();
            let layout = Layout::per_layer(geometry, LayerOrder::OuterFirst, parts).unwrap();
            // A step that has no divisor in common with the number of blocks meets each once.
            (layout, (0..moved).map(|at| at * step % blocks).collect())
        };
        let sides = [side(7919), side(104_729)];
        let options = BlockOptions::new().policy(StrategyPolicy::Require(Strategy::Kernel));
        let runtime = Builder::new_current_thread().build().unwrap();
        Self { gpus, executor, sides, options, runtime }
    }

    /// How long it takes until the copy has begun.
    fn execute(&self) -> Duration {
        let [(src, from), (dst, to)] = &self.sides;
        let paused = self.gpus.pause();
        let started = Instant::now();
        let mut operation = self.executor.execute(src, from, dst, to, &self.options).unwrap();
        let begun = started.elapsed();
        drop(paused);
        self.runtime.block_on(operation.wait_for_completion()).unwrap();
        begun
    }
}

fn host_side(c: &mut Criterion) {
    let mut group = c.benchmark_group("blocks");
    for (moved, layers, outer) in [(16, 80, 2), (16_384, 1, 1)] {
        let scene = Scene::new(moved, layers, outer);
        let shape = format!("{moved}x{}", layers * outer);
        let [(src, from), (dst, to)] = &scene.sides;
        group.bench_function(BenchmarkId::new("plan", &shape), |b| {
            b.iter(|| scene.executor.plan(src, from, dst, to, &scene.options).unwrap());
        });
        let all = 0..layers;
        group.bench_function(BenchmarkId::new("lease", &shape), |b| {
            // Taken and given back.
            b.iter(|| dst.lease(to, all.clone(), LeaseMode::Write).unwrap());
        });
        group.bench_function(BenchmarkId::new("release", &shape), |b| {
            let lease = || dst.lease(to, all.clone(), LeaseMode::Write).unwrap();
            b.iter_batched(lease, drop, BatchSize::PerIteration);
        });
        group.sample_size(20);
        group.bench_function(BenchmarkId::new("execute", &shape), |b| {
            b.iter_custom(|times| (0..times).map(|_| scene.execute()).sum());
        });
    }
    group.finish();
}

/// One more block where others are held already.
fn crowded(c: &mut Criterion) {
    let mut group = c.benchmark_group("block_beside");
    for held in [0, 64, 1024] {
        let scene = Scene::new(1024, 1, 1);
        let [_, (layout, _)] = &scene.sides;
        let lease = |block: usize| layout.lease(&[block], 0..1, LeaseMode::Write).unwrap();
        let others: Vec<_> = (0..held).map(lease).collect();
        group.bench_function(BenchmarkId::from_parameter(held), |b| b.iter(|| lease(1024)));
        drop(others);
    }
    group.finish();
}

criterion_group!(benches, host_side, crowded);
criterion_main!(benches);
