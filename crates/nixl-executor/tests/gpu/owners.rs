//! GPU memory of owners that are killed while it is read: closed here soon after, and free on the device.

use std::env;
use std::fs;
use std::io::{self, BufRead as _, BufReader, Read as _};
use std::iter;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use nixl_connector::{Connector, ConnectorError};
use nixl_descriptor::Region;
use nixl_executor::{MemoryKind, PathExecutor, PathKind};
use nixl_metadata::RdmaMetadata;
use nixl_ops::{OperationError, TransportError};

use crate::Cuda;
use crate::common::Machine as _;
use crate::offers;

/// Set for the process that owns the memory: this test's program, too.
const OWNER: &str = "NIXL_TEST_GPU_OWNER";
/// How many owners are killed, by default 20. 1,000 take minutes: most of the time of each is the start of CUDA and NIXL.
const KILLS: &str = "NIXL_TEST_GPU_KILLS";
/// Owners after which what they leave is set up: from then on nothing may grow.
const SET_UP: usize = 5;
/// Owners that start while others are read.
const AHEAD: usize = 8;
const LEN: usize = 8 << 20;
const OFFERS: usize = 16;
const NAME: &str = "owners::the_memory_of_killed_owners_is_closed";

#[test]
fn the_memory_of_killed_owners_is_closed() {
    if env::var_os(OWNER).is_some() {
        return own();
    }
    let Some((cuda, _)) = Cuda::new(1, NAME) else { return };
    let kills = env::var(KILLS).ok().and_then(|kills| kills.parse().ok()).unwrap_or(20);
    block_on(async {
        let executor = Arc::new(PathExecutor::new().unwrap());
        let builder = Connector::builder().name("reader").executor(Arc::clone(&executor) as _);
        let reader = builder.build().await.unwrap();
        let region = cuda.region(MemoryKind::Gpu(0), LEN);
        let (mut right, mut refused, mut slowest) = (0, 0, Duration::ZERO);
        let (mut before, expected, poison) = (None, bytes(), vec![0; LEN]);
        let mut owners = Owner::each(kills);
        for round in 0..kills {
            let mut owner = owners.next().unwrap();
            let delay = Duration::from_micros(500 * (round as u64 % 40));
            let mut killer = None;
            for (index, offer) in owner.offers.iter().enumerate() {
                // The first read opens the memory; the others are under way when the owner ends.
                if index == 1 {
                    killer = owner.process.take().map(|mut process| {
                        thread::spawn(move || {
                            thread::sleep(delay);
                            process.kill().unwrap();
                            process.wait().unwrap();
                        })
                    });
                }
                cuda.upload(&region, &poison);
                match read(&reader, offer, &region).await {
                    Ok(path) => {
                        assert_eq!(path, PathKind::CudaIpc);
                        assert!(cuda.download(&region) == expected, "wrong bytes in round {round}");
                        right += 1;
                    }
                    Err(error) if index > 0 && is_end(&error) => refused += 1,
                    Err(error) => panic!("round {round}, offer {index}: {error:?}"),
                }
            }
            killer.unwrap().join().unwrap();
            let killed = Instant::now();
            while executor.peer_stats().imports() > 0 {
                assert!(killed.elapsed() < Duration::from_secs(10), "{:?}", executor.peer_stats());
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
            slowest = slowest.max(killed.elapsed());
            if round + 1 == SET_UP {
                before = Some(held(&cuda));
            }
        }
        let (memory, files) = held(&cuda);
        println!(
            "{kills} owners killed: {right} reads right, {refused} refused, closed {slowest:?} after the end at the \
             latest; free memory and files after five {before:?}, at the end {:?}",
            (memory, files)
        );
        let (memory_before, files_before) = before.unwrap();
        assert!(memory + (64 << 20) > memory_before, "{memory} of {memory_before} bytes are free");
        assert!(files <= files_before + 8, "{files_before} files became {files}");
    });
}

/// Offers memory of the GPU until it is killed.
fn own() {
    block_on(async {
        let (cuda, _) = Cuda::new(1, NAME).unwrap();
        let executor = Arc::new(PathExecutor::new().unwrap());
        let owner = Connector::builder().name("owner").executor(executor).build().await.unwrap();
        let region = cuda.region(MemoryKind::Gpu(0), LEN);
        cuda.upload(&region, &bytes());
        let mut offers = Vec::new();
        for _ in 0..OFFERS {
            offers.push(owner.create_readable(region.clone()).await.unwrap());
        }
        offers::print(offers.iter().map(|offer| offer.metadata()));
        // Until the reader ends, if it does not kill this process first.
        let _ = io::stdin().read(&mut [0]);
    });
}

struct Owner {
    process: Option<Child>,
    offers: Vec<RdmaMetadata>,
}

impl Owner {
    /// So many owners. One at a time at first, so that no other has memory of the GPU when what is free is asked.
    fn each(owners: usize) -> impl Iterator<Item = Self> {
        let ahead = owners.saturating_sub(SET_UP);
        let first = (0..owners.min(SET_UP)).map(|_| Self::start());
        let starting = iter::once_with(move || {
            let (started, next) = mpsc::sync_channel(0);
            for thread in 0..AHEAD {
                let started = started.clone();
                let count = (thread..ahead).step_by(AHEAD).len();
                thread::spawn(move || {
                    (0..count).all(|_| started.send(Self::start()).is_ok());
                });
            }
            next.into_iter()
        });
        first.chain(starting.flatten())
    }

    fn start() -> Self {
        let mut command = Command::new(env::current_exe().unwrap());
        command.args([NAME, "--exact", "--nocapture", "--test-threads", "1"]).env(OWNER, "1");
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut process = command.spawn().unwrap();
        let lines = BufReader::new(process.stdout.take().unwrap()).lines().map(Result::unwrap);
        Self { process: Some(process), offers: offers::read(lines) }
    }
}

impl Drop for Owner {
    fn drop(&mut self) {
        if let Some(mut process) = self.process.take() {
            let _ = process.kill();
            let _ = process.wait();
        }
    }
}

#[derive(Debug)]
enum Failure {
    Begin(ConnectorError),
    End(OperationError),
}

async fn read(
    reader: &Connector,
    offer: &RdmaMetadata,
    region: &Region,
) -> Result<PathKind, Failure> {
    let mut read = reader.begin_read(offer, region.clone()).await.map_err(Failure::Begin)?;
    let report = read.wait_for_completion().await.map_err(Failure::End)?;
    Ok(report.path().unwrap().kind())
}

/// Whether an error says that the owner is gone.
fn is_end(failure: &Failure) -> bool {
    let error = match failure {
        Failure::Begin(ConnectorError::Transport(error)) => error,
        Failure::End(OperationError::Transport(error)) => error,
        _ => return false,
    };
    // Of the last, the bytes had arrived when the owner ended, which could not be told.
    matches!(
        error,
        TransportError::PeerGone { .. }
            | TransportError::OfferEnded { .. }
            | TransportError::Stale
            | TransportError::NotificationFailed { .. }
    )
}

fn bytes() -> Vec<u8> {
    (0..LEN).map(|i| (i * 7 + i / 251) as u8).collect()
}

/// Free memory of the GPU, and open files.
fn held(cuda: &Cuda) -> (u64, usize) {
    let free = cuda.context.memory_info().unwrap().free();
    (free, fs::read_dir("/proc/self/fd").unwrap().count())
}

fn block_on<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(future)
}
