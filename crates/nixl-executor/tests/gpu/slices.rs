//! Slices of cudarc: offered and read after the work of their streams, and given back.

use std::sync::mpsc;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use cudarc::driver::sys::CU_MEMHOSTALLOC_PORTABLE;
use cudarc::driver::{CudaContext, CudaSlice};
use nixl_connector::Connector;
use nixl_connector::simulated::Fabric;
use nixl_descriptor::{AllocationKind, Region, WorkQueue as _};
use nixl_executor::{GpuBackend as _, PathExecutor, cudarc as slices};
use nixl_metadata::RdmaMetadata;
use nixl_ops::{Executor, SystemClock};

use crate::Cuda;

const LIMIT: Duration = Duration::from_secs(30);
/// 64 MiB, so that the work of the streams takes a while.
const LEN: usize = 16 << 20;

#[test]
fn slices_are_read_after_the_work_of_their_streams_and_come_back() {
    let name = "slices::slices_are_read_after_the_work_of_their_streams_and_come_back";
    let Some((cuda, _)) = Cuda::new(1, name) else { return };
    let numbers: Vec<u32> = (0..LEN as u32).map(|i| i.wrapping_mul(2_654_435_761)).collect();
    let stream = CudaContext::new(0).unwrap().new_stream().unwrap();
    block_on(async {
        let executor = Arc::new(PathExecutor::new().unwrap());
        let fabric = Fabric::new(Arc::new(SystemClock::new()));
        let build = |name: &str| {
            let executor = Arc::clone(&executor) as Arc<dyn Executor>;
            Connector::builder().transport(fabric.transport(name)).executor(executor).build()
        };
        let (target, initiator) =
            (build("target").await.unwrap(), build("initiator").await.unwrap());
        let source: CudaSlice<u32> = stream.clone_htod(&numbers).unwrap();
        let sink: CudaSlice<u32> = stream.alloc_zeros(LEN).unwrap();
        let offered = slices::descriptors(&executor, source).unwrap();
        let source = offered.as_slice()[0].region().clone();
        let mut offer = target.create_readable(offered).await.unwrap();
        let remote = RdmaMetadata::decode(&offer.metadata().to_native_bytes().unwrap()).unwrap();
        let local = slices::descriptors(&executor, sink).unwrap();
        let sink = local.as_slice()[0].region().clone();
        let mut read = initiator.begin_read(&remote, local).await.unwrap();
        read.wait_for_completion().await.unwrap();
        offer.wait_for_completion().await.unwrap();
        drop((read, offer));
        let allocation = cuda.gpus.allocation(0, sink.address()).unwrap();
        assert_eq!((sink.len(), allocation.kind()), (4 * LEN, AllocationKind::Pool));
        // Not as a slice of something else.
        let sink = slices::slice::<u64>(sink).unwrap_err().into_region();
        for region in [source, sink] {
            let slice = take_back(region);
            assert!(stream.clone_dtoh(&slice).unwrap() == numbers);
        }
    });
}

#[test]
fn work_is_called_for_in_the_order_of_a_stream() {
    let name = "slices::work_is_called_for_in_the_order_of_a_stream";
    if Cuda::new(1, name).is_none() {
        return;
    }
    let stream = CudaContext::new(0).unwrap().new_stream().unwrap();
    let executor = PathExecutor::new().unwrap();
    let (queue, order) =
        (slices::stream_queue(&executor, &stream), Arc::new(Mutex::new(Vec::new())));
    let (called, calls) = mpsc::channel();
    for number in 0..10 {
        let (order, called) = (Arc::clone(&order), called.clone());
        let _work = stream.alloc_zeros::<u8>(1 << 20).unwrap();
        queue
            .call(Box::new(move |done| {
                order.lock().unwrap().push(number);
                called.send(done.is_ok()).unwrap();
            }))
            .unwrap();
    }
    assert!((0..10).all(|_| calls.recv_timeout(LIMIT).unwrap()));
    assert_eq!(*order.lock().unwrap(), (0..10).collect::<Vec<_>>());
}

#[test]
fn pinned_slices_are_read_after_their_copies_and_come_back() {
    let name = "slices::pinned_slices_are_read_after_their_copies_and_come_back";
    let Some((cuda, _)) = Cuda::new(1, name) else { return };
    let context = CudaContext::new(0).unwrap();
    let stream = context.new_stream().unwrap();
    let numbers: Vec<u32> = (0..LEN as u32).map(|i| i.wrapping_mul(2_654_435_761)).collect();
    let device = stream.clone_htod(&numbers).unwrap();
    let pinned = || {
        // SAFETY: any bytes are numbers.
        unsafe { context.alloc_pinned_with_flags::<u32>(LEN, CU_MEMHOSTALLOC_PORTABLE) }.unwrap()
    };
    let (mut source, sink) = (pinned(), pinned());
    stream.memcpy_dtoh(&device, &mut source).unwrap();
    // Waits for the copy.
    let [source, sink] = [source, sink].map(|slice| slices::pinned_region(slice).unwrap());
    assert_eq!(
        cuda.gpus.memory_kind(source.device(), source.address()),
        nixl_executor::MemoryKind::Pinned
    );
    block_on(async {
        let fabric = Fabric::new(Arc::new(SystemClock::new()));
        let build = |name: &str| {
            let executor = Arc::new(PathExecutor::new().unwrap()) as Arc<dyn Executor>;
            Connector::builder().transport(fabric.transport(name)).executor(executor).build()
        };
        let (target, initiator) =
            (build("pinned-target").await.unwrap(), build("pinned-initiator").await.unwrap());
        let mut offer = target.create_readable(source.clone()).await.unwrap();
        let remote = RdmaMetadata::decode(&offer.metadata().to_native_bytes().unwrap()).unwrap();
        let mut read = initiator.begin_read(&remote, sink.clone()).await.unwrap();
        read.wait_for_completion().await.unwrap();
        offer.wait_for_completion().await.unwrap();
    });
    // Not as a slice of something else.
    let sink = slices::pinned_slice::<u64>(sink).unwrap_err().into_region();
    for mut region in [source, sink] {
        let began = Instant::now();
        let slice = loop {
            match slices::pinned_slice::<u32>(region) {
                Ok(slice) => break slice,
                Err(refused) => {
                    assert!(began.elapsed() < LIMIT, "{refused}");
                    region = refused.into_region();
                    std::thread::yield_now();
                }
            }
        };
        assert!(slice.as_slice().unwrap() == numbers);
    }
}

/// Threads of the connections may have handles for a moment longer.
fn take_back(mut region: Region) -> CudaSlice<u32> {
    let began = Instant::now();
    loop {
        match slices::slice(region) {
            Ok(slice) => return slice,
            Err(refused) => {
                assert!(began.elapsed() < LIMIT, "{refused}");
                region = refused.into_region();
                std::thread::yield_now();
            }
        }
    }
}

fn block_on<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(future)
}
