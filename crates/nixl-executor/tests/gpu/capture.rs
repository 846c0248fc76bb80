//! Beside a framework that captures CUDA graphs on another thread.

use std::io::Write as _;
use std::sync::Arc;

use nixl_connector::Connector;
use nixl_connector::simulated::Fabric;
use nixl_descriptor::{DescriptorList, Region};
use nixl_device::cuda::{Event, relax_capture};
use nixl_executor::{GpuBackend as _, GpuError, MemoryKind, PathExecutor, StreamHandle};
use nixl_ops::SystemClock;

use crate::Cuda;
use crate::common::Machine as _;
use crate::framework::{Framework, Running};

/// The whole of a transfer's life: memory is allocated, pinned, marked after a stream's work, offered, written and freed.
struct Transfers {
    cuda: Cuda,
    executor: Arc<PathExecutor>,
    target: Connector,
    initiator: Connector,
}

impl Transfers {
    async fn new(cuda: Cuda) -> Self {
        let executor = Arc::new(PathExecutor::new().unwrap());
        let fabric = Fabric::new(Arc::new(SystemClock::new()));
        let build = |name: &str| {
            let executor = Arc::clone(&executor);
            Connector::builder().transport(fabric.transport(name)).executor(executor).build()
        };
        let (target, initiator) =
            (build("target").await.unwrap(), build("initiator").await.unwrap());
        Self { cuda, executor, target, initiator }
    }

    /// Writes from new memory of one kind to new memory of another, and compares the bytes.
    async fn write(&self, (src, dst): (MemoryKind, MemoryKind), len: usize, seed: usize) {
        let (ours, theirs) = (self.cuda.region(src, len), self.cuda.region(dst, len));
        let bytes: Vec<_> = (0..len).map(|i| (i * 7 + i / 251 + seed) as u8).collect();
        self.cuda.upload(&ours, &bytes);
        self.cuda.upload(&theirs, &vec![0; len]);
        // SAFETY: the stream is of the primary context, and lives longer than the transfer.
        let stream = unsafe { StreamHandle::from_raw(self.cuda.stream.as_raw()) };
        let point = self.executor.stream_point(0, stream).unwrap();
        let mut offer = self.target.create_writable(theirs.clone()).await.unwrap();
        let remote = offer.metadata().clone();
        let list = DescriptorList::from(ours).after(point);
        let mut write = self.initiator.begin_write(list, &remote).await.unwrap();
        write.wait_for_completion().await.unwrap();
        offer.wait_for_completion().await.unwrap();
        assert!(self.cuda.download(&theirs) == bytes, "{src} to {dst}, {len} bytes, seed {seed}");
    }

    /// Pins memory that is there, or makes pinned memory, and gives it back.
    fn pin(&self, len: usize, in_place: bool) {
        if !in_place {
            let region = Region::shared_pinned(&self.cuda.context, len).unwrap();
            let kind = self.cuda.gpus.memory_kind(region.device(), region.address());
            assert_eq!(kind, MemoryKind::Pinned);
            return;
        }
        let region = self.cuda.region(MemoryKind::Pageable, len);
        // SAFETY: no GPU uses the memory.
        let pinned = unsafe { self.cuda.gpus.pin(&region) }.unwrap();
        let kind = self.cuda.gpus.memory_kind(region.device(), pinned.address());
        assert_eq!(kind, MemoryKind::Pinned);
    }
}

