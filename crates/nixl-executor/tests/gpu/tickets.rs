//! Blocks of another process's cache on a GPU, read by tickets whose grants end while they are read.

use std::env;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use nixl_connector::{BlockReadError, Connector, ConnectorError, Export, GrantOptions};
use nixl_descriptor::Region;
use nixl_descriptor::layout::{Dimensions, Inner, LayerOrder, Layout, LayoutGeometry};
use nixl_executor::{MemoryKind, PathExecutor, PathKind};
use nixl_metadata::{ExportMetadata, Ticket};
use nixl_ops::{OperationError, TransportError};

use crate::common::Machine as _;
use crate::hex::{hex, unhex};
use crate::{Cuda, allocations};

/// Set for the process that owns the cache, this test's program, too: the kind of its memory.
const OWNER: &str = "NIXL_TEST_TICKET_OWNER";
const NAME: &str = "tickets::blocks_of_another_process_are_right_or_stale";
/// Rounds of each pair of memories, by default 100.
const ROUNDS: &str = "NIXL_TEST_TICKET_ROUNDS";
const GPU: &str = "cuda";
const SHARED: &str = "shared";
const PINNED: &str = "pinned";
/// Of a GPU, without a handle: its owner stages it.
const POOL: &str = "pool";
const GRANTED: [u32; 2] = [5, 2];
/// How long a grant stands.
const STANDS: Duration = Duration::from_millis(3);
/// The same where the owner takes part.
const STAGED_STANDS: Duration = Duration::from_millis(10);

fn rounds() -> usize {
    env::var(ROUNDS).ok().and_then(|rounds| rounds.parse().ok()).unwrap_or(100)
}

fn geometry() -> LayoutGeometry {
    LayoutGeometry::try_from(Dimensions {
        blocks: 8,
        layers: 4,
        outer: 2,
        page_size: 16,
        inner: Inner::Heads { heads: 8, head_size: 128 },
        element_width: 2,
    })
    .unwrap()
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap()
}

#[test]
fn blocks_of_another_process_are_right_or_stale() {
    if let Ok(memory) = env::var(OWNER) {
        return runtime().block_on(own(&memory));
    }
    let Some((cuda, _)) = Cuda::new(1, NAME) else { return };
    runtime().block_on(async {
        let executor = Arc::new(PathExecutor::new().unwrap());
        let reader = Connector::builder().name("reader").executor(executor).build().await.unwrap();
        for (theirs, ours, path) in [
            (GPU, GPU, PathKind::CudaIpc),
            (GPU, PINNED, PathKind::CudaIpc),
            (SHARED, GPU, PathKind::SharedMemory),
            // Through the host or through slots on the GPU, by what is expected to be faster.
            (POOL, POOL, PathKind::StagedBothSides),
            (POOL, GPU, PathKind::StagedBothSides),
            (POOL, PINNED, PathKind::StagedOneSide),
        ] {
            let mut owner = Owner::start(theirs);
            let metadata = ExportMetadata::decode(&unhex(&owner.next("export"))).unwrap();
            let import = reader.import(&metadata).await.unwrap();
            let target = region(&cuda, ours, geometry().bytes());
            let local = Layout::fully_contiguous(geometry(), target.clone()).unwrap();
            let (mut right, mut stale, mut fastest) = (0, 0, Duration::MAX);
            for round in 0..rounds() {
                let ticket = Ticket::decode(&unhex(&owner.next("ticket"))).unwrap();
                loop {
                    let begun = Instant::now();
                    match import.read_blocks(&ticket, &local, &[0, 7]).await {
                        Ok(done) => {
                            fastest = fastest.min(begun.elapsed());
                            let taken = done.path().unwrap();
                            let is_by_slots = taken.kind() == PathKind::StagedOnGpu
                                && path == PathKind::StagedBothSides;
                            assert!(taken.kind() == path || is_by_slots, "{taken}");
                            assert_eq!(taken.is_checked_by_owner(), theirs == POOL);
                            check(&cuda.download(&target), round);
                            right += 1;
                        }
                        Err(error) => {
                            assert!(is_stale(&error), "{error}");
                            stale += 1;
                            break;
                        }
                    }
                }
            }
            let line = format!(
                "{theirs} to {ours}: {right} reads right, {stale} stale, {fastest:?} at the fastest\n"
            );
            // Past the test harness, which would keep it for failures.
            std::io::stderr().write_all(line.as_bytes()).unwrap();
            assert!(right > rounds() / 2, "{line}");
        }
    });
}

