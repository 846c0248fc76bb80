//! GPU memory of every kind between two processes: the GPU of the one that can open the other's copies, and if neither can, the
//! bytes bounce once through slots on a GPU.

use std::env;
use std::io::{BufRead as _, BufReader, Lines, Read as _};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use nixl_connector::Connector;
use nixl_descriptor::Region;
use nixl_device::cuda::{Context, Stream};
use nixl_executor::{GpuBackend as _, PathExecutor, PathKind, PathReport};
use nixl_metadata::RdmaMetadata;

use crate::Cuda;
use crate::allocations::{self, Made};
use crate::offers;

/// Set for the process that offers: this test's program, too.
const OWNER: &str = "NIXL_TEST_GPU_BOUNCE";
const NAME: &str = "bounce::memory_of_every_kind_goes_between_processes";
/// Four chunks and a part of one.
const LEN: usize = (33 << 20) + 5;

#[test]
fn the_driver_tells_the_kinds_of_allocations() {
    let name = "bounce::the_driver_tells_the_kinds_of_allocations";
    let Some((cuda, _)) = Cuda::new(1, name) else { return };
    for made in Made::ALL {
        let region = allocations::region(made, 0, LEN);
        let inside = region.address() + 4096;
        let found = cuda.gpus.allocation(0, inside).unwrap();
        println!("{made:?}: {found:?}");
        let has_handle = made == Made::Legacy;
        assert_eq!((found.kind(), found.ipc_handle().is_some()), (made.kind(), has_handle));
        // The driver may tell of one of several allocations.
        assert!(found.contains(inside, 1), "{found:?}");
        assert!(!found.is_read_only(), "{found:?}");
        let shared = cuda.gpus.share_pieces(0, inside, LEN as u64 - 4096);
        assert_eq!(shared.is_ok(), made.is_shared() && made != Made::Legacy, "{made:?} {shared:?}");
        let Ok((base, pieces)) = shared else { continue };
        assert_eq!(base, region.address(), "{made:?}");
        assert!(pieces.handle().len() >= LEN as u64);
        // The same memory keeps its name, also a part of it.
        let part = cuda.gpus.share_pieces(0, inside, 1).unwrap();
        assert_eq!((part.0, part.1.handle()), (base, pieces.handle()), "{made:?}");
    }
}

/// The expected path was taken. Every operation has new memory, and to open it may take longer than to stage it, which the executor
/// learns.
fn check(path: &PathReport, expected: PathKind, what: &str) {
    let is_learned = expected == PathKind::CudaIpc
        && path.kind() == PathKind::StagedOnGpu
        && path.to_string().contains("times its estimate");
    assert!(path.kind() == expected || is_learned, "{what}: {path}");
}