#[tokio::test]
async fn captures_and_transfers_go_on_beside_each_other() {
    const ROUNDS: usize = 1000;
    const GPU: MemoryKind = MemoryKind::Gpu(0);
    const WAYS: [(MemoryKind, MemoryKind); 5] = [
        (GPU, GPU),
        (GPU, MemoryKind::Pinned),
        (MemoryKind::Pinned, GPU),
        (GPU, MemoryKind::Pageable),
        (MemoryKind::Pageable, GPU),
    ];
    let name = "captures_and_transfers_go_on_beside_each_other";
    let Some((cuda, _)) = Cuda::new(1, name) else { return };
    let context = cuda.context;
    let transfers = Transfers::new(cuda).await;
    // A capture spans a transfer and a pinning at least, of which one at least is whole.
    let framework = Running::start(context, 3);
    for round in 0..ROUNDS {
        let len = [4096, 300_001, 3 << 20][round % 3];
        transfers.write(WAYS[round % WAYS.len()], len, round).await;
        framework.step();
        transfers.pin(len, round % 2 == 0);
        framework.step();
    }
    let seen = framework.stop();
    let line = format!(
        "{ROUNDS} transfers and {ROUNDS} pinnings beside {} captures and {} replays of CUDA graphs: {} captures failed\n",
        seen.captures,
        seen.replays,
        seen.failures.len()
    );
    // Past the test harness, which would keep it for failures.
    std::io::stderr().write_all(line.as_bytes()).unwrap();
    assert_eq!(seen.failures, Vec::<String>::new());
    assert!(seen.captures > 100, "{seen:?}");
}

/// The thread that captures may also be the one that transfers.
#[tokio::test]
async fn a_thread_that_captures_can_transfer_meanwhile() {
    let name = "a_thread_that_captures_can_transfer_meanwhile";
    let Some((cuda, _)) = Cuda::new(1, name) else { return };
    let context = cuda.context;
    let transfers = Transfers::new(cuda).await;
    let framework = Framework::new(&context);
    for round in 0..10 {
        assert_eq!(framework.begin(), 0);
        assert_eq!(framework.fill(round), 0);
        let gpu = MemoryKind::Gpu(0);
        transfers.write((gpu, MemoryKind::Pageable), 3 << 20, usize::from(round)).await;
        transfers.pin(1 << 20, round % 2 == 0);
        let (code, graph) = framework.end();
        assert_eq!(code, 0);
        framework.replay(graph, round).unwrap();
    }
}

#[tokio::test]
async fn a_stream_that_captures_is_refused_and_its_capture_goes_on() {
    let name = "a_stream_that_captures_is_refused_and_its_capture_goes_on";
    let Some((cuda, _)) = Cuda::new(1, name) else { return };
    let framework = Framework::new(&cuda.context);
    let executor = PathExecutor::new().unwrap();
    // SAFETY: the stream is of the primary context, and lives longer than the executor's use of it.
    let stream = unsafe { StreamHandle::from_raw(framework.stream()) };
    executor.stream_point(0, stream).unwrap();
    assert_eq!(framework.begin(), 0);
    assert_eq!(framework.fill(5), 0);
    let refused = executor.stream_point(0, stream);
    assert!(
        matches!(&refused, Err(GpuError::StreamCapturing { reason }) if reason.to_string().contains("before the capture begins")),
        "{refused:?}"
    );
    let (code, graph) = framework.end();
    assert_eq!(code, 0);
    framework.replay(graph, 5).unwrap();
    executor.stream_point(0, stream).unwrap();
}

/// That the tests above can fail: the same query of an event, in the thread's own mode, ends a capture; relaxed, it does not.
#[test]
fn a_query_in_the_threads_own_mode_ends_a_capture() {
    let name = "a_query_in_the_threads_own_mode_ends_a_capture";
    let Some((cuda, _)) = Cuda::new(1, name) else { return };
    let event = Event::new(&cuda.context).unwrap();
    event.record(&cuda.stream).unwrap();
    cuda.stream.synchronize().unwrap();
    let framework = Framework::new(&cuda.context);
    let query = |is_relaxed: bool| {
        std::thread::scope(|scope| {
            let asked = scope.spawn(|| {
                let _relaxed = is_relaxed.then(relax_capture);
                framework.query_as_it_is(event.as_raw())
            });
            asked.join().unwrap()
        })
    };
    for (is_relaxed, expected) in [(true, (0, 0)), (false, (900, 901)), (true, (0, 0))] {
        assert_eq!(framework.begin(), 0);
        assert_eq!(framework.fill(1), 0);
        let asked = query(is_relaxed);
        let (ended, graph) = framework.end();
        assert_eq!((asked, ended), expected, "relaxed: {is_relaxed}");
        if ended == 0 {
            framework.replay(graph, 1).unwrap();
        }
    }
}
