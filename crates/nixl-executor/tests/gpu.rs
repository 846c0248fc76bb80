//! Block transfers on real GPUs: every pair of memories, of layouts and every strategy, byte for byte. Without a GPU they
//! are skipped, loudly.
#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "helpers of tests")]
#![allow(unsafe_code, reason = "fills and reads GPU memory by address")]

#[cfg(feature = "nixl")]
#[path = "gpu/allocations.rs"]
mod allocations;
#[cfg(feature = "nixl")]
#[path = "gpu/bounce.rs"]
mod bounce;
#[path = "gpu/capture.rs"]
mod capture;
mod common;
#[path = "gpu/framework.rs"]
mod framework;
#[path = "gpu/grants.rs"]
mod grants;
#[cfg(feature = "nixl")]
#[path = "common/hex.rs"]
mod hex;
#[path = "gpu/limits.rs"]
mod limits;
#[cfg(feature = "nixl")]
#[path = "gpu/offers.rs"]
mod offers;
#[cfg(feature = "nixl")]
#[path = "gpu/owners.rs"]
mod owners;
#[cfg(feature = "cudarc")]
#[path = "gpu/slices.rs"]
mod slices;
#[cfg(feature = "nixl")]
#[path = "gpu/tickets.rs"]
mod tickets;

use std::fs::OpenOptions;
use std::io::Write as _;
use std::sync::Arc;

use common::{
    Cache, LAYOUTS, Machine, copy_and_check, copy_by_parts_and_check, geometry, several_slices,
    wait,
};
use nixl_connector::Connector;
use nixl_connector::simulated::Fabric;
use nixl_descriptor::layout::{LayerOrder, LayoutKind};
use nixl_descriptor::{Dependency as _, DescriptorList, Region, SharedMemory};
use nixl_device::Device;
use nixl_device::cuda::{Context, DeviceMemory, PinnedMemory, Stream};
use nixl_executor::{
    BlockExecutor, BlockOptions, Costs, CudaGpus, GpuBackend, MemoryKind, PathExecutor, PathKind,
    Strategy, StreamHandle,
};
use nixl_ops::SystemClock;

struct Cuda {
    gpus: Arc<CudaGpus>,
    stream: Stream,
    context: Context,
}

impl Cuda {
    /// The GPUs, if there are at least `wanted`; else the test is noted as skipped.
    fn new(wanted: u32, test: &str) -> Option<(Self, BlockExecutor)> {
        let found = nixl_device::cuda::probe().as_ref().map_or(0, |driver| driver.device_count());
        if found < wanted {
            let want = if wanted == 1 { "a GPU" } else { "two GPUs" };
            let line = format!("SKIPPED({want}): {test}\n");
            println!("{}", line.trim_end());
            if let Some(log) = std::env::var_os("NIXL_TEST_SKIP_LOG") {
                let mut log = OpenOptions::new().append(true).create(true).open(log).unwrap();
                log.write_all(line.as_bytes()).unwrap();
            }
            return None;
        }
        let gpus = Arc::new(CudaGpus::new().unwrap());
        let executor =
            BlockExecutor::new(Arc::clone(&gpus) as Arc<dyn GpuBackend>, Costs::default()).unwrap();
        let context = Context::primary(0).unwrap();
        let stream = Stream::new(&context).unwrap();
        Some((Self { gpus, stream, context }, executor))
    }

    fn copy(&self, dst: u64, src: u64, len: usize) {
        // SAFETY: the copy is waited for right here, and no transfer uses the memory now.
        unsafe { self.stream.copy_async(dst, src, len) }.unwrap();
        self.stream.synchronize().unwrap();
    }
}

impl Machine for Cuda {
    fn region(&self, kind: MemoryKind, len: usize) -> Region {
        let region = match kind {
            MemoryKind::Gpu(ordinal) => {
                let context = Context::primary(ordinal).unwrap();
                Region::try_from(DeviceMemory::new(&context, len).unwrap()).unwrap()
            }
            MemoryKind::Pinned => {
                Region::try_from(PinnedMemory::new(&self.context, len).unwrap()).unwrap()
            }
            MemoryKind::Pageable => Region::try_from(vec![0; len]).unwrap(),
        };
        assert_eq!(self.gpus.memory_kind(region.device(), region.address()), kind);
        region
    }

