//! Grants that end in the order of a stream, under a reader that never stops.

use std::env;
use std::io::Write as _;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;

use nixl_connector::simulated::Fabric;
use nixl_connector::{Connector, Export, GrantOptions};
use nixl_descriptor::layout::{Dimensions, Inner, Layout, LayoutGeometry};
use nixl_descriptor::{PublishedWords, ReadOnlyWords, Region, SharedName};
use nixl_device::cuda::Stream;
use nixl_executor::{MemoryKind, PathExecutor, StreamHandle};
use nixl_ops::{SystemClock, WordCheck};

use crate::Cuda;
use crate::common::Machine as _;

/// Bytes of a block, and those of it that a read brings.
const BLOCK: usize = 4 << 20;
const READ: usize = 64 << 10;
/// What blocks are filled with, one after the other.
const FILLINGS: usize = 16;

/// What a reader made of its reads.
#[derive(Debug, Default)]
struct Seen {
    /// Reads whose grant stood when their bytes had arrived.
    accepted: AtomicUsize,
    stale: AtomicUsize,
    /// Of the accepted ones, those with other bytes than were granted.
    wrong: AtomicUsize,
}

impl Seen {
    fn of(count: &AtomicUsize) -> usize {
        count.load(Ordering::Relaxed)
    }
}

/// An export of one block, and what fills it.
struct Owner {
    cuda: Cuda,
    executor: Arc<PathExecutor>,
    export: Export,
    block: Region,
    fillings: Vec<Region>,
    /// For work that takes some time.
    idle: Region,
}

impl Owner {
    async fn new(cuda: Cuda) -> Self {
        let gpu = MemoryKind::Gpu(0);
        let executor = Arc::new(PathExecutor::new().unwrap());
        let fabric = Fabric::new(Arc::new(SystemClock::new()));
        let builder = Connector::builder().transport(fabric.transport("owner"));
        let connector = builder.executor(Arc::clone(&executor) as _).build().await.unwrap();
        let block = cuda.region(gpu, BLOCK);
        let geometry = LayoutGeometry::try_from(Dimensions {
            blocks: 1,
            layers: 1,
            outer: 1,
            page_size: 1,
            inner: Inner::Elements(BLOCK),
            element_width: 1,
        });
        let layout = Layout::fully_contiguous(geometry.unwrap(), block.clone()).unwrap();
        let export = connector.export([("block", layout)]).await.unwrap();
        let filled = |filling| {
            let region = cuda.region(gpu, BLOCK);
            cuda.upload(&region, &vec![filling as u8; BLOCK]);
            region
        };
        let fillings = (0..FILLINGS).map(filled).collect();
        let idle = cuda.region(gpu, 256 << 20);
        Self { cuda, executor, export, block, fillings, idle }
    }

    /// Queues that the block is filled.
    fn fill(&self, filling: usize) {
        let from = self.fillings[filling].address();
        // SAFETY: both live longer than the stream's work. A reader reads the block meanwhile, by a copy of the GPU's whose
        // bytes count only if the grant stood.
        unsafe { self.cuda.stream.copy_async(self.block.address(), from, BLOCK) }.unwrap();
    }

    /// Queues work that takes about a millisecond.
    fn dawdle(&self) {
        let (here, half) = (self.idle.address(), self.idle.len() / 2);
        for _ in 0..8 {
            // SAFETY: the memory lives longer than the stream's work, and nothing else uses it.
            unsafe { self.cuda.stream.copy_async(here + half as u64, here, half) }.unwrap();
        }
    }

    fn words(&self) -> ReadOnlyWords {
        let file = self.export.metadata().words().file.unwrap();
        let name =
            SharedName { pid: file.pid(), fd: file.fd(), name: file.name(), len: file.length() };
        PublishedWords::open(&name).unwrap()
    }