/// Memory of this name.
fn region(cuda: &Cuda, memory: &str, len: usize) -> Region {
    match memory {
        GPU => cuda.region(MemoryKind::Gpu(0), len),
        PINNED => cuda.region(MemoryKind::Pinned, len),
        POOL => allocations::region(allocations::Made::Pool, 0, len),
        _ => Region::shared(len).unwrap(),
    }
}

/// Both blocks are of this round, in every layer.
fn check(found: &[u8], round: usize) {
    let len = geometry().block_len();
    for block in [0, 7] {
        let wrong = found[block * len..][..len].iter().position(|byte| *byte != filling(round));
        assert_eq!(wrong, None, "block {block} of round {round} has a byte of another");
    }
}

fn filling(round: usize) -> u8 {
    (round % 250) as u8 + 1
}

fn is_stale(error: &BlockReadError) -> bool {
    let stale = TransportError::Stale;
    [
        ConnectorError::Transport(stale.clone()),
        ConnectorError::Operation(OperationError::Transport(stale)),
    ]
    .contains(error.cause())
}

/// Grants two blocks again and again, and overwrites them as soon as each grant has ended.
async fn own(memory: &str) {
    let (cuda, _) = Cuda::new(1, NAME).unwrap();
    let executor = Arc::new(PathExecutor::new().unwrap());
    let owner = Connector::builder().name("owner").executor(executor).build().await.unwrap();
    let geometry = geometry();
    let len = geometry.blocks() * geometry.layer_len();
    let layers: Vec<Region> = (0..geometry.layers()).map(|_| region(&cuda, memory, len)).collect();
    let parts = layers.iter().map(Region::whole).collect();
    let layout = Layout::per_layer(geometry, LayerOrder::BlockFirst, parts).unwrap();
    let export = owner.export([("cache", layout)]).await.unwrap();
    // A line of its own, which the harness may have begun.
    println!("\nexport {}", hex(&export.metadata().encode().unwrap()));
    let filled = |round| vec![filling(round); len];
    for round in 0..rounds() {
        layers.iter().for_each(|layer| cuda.upload(layer, &filled(round)));
        grant(&export, if memory == POOL { STAGED_STANDS } else { STANDS });
        layers.iter().for_each(|layer| cuda.upload(layer, &filled(round + 1)));
    }
    // Until the reader ends this process.
    let _ = std::io::stdin().read(&mut [0]);
}

fn grant(export: &Export, stands: Duration) {
    let grant = export.grant(0, &GRANTED, GrantOptions::new()).unwrap();
    println!("\nticket {}", hex(&grant.ticket().encode()));
    thread::sleep(stands);
    assert!(grant.end());
}

struct Owner {
    process: Child,
    lines: std::io::Lines<BufReader<ChildStdout>>,
}

impl Owner {
    fn start(memory: &str) -> Self {
        let mut command = Command::new(env::current_exe().unwrap());
        command.args([NAME, "--exact", "--nocapture", "--test-threads", "1"]).env(OWNER, memory);
        let mut process = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let lines = BufReader::new(process.stdout.take().unwrap()).lines();
        Self { process, lines }
    }

    /// The rest of the next line that begins so.
    fn next(&mut self, word: &str) -> String {
        let lines = self.lines.by_ref().map(Result::unwrap);
        let mut of_word = lines.filter_map(|line| Some(line.strip_prefix(word)?.trim().to_owned()));
        of_word.next().unwrap()
    }
}

impl Drop for Owner {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