    fn upload(&self, region: &Region, bytes: &[u8]) {
        if region.device() == Device::HOST {
            return region.copy_from_slice(0, bytes).unwrap();
        }
        self.copy(region.address(), bytes.as_ptr() as u64, bytes.len());
    }

    fn download(&self, region: &Region) -> Vec<u8> {
        if region.device() == Device::HOST {
            return region.to_vec().unwrap();
        }
        let mut bytes = vec![0; region.len()];
        self.copy(bytes.as_mut_ptr() as u64, region.address(), bytes.len());
        bytes
    }
}

fn matrix(machine: &Cuda, executor: &BlockExecutor, kinds: &[MemoryKind]) {
    // Aligned, and so odd that every access is one byte.
    for (inner, width, guard) in [(64, 2, 64), (7, 1, 13), (6, 2, 2)] {
        let g = geometry(5, 3, inner, width);
        for src in kinds {
            for dst in kinds {
                for (a, b) in LAYOUTS.into_iter().flat_map(|a| LAYOUTS.map(|b| (a, b))) {
                    let from = Cache::new(machine, *src, a, g, guard);
                    let to = Cache::new(machine, *dst, b, g, guard);
                    let ends = (&from, &to);
                    let all = copy_and_check(machine, executor, ends, (&[3, 0], &[1, 4]), 0..3);
                    assert!(!all.is_empty(), "{src} to {dst}");
                    copy_and_check(machine, executor, ends, (&[2], &[2]), 1..2);
                }
            }
        }
    }
}

/// Layers that are pinned and layers that are not, in one layout: a kernel that took all of them for pinned would end the
/// use of the GPU.
#[test]
fn layouts_of_pinned_and_pageable_layers() {
    let Some((machine, executor)) = Cuda::new(1, "layouts_of_pinned_and_pageable_layers") else {
        return;
    };
    let mixed = [MemoryKind::Pinned, MemoryKind::Pageable];
    let whole = [[MemoryKind::Gpu(0); 2], [MemoryKind::Pageable; 2], [MemoryKind::Pinned; 2]];
    for (blocks, inner) in [(64, 8), (5, 100_003)] {
        let g = geometry(blocks, 3, inner, 2);
        let ids: Vec<usize> = (0..blocks).rev().collect();
        for other in whole.into_iter().chain([[mixed[1], mixed[0]]]) {
            for (src, dst) in [(mixed, other), (other, mixed)] {
                let from = Cache::mixed(&machine, &src, LAYOUTS[2], g, 16);
                let to = Cache::mixed(&machine, &dst, LAYOUTS[1], g, 16);
                copy_by_parts_and_check(&machine, &executor, (&from, &to), (&ids, &ids));
            }
        }
    }
}

#[test]
fn every_pair_of_memories_and_layouts_on_one_gpu() {
    let Some((machine, executor)) = Cuda::new(1, "every_pair_of_memories_and_layouts_on_one_gpu")
    else {
        return;
    };
    let kinds = [MemoryKind::Pageable, MemoryKind::Pinned, MemoryKind::Gpu(0)];
    matrix(&machine, &executor, &kinds);
}

#[test]
fn every_pair_of_memories_and_layouts_on_two_gpus() {
    let Some((machine, executor)) = Cuda::new(2, "every_pair_of_memories_and_layouts_on_two_gpus")
    else {
        return;
    };
    let kinds = [MemoryKind::Pinned, MemoryKind::Gpu(0), MemoryKind::Gpu(1)];
    matrix(&machine, &executor, &kinds);
}

#[test]
fn large_blocks_through_every_strategy() {
    let Some((machine, executor)) = Cuda::new(1, "large_blocks_through_every_strategy") else {
        return;
    };
    // 30 MiB in three blocks, at a length that no slot divides.
    let g = geometry(3, 2, 655_367, 2);
    let per_layer = LayoutKind::PerLayer(LayerOrder::OuterFirst);
    let kinds = [MemoryKind::Pageable, MemoryKind::Pinned, MemoryKind::Gpu(0)];
    for (src, dst) in kinds.into_iter().flat_map(|s| kinds.map(|d| (s, d))) {
        let from = Cache::new(&machine, src, LayoutKind::FullyContiguous, g, 16);
        let to = Cache::new(&machine, dst, per_layer, g, 16);
        let used =
            copy_and_check(&machine, &executor, (&from, &to), (&[0, 1, 2], &[2, 0, 1]), 0..2);
        assert!(!used.is_empty(), "{src} to {dst}");
    }
}

