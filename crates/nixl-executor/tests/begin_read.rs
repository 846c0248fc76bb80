//! The allocations and locks of one `begin_read` on its caller's thread; docs/ARCHITECTURE.md has the walk.
#![allow(clippy::unwrap_used, reason = "helpers of tests")]
#![allow(unsafe_code, reason = "counts the calls of the process's allocator")]

#[cfg(feature = "nixl")]
#[path = "common/hex.rs"]
mod hex;

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use nixl_connector::simulated::Fabric;
use nixl_connector::{Connector, ConnectorBuilder};
use nixl_descriptor::Region;
use nixl_device::locks;
use nixl_metadata::RdmaMetadata;
use nixl_ops::{PathKind, ReadableOperation, SystemClock};

/// The allocations, and the calls of `lock` and `try_lock`, of one `begin_read`.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
struct Cost {
    allocations: usize,
    locks: usize,
}

impl Cost {
    fn now() -> Self {
        Self { allocations: ALLOCATED.get(), locks: locks::taken() }
    }

    fn since(self, before: Self) -> Self {
        Self {
            allocations: self.allocations - before.allocations,
            locks: self.locks - before.locks,
        }
    }

    fn check(self, most: Self) {
        let Self { allocations, locks } = self;
        assert!(allocations <= most.allocations && locks <= most.locks, "{self:?} of {most:?}");
    }
}

/// The most of the transport executor over the simulated transport, once its peer and its memory are known. Nine of the locks are the
/// simulation's own.
const MOST_SIMULATED: Cost = Cost { allocations: 8, locks: 15 };
/// The same over NIXL.
#[cfg(feature = "nixl")]
const MOST_NIXL: Cost = Cost { allocations: 10, locks: 7 };
/// The same of the executor that plans, through mapped memory.
#[cfg(feature = "nixl")]
const MOST_MAPPED: Cost = Cost { allocations: 7, locks: 7 };
/// The same of the executor that plans, over NIXL. One of the locks is that of the peer's plans.
#[cfg(feature = "nixl")]
const MOST_PLANNED_NIXL: Cost = Cost { allocations: 10, locks: 8 };
const LEN: usize = 4096;
/// Rounds in which peers are met, memory is registered and a path shows that it works.
const WARM_UP: usize = 5;
/// With the warm-up at most eight: the caller posts until more than eight transfers have ended in their post.
const ROUNDS: usize = 3;

/// Counts the calls of each thread to the system's allocator.
struct Counting;

thread_local! {
    static ALLOCATED: Cell<usize> = const { Cell::new(0) };
}

impl Counting {
    fn count() {
        ALLOCATED.set(ALLOCATED.get() + 1);
    }
}

// SAFETY: every call is handed to the system's allocator as it is.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        Self::count();
        // SAFETY: the caller's promises are those of this call.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        // SAFETY: as above.
        unsafe { System.dealloc(at, layout) }
    }

    unsafe fn realloc(&self, at: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        Self::count();
        // SAFETY: as above.
        unsafe { System.realloc(at, layout, size) }
    }
}

#[global_allocator]
static COUNTING: Counting = Counting;

/// The output of a future, and its cost to this thread. A begin whose peer and memory are known needs no other thread:
/// it yields once at most.
fn counted<F: Future>(future: F) -> (F::Output, Cost) {
    let (mut future, mut cx) = (pin!(future), Context::from_waker(Waker::noop()));
    let before = Cost::now();
    let polled = match future.as_mut().poll(&mut cx) {
        Poll::Pending => future.as_mut().poll(&mut cx),
        ready => ready,
    };
    match polled {
        Poll::Ready(output) => (output, Cost::now().since(before)),
        Poll::Pending => panic!("it waits for another thread"),
    }
}

/// Gives the metadata of one offer after another, each of which is read before the next is asked for.
trait Target {
    async fn offer(&mut self) -> RdmaMetadata;
}

/// A target in this process.
struct Here {
    connector: Connector,
    region: Region,
    offered: Option<ReadableOperation>,
}

impl Target for Here {
    async fn offer(&mut self) -> RdmaMetadata {
        if let Some(offered) = self.offered.take() {
            offered.await.unwrap();
        }
        let offer = self.connector.create_readable(self.region.clone()).await.unwrap();
        let message = offer.metadata().to_native_bytes().unwrap();
        self.offered = Some(offer);
        RdmaMetadata::decode(&message).unwrap()
    }
}