#[test]
fn memory_of_every_kind_goes_between_processes() {
    if env::var_os(OWNER).is_some() {
        return own();
    }
    let Some((cuda, _)) = Cuda::new(1, NAME) else { return };
    let other = cuda.gpus.capabilities().gpus().min(2) - 1;
    block_on(async {
        let executor = Arc::new(PathExecutor::new().unwrap());
        let builder = Connector::builder().name("reader").executor(Arc::clone(&executor) as _);
        let reader = builder.build().await.unwrap();
        let mut owner = Owner::start();
        // Readable and writable by turns, of each kind.
        let mut offers = owner.offers.drain(..);
        for there in Made::ALL {
            for here in Made::ALL {
                let what = format!("{there:?} and {here:?}");
                let expected = match there.is_shared() || here.is_shared() {
                    true => PathKind::CudaIpc,
                    false => PathKind::StagedOnGpu,
                };
                let region = allocations::region(here, other, LEN);
                upload(&region, &vec![0; LEN]);
                let offer = offers.next().unwrap();
                let mut read = reader.begin_read(&offer, region.clone()).await.unwrap();
                let done = read.wait_for_completion().await.unwrap();
                let path = done.path().unwrap();
                check(path, expected, &what);
                assert!(download(&region) == bytes(1), "{what}: wrong bytes");
                upload(&region, &bytes(2));
                let offer = offers.next().unwrap();
                let mut write = reader.begin_write(region.clone(), &offer).await.unwrap();
                let done = write.wait_for_completion().await.unwrap();
                let path = done.path().unwrap();
                check(path, expected, &what);
                println!("{what}: {path}");
            }
        }
        drop(offers);
        let slots = executor.staging_stats().on_gpus();
        assert_eq!((slots.free(), slots.quarantined()), (8, 0));
        owner.end();
        // The end of the owner's process closes its memory here.
        let ended = Instant::now();
        while executor.peer_stats().imports() > 0 {
            assert!(ended.elapsed() < Duration::from_secs(30), "{:?}", executor.peer_stats());
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    });
}

/// Offers memory of each kind, once for each kind of the reader, and compares the written bytes at the end.
fn own() {
    block_on(async {
        let executor = Arc::new(PathExecutor::new().unwrap());
        let owner = Connector::builder().name("owner").executor(executor).build().await.unwrap();
        let (mut readable, mut writable) = (Vec::new(), Vec::new());
        for made in Made::ALL {
            let source = allocations::region(made, 0, LEN);
            upload(&source, &bytes(1));
            for _ in Made::ALL {
                readable.push(owner.create_readable(source.clone()).await.unwrap());
                let sink = allocations::region(made, 0, LEN);
                upload(&sink, &vec![0; LEN]);
                writable.push((owner.create_writable(sink.clone()).await.unwrap(), sink));
            }
        }
        let pairs = readable.iter().zip(&writable);
        offers::print(
            pairs.flat_map(|(readable, (writable, _))| [readable.metadata(), writable.metadata()]),
        );
        for (mut offer, sink) in writable {
            offer.wait_for_completion().await.unwrap();
            assert!(download(&sink) == bytes(2), "wrong bytes were written");
        }
        for mut offer in readable {
            offer.wait_for_completion().await.unwrap();
        }
        // Until the reader has looked at its own side.
        let _ = std::io::stdin().read(&mut [0]);
    });
}

struct Owner {
    process: Child,
    /// Open until it ends: what it prints then goes somewhere.
    lines: Lines<BufReader<ChildStdout>>,
    offers: Vec<RdmaMetadata>,
}

impl Owner {
    fn start() -> Self {
        let mut command = Command::new(env::current_exe().unwrap());
        command.args([NAME, "--exact", "--nocapture", "--test-threads", "1"]).env(OWNER, "1");
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut process = command.spawn().unwrap();
        let mut lines = BufReader::new(process.stdout.take().unwrap()).lines();
        let offers = offers::read(lines.by_ref().map(Result::unwrap));
        Self { process, lines, offers }
    }

    /// Ends it. Its exit status says whether its bytes were right.
    fn end(&mut self) {
        drop(self.process.stdin.take());
        let last: Vec<_> = self.lines.by_ref().map(Result::unwrap).collect();
        assert!(self.process.wait().unwrap().success(), "{last:#?}");
    }
}

impl Drop for Owner {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// By the GPU whose memory it is: others may not reach it.
fn copy(region: &Region, dst: u64, src: u64) {
    let context = Context::primary(region.device().index()).unwrap();
    let stream = Stream::new(&context).unwrap();
    // SAFETY: the copy is waited for right here, and no transfer uses the memory now.
    unsafe { stream.copy_async(dst, src, region.len()) }.unwrap();
    stream.synchronize().unwrap();
}

fn upload(region: &Region, bytes: &[u8]) {
    assert_eq!(region.len(), bytes.len());
    copy(region, region.address(), bytes.as_ptr() as u64);
}

fn download(region: &Region) -> Vec<u8> {
    let mut bytes = vec![0; region.len()];
    copy(region, bytes.as_mut_ptr() as u64, region.address());
    bytes
}

/// Differs from chunk to chunk.
fn bytes(seed: usize) -> Vec<u8> {
    (0..LEN).map(|i| (i * 7 + i / 251 + (i >> 20) + seed) as u8).collect()
}

fn block_on<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(future)
}