#[test]
fn packed_copies_in_several_slices() {
    let Some((machine, executor)) = Cuda::new(1, "packed_copies_in_several_slices") else { return };
    several_slices(&machine, &executor);
}

#[tokio::test]
async fn operations_wait_for_streams() {
    let Some((cuda, _)) = Cuda::new(1, "operations_wait_for_streams") else { return };
    let (len, gpu) = (8 << 20, MemoryKind::Gpu(0));
    let executor = Arc::new(PathExecutor::new().unwrap());
    let fabric = Fabric::new(Arc::new(SystemClock::new()));
    let build = |name: &str| {
        let executor = Arc::clone(&executor);
        Connector::builder().transport(fabric.transport(name)).executor(executor).build()
    };
    let (target, initiator) = (build("target").await.unwrap(), build("initiator").await.unwrap());
    let regions = || cuda.region(gpu, len);
    let (ours, theirs, made, idle) = (regions(), regions(), regions(), cuda.region(gpu, 256 << 20));
    let bytes: Vec<_> = (0..len).map(|i| (i * 7 + i / 251) as u8).collect();
    cuda.upload(&made, &bytes);
    // SAFETY: the stream is of the primary context, and lives longer than this test.
    let stream = unsafe { StreamHandle::from_raw(cuda.stream.as_raw()) };
    let work = || {
        // SAFETY (of both calls): the regions live longer than the stream's work, and nothing else moves them.
        for _ in 0..100 {
            let half = idle.len() / 2;
            let (there, here) = (idle.address() + half as u64, idle.address());
            // SAFETY: above.
            unsafe { cuda.stream.copy_async(there, here, half) }.unwrap();
        }
        // SAFETY: above.
        unsafe { cuda.stream.copy_async(ours.address(), made.address(), len) }.unwrap();
        executor.stream_point(0, stream).unwrap()
    };
    let mut offer = target.create_writable(theirs.clone()).await.unwrap();
    let remote = offer.metadata().clone();
    let point = work();
    assert_eq!(point.is_done(), Ok(false), "it takes milliseconds");
    let list = DescriptorList::from(ours.clone()).after(point);
    let mut write = initiator.begin_write(list, &remote).await.unwrap();
    let done = write.wait_for_completion().await.unwrap();
    offer.wait_for_completion().await.unwrap();
    assert!(matches!(done.path().unwrap().kind(), PathKind::Local(_)));
    assert!(cuda.download(&theirs) == bytes);

    let point = work();
    let list = DescriptorList::from(ours.clone()).after(point.clone());
    let offer = target.create_readable(list).await.unwrap();
    assert_eq!(point.is_done(), Ok(true));
    drop(offer);
}

#[test]
fn shared_memory_is_pinned_on_both_sides() {
    let Some((cuda, _)) = Cuda::new(1, "shared_memory_is_pinned_on_both_sides") else { return };
    let gpus = &cuda.gpus;
    let kind = |address| gpus.memory_kind(Device::HOST, address);
    // In a slab of its own, and with others.
    for len in [3 << 20, 70_000] {
        let _neighbour = Region::shared(len).unwrap();
        let ours = Region::shared_pinned(&cuda.context, len).unwrap();
        assert_eq!(kind(ours.address()), MemoryKind::Pinned);
        // As another process maps it.
        let theirs = SharedMemory::open(&ours.shared_name().unwrap()).unwrap();
        let theirs = Region::try_from(theirs).unwrap();
        let offset = ours.shared_offset();
        assert_eq!(kind(theirs.address() + offset), MemoryKind::Pageable);
        // SAFETY: it is kept until the copies are over.
        let pinned = unsafe { gpus.pin(&theirs) }.unwrap();
        assert_eq!(kind(pinned.address() + offset), MemoryKind::Pinned);
        let on_gpu = cuda.region(MemoryKind::Gpu(0), len);
        let bytes: Vec<_> = (0..len).map(|i| (i * 7 + i / 251) as u8).collect();
        ours.copy_from_slice(0, &bytes).unwrap();
        cuda.copy(on_gpu.address(), pinned.address() + offset, len);
        ours.copy_from_slice(0, &vec![0; len]).unwrap();
        cuda.copy(ours.address(), on_gpu.address(), len);
        let mut seen = vec![0; len];
        theirs.copy_to_slice(offset.try_into().unwrap(), &mut seen).unwrap();
        assert!(seen == bytes);
        drop(pinned);
        assert_eq!(kind(theirs.address() + offset), MemoryKind::Pageable);
        let address = ours.address();
        drop(ours);
        assert_eq!(kind(address), MemoryKind::Pageable);
    }
}