    /// Grants the block again and again, and overwrites it at once after the end of each grant in the order of the stream; or
    /// before it, if that is queued `behind`.
    fn rounds(&self, rounds: usize, behind: bool) -> Seen {
        let (seen, over) = (Seen::default(), AtomicBool::new(false));
        let ticket = Mutex::new(None);
        // SAFETY: the stream is of the primary context, and lives longer than its uses.
        let stream = unsafe { StreamHandle::from_raw(self.cuda.stream.as_raw()) };
        let queue = self.executor.stream_queue(0, stream);
        thread::scope(|scope| {
            scope.spawn(|| self.read(&ticket, &seen, &over));
            for round in 0..rounds {
                let filling = round % FILLINGS;
                self.fill(filling);
                self.cuda.stream.synchronize().unwrap();
                let grant = self.export.grant(0, &[0], GrantOptions::new()).unwrap();
                let (slot, generation) = (grant.ticket().slot(), grant.ticket().generation());
                let check = WordCheck::new(slot, generation, grant.ticket().digest());
                let before = Seen::of(&seen.accepted);
                *ticket.lock().unwrap() = Some((check, filling as u8));
                while Seen::of(&seen.accepted) == before {
                    thread::yield_now();
                }
                if behind {
                    self.fill((filling + 1) % FILLINGS);
                    self.dawdle();
                    grant.end_on(&*queue).unwrap();
                } else {
                    self.dawdle();
                    grant.end_on(&*queue).unwrap();
                    self.fill((filling + 1) % FILLINGS);
                }
                self.cuda.stream.synchronize().unwrap();
            }
            over.store(true, Ordering::Relaxed);
        });
        seen
    }

    /// Reads by the latest ticket.
    fn read(&self, ticket: &Mutex<Option<(WordCheck, u8)>>, seen: &Seen, over: &AtomicBool) {
        let words = self.words();
        let stream = Stream::new(&self.cuda.context).unwrap();
        let here = self.cuda.region(MemoryKind::Pinned, READ);
        while !over.load(Ordering::Relaxed) {
            let Some((check, filling)) = *ticket.lock().unwrap() else { continue };
            // SAFETY: both live longer than the copy, which is waited for. What writes the block meanwhile is the GPU.
            unsafe { stream.copy_async(here.address(), self.block.address(), READ) }.unwrap();
            stream.synchronize().unwrap();
            let counted = match check.check_mapped(&words) {
                Ok(()) if here.to_vec().unwrap().iter().all(|byte| *byte == filling) => {
                    &seen.accepted
                }
                Ok(()) => &seen.wrong,
                Err(_) => &seen.stale,
            };
            counted.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// Rounds of a test: as many as `NIXL_TEST_GRANT_ROUNDS` says.
fn wanted() -> usize {
    env::var("NIXL_TEST_GRANT_ROUNDS").ok().and_then(|text| text.parse().ok()).unwrap_or(1000)
}

fn report(what: &str, rounds: usize, seen: &Seen) {
    let line = format!("{rounds} rounds, {what}: {seen:?}\n");
    // Past the test harness, which would keep it for failures.
    std::io::stderr().write_all(line.as_bytes()).unwrap();
}

#[tokio::test]
async fn no_byte_is_accepted_that_was_written_behind_the_end_of_a_grant() {
    let name = "no_byte_is_accepted_that_was_written_behind_the_end_of_a_grant";
    let Some((cuda, _)) = Cuda::new(1, name) else { return };
    let (owner, rounds) = (Owner::new(cuda).await, wanted());
    let seen = owner.rounds(rounds, false);
    report("the grant ends before the block is overwritten", rounds, &seen);
    assert_eq!(Seen::of(&seen.wrong), 0, "{seen:?}");
    assert!(Seen::of(&seen.accepted) >= rounds && Seen::of(&seen.stale) > 0, "{seen:?}");
    // The test can fail: the same with the end behind the work.
    let rounds = rounds.min(1000);
    let seen = owner.rounds(rounds, true);
    report("the grant ends behind the work that overwrites the block", rounds, &seen);
    assert!(Seen::of(&seen.wrong) > 0, "{seen:?}");
}