/// Reads again and again. Returns the cost of a `begin_read`, and the kind of path: the median of its allocations, and the least of its
/// locks, since one that meets other threads' work takes more.
async fn cost(target: &mut impl Target, initiator: &Connector, mine: Region) -> (Cost, PathKind) {
    let (mut allocations, mut locks) = (Vec::new(), Vec::new());
    let mut kind = None;
    for round in 0..WARM_UP + ROUNDS {
        let remote = target.offer().await;
        mine.copy_from_slice(0, &[0; LEN]).unwrap();
        let local = mine.clone();
        let mut read = match round {
            0..WARM_UP => initiator.begin_read(&remote, local).await.unwrap(),
            _ => {
                let (begun, cost) = counted(initiator.begin_read(&remote, local));
                allocations.push(cost.allocations);
                locks.push(cost.locks);
                begun.unwrap()
            }
        };
        let done = read.wait_for_completion().await.unwrap();
        kind = done.path().map(|path| path.kind());
        assert_eq!(mine.to_vec().unwrap(), [7; LEN]);
    }
    // Maps that grow allocate more now and then.
    allocations.sort_unstable();
    locks.sort_unstable();
    (Cost { allocations: allocations[ROUNDS / 2], locks: locks[0] }, kind.unwrap())
}

async fn between_two(builders: [ConnectorBuilder; 2]) -> (Cost, PathKind) {
    let [target, initiator] = builders;
    let region = Region::try_from(vec![7; LEN]).unwrap();
    let mut target = Here { connector: target.build().await.unwrap(), region, offered: None };
    let initiator = initiator.build().await.unwrap();
    cost(&mut target, &initiator, Region::zeroed(LEN).unwrap()).await
}

#[tokio::test]
async fn over_the_simulated_transport() {
    let fabric = Fabric::new(Arc::new(SystemClock::new()));
    let builders =
        ["target", "initiator"].map(|name| Connector::builder().transport(fabric.transport(name)));
    let (cost, kind) = between_two(builders).await;
    assert_eq!(kind, PathKind::Direct);
    cost.check(MOST_SIMULATED);
}

#[cfg(feature = "nixl")]
#[tokio::test]
async fn over_nixl() {
    let builders = ["target", "initiator"].map(|name| Connector::builder().name(name));
    let (cost, kind) = between_two(builders).await;
    assert_eq!(kind, PathKind::Direct);
    cost.check(MOST_NIXL);
}

#[cfg(feature = "nixl")]
mod between_processes {
    use std::io::{BufRead, BufReader, Lines, Write, stdin};
    use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

    use super::*;
    use crate::hex::{hex, unhex};

    /// The variable that is set if a target's memory is shared.
    const SHARED: &str = "NIXL_TEST_BEGIN_READ_SHARED";
    /// Comes before each offer of the other process, in hexadecimal.
    const OFFER: &str = "offer:";

    fn region(is_shared: bool) -> Region {
        match is_shared {
            true => Region::shared(LEN).unwrap(),
            false => Region::zeroed(LEN).unwrap(),
        }
    }

    /// A target in a process of its own.
    struct There {
        process: Child,
        asks: ChildStdin,
        tells: Lines<BufReader<ChildStdout>>,
    }

    impl There {
        fn start(is_shared: bool) -> Self {
            let mut process = Command::new(std::env::current_exe().unwrap())
                .envs(is_shared.then_some((SHARED, "1")))
                .args(["--exact", "between_processes::target", "--ignored", "--nocapture"])
                .stdin(Stdio::piped())
                .stdout(Stdio::piped())
                .spawn()
                .unwrap();
            let asks = process.stdin.take().unwrap();
            let tells = BufReader::new(process.stdout.take().unwrap()).lines();
            Self { process, asks, tells }
        }
    }

    impl Target for There {
        async fn offer(&mut self) -> RdmaMetadata {
            writeln!(self.asks).unwrap();
            let offer = self.tells.find_map(|line| {
                let line = line.unwrap();
                Some(unhex(line.split_once(OFFER)?.1))
            });
            RdmaMetadata::decode(&offer.expect("the target has ended")).unwrap()
        }
    }

    impl Drop for There {
        fn drop(&mut self) {
            self.process.kill().unwrap();
            self.process.wait().unwrap();
        }
    }

    #[tokio::test]
    #[ignore = "run by another test, in a process of its own"]
    async fn target() {
        let connector = nixl_executor::connector().await.unwrap().build().await.unwrap();
        let region = region(std::env::var_os(SHARED).is_some());
        region.copy_from_slice(0, &[7; LEN]).unwrap();
        let mut here = Here { connector, region, offered: None };
        for line in stdin().lines() {
            line.unwrap();
            let message = here.offer().await.to_native_bytes().unwrap();
            println!("{OFFER}{}", hex(&message));
        }
    }

    /// One row after the other: the second connection that uses a slab of the pool takes a lock more for its registration.
    #[tokio::test]
    async fn by_paths() {
        let rows = [
            (true, PathKind::SharedMemory, MOST_MAPPED),
            (false, PathKind::Direct, MOST_PLANNED_NIXL),
        ];
        for (is_shared, path, most) in rows {
            let initiator = nixl_executor::connector().await.unwrap().build().await.unwrap();
            let mut target = There::start(is_shared);
            let (cost, kind) = cost(&mut target, &initiator, region(is_shared)).await;
            assert_eq!(kind, path);
            cost.check(most);
        }
    }
}