#[test]
fn many_in_flight() {
    let Some((machine, executor)) = Cuda::new(1, "many_in_flight") else { return };
    let g = geometry(2000, 1, 8, 1);
    let from = Cache::new(&machine, MemoryKind::Pinned, LAYOUTS[0], g, 0);
    let to = Cache::new(&machine, MemoryKind::Gpu(0), LAYOUTS[0], g, 0);
    from.fill(&machine, 1);
    to.fill(&machine, 2);
    let options = BlockOptions::new();
    let all: Vec<_> = (0..2000)
        .map(|b| executor.execute(&from.layout, &[b], &to.layout, &[b], &options).unwrap())
        .collect();
    for operation in all {
        wait(operation).unwrap();
    }
    assert_eq!(executor.in_flight(), 0);
    to.check(&machine, "many", |key| (1, key));
}

#[test]
fn the_kernel_and_the_batch_call_are_there() {
    let Some((machine, _)) = Cuda::new(1, "the_kernel_and_the_batch_call_are_there") else {
        return;
    };
    let can = machine.gpus.capabilities();
    println!("{can:?}");
    assert!(can.kernel(), "the PTX was not accepted");
    let pinned = MemoryKind::Pinned;
    assert_eq!(Strategy::Kernel.check(MemoryKind::Gpu(0), pinned, can), Ok(()));
}

/// What the executor adds to the GPU's time: submitting, and learning of the end. Prints, checks nothing.
#[test]
#[ignore = "prints figures, checks nothing: run with `--ignored --nocapture figures`"]
fn figures_of_the_parts() {
    use nixl_descriptor::layout::{Dimensions, Inner, Layout, LayoutGeometry};
    use std::time::{Duration, Instant};
    let Some((cuda, executor)) = Cuda::new(1, "figures_of_the_parts") else { return };
    let median = |mut times: Vec<Duration>| {
        times.sort_unstable();
        times[times.len() / 2]
    };
    let gpu = MemoryKind::Gpu(0);
    let layout = |blocks: usize, bytes: usize| {
        let inner = Inner::Elements(bytes);
        let dimensions =
            Dimensions { blocks, layers: 1, outer: 1, page_size: 1, inner, element_width: 1 };
        let geometry = LayoutGeometry::try_from(dimensions).unwrap();
        Layout::fully_contiguous(geometry, cuda.region(gpu, blocks * bytes)).unwrap()
    };
    for rest in [Duration::ZERO, Duration::from_millis(5)] {
        for (blocks, bytes) in [(1, 1 << 20), (1, 8 << 20), (1, 64 << 20), (16_384, 4096)] {
            let (src, dst) = (layout(2 * blocks, bytes), layout(2 * blocks, bytes));
            let ids: Vec<_> = (0..blocks).map(|i| i * 7919 % (2 * blocks)).collect();
            let [mut raw, mut planning, mut submit, mut total] = [const { Vec::new() }; 4];
            for _ in 0..60 {
                std::thread::sleep(rest);
                let options = BlockOptions::new();
                let begun = Instant::now();
                let plan = executor.plan(&src, &ids, &dst, &ids, &options).unwrap();
                planning.push(begun.elapsed());
                if blocks == 1 {
                    let begun = Instant::now();
                    let mut gpu_stream = cuda.gpus.create_stream(0).unwrap();
                    // SAFETY: both layouts live on, and nothing else uses their memory until the event.
                    unsafe { gpu_stream.memcpy_async(&plan.ops()) }.unwrap();
                    let event = gpu_stream.record_event().unwrap();
                    while !event.is_complete().unwrap() {}
                    raw.push(begun.elapsed());
                    std::thread::sleep(rest);
                }
                let begun = Instant::now();
                let operation = executor.execute(&src, &ids, &dst, &ids, &options).unwrap();
                submit.push(begun.elapsed());
                wait(operation).unwrap();
                total.push(begun.elapsed());
            }
            println!(
                "{blocks} x {bytes} bytes after {rest:?}: plan {:?}, stream {:?}, execute {:?}, in all {:?}",
                median(planning),
                raw.first().map(|_| median(raw.clone())),
                median(submit),
                median(total)
            );
        }
    }
}
