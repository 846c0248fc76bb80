//! Processes that fork, over real NIXL: in the child every call is an error at once, nothing reaches the parent, and a connector of its own
//! works.
//!
//! Each test runs in a process of its own, in which nothing else forks.
#![allow(clippy::unwrap_used, reason = "a test says so, by failing")]

use std::fs;
use std::hint::black_box;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Waker};
use std::thread;
use std::time::{Duration, Instant};

use nixl_connector::{
    CancelOutcome, Completion, Connector, ConnectorError, OperationError, OperationStatus,
    ReadOperation, ReadableOperation, RevokeOutcome, TransportError, WritableOperation,
    WriteOperation,
};
use nixl_descriptor::Region;
use nixl_executor::PathExecutor;
use nixl_metadata::RdmaMetadata;
use nixl_tests::{alone, at_exit, exit_of_child, in_child, pattern, within};

const LIMIT: Duration = Duration::from_secs(120);
const LARGE: usize = 64 << 20;

async fn connector(path: bool) -> Connector {
    let builder = Connector::builder();
    let builder = match path {
        true => builder.executor(Arc::new(PathExecutor::new().unwrap())),
        false => builder,
    };
    builder.build().await.unwrap()
}

/// Memory of the pool or of a `Vec`, filled from the seed.
fn filled(seed: u64, len: usize) -> Region {
    if seed.is_multiple_of(2) {
        return Region::try_from(pattern(seed, len)).unwrap();
    }
    let region = Region::shared(len).unwrap();
    region.copy_from_slice(0, &pattern(seed, len)).unwrap();
    region
}

async fn transfer(source: &Connector, sink: &Connector, seed: u64) {
    let mut offered = source.create_readable(filled(seed, 100_000)).await.unwrap();
    let remote = offered.metadata().clone();
    let local = Region::zeroed(100_000).unwrap();
    let mut read = sink.begin_read(&remote, local.clone()).await.unwrap();
    read.wait_for_completion().await.unwrap();
    offered.wait_for_completion().await.unwrap();
    assert!(local.to_vec().unwrap() == pattern(seed, 100_000), "the bytes are wrong");
    // And the other direction.
    let target = sink.buffer(100_000).unwrap();
    let mut offered = sink.create_writable(target.clone()).await.unwrap();
    let remote = offered.metadata().clone();
    let mut write = source.begin_write(filled(seed, 100_000), &remote).await.unwrap();
    write.wait_for_completion().await.unwrap();
    offered.wait_for_completion().await.unwrap();
    assert!(target.to_vec().unwrap() == pattern(seed, 100_000), "the bytes are wrong");
}

fn is_forked<T>(result: Result<T, ConnectorError>) -> bool {
    match result {
        Err(ConnectorError::Transport(error))
        | Err(ConnectorError::Operation(OperationError::Transport(error))) => {
            error == TransportError::Forked
        }
        _ => false,
    }
}

fn ended<T>(result: Result<T, OperationError>) -> bool {
    result.is_err_and(|error| error == OperationError::Transport(TransportError::Forked))
}

/// All that a connector can be asked.
async fn refuses(connector: &Connector, remote: &RdmaMetadata) {
    let memory = || Region::zeroed(remote.descriptors()[0].size() as usize).unwrap();
    assert!(is_forked(connector.create_readable(memory()).await));
    assert!(is_forked(connector.create_writable(memory()).await));
    assert!(is_forked(connector.begin_read(remote, memory()).await));
    assert!(is_forked(connector.begin_write(memory(), remote).await));
    assert!(is_forked(connector.decline(remote).await));
    assert!(is_forked(connector.buffer(1000)));
    assert_eq!(connector.stats(), Default::default());
    assert_eq!(connector.health().await.problems(), [TransportError::Forked]);
    connector.drain(Duration::from_secs(60)).await;
    let _ = (connector.name(), format!("{connector:?}"));
}

type Wait<T> = Pin<Box<dyn Future<Output = T>>>;

/// What the parent holds when it forks. Options, so that the child can take and drop what the parent keeps.
struct Hand {
    source: Option<Connector>,
    sink: Option<Connector>,
    offered: Option<ReadableOperation>,
    offered_for_writing: Option<WritableOperation>,
    read: Option<ReadOperation>,
    write: Option<WriteOperation>,
    /// Waits that were polled before the fork.
    waits: Option<Wait<Result<Completion, OperationError>>>,
    health: Option<Wait<Vec<TransportError>>>,
    memory: Option<Region>,
}

impl Hand {
    async fn of(source: &Connector, sink: &Connector) -> Self {
        let offered = source.create_readable(filled(3, LARGE)).await.unwrap();
        let offered_for_writing = sink.create_writable(sink.buffer(LARGE).unwrap()).await.unwrap();
        let memory = Region::zeroed(LARGE).unwrap();
        let read = sink.begin_read(offered.metadata(), memory.clone()).await.unwrap();
        let from = filled(4, LARGE);
        let write = source.begin_write(from, offered_for_writing.metadata()).await.unwrap();
        let mut waited = source.create_readable(filled(5, 5000)).await.unwrap();
        let _ = waited.metadata();
        let waits = Box::pin(async move { waited.wait_for_completion().await });
        let of_health = sink.clone();
        let mut hand = Self {
            source: Some(source.clone()),
            sink: Some(sink.clone()),
            offered: Some(offered),
            offered_for_writing: Some(offered_for_writing),
            read: Some(read),
            write: Some(write),
            waits: Some(waits),
            health: Some(Box::pin(async move { of_health.health().await.problems().to_vec() })),
            memory: Some(memory),
        };
        let mut unwoken = Context::from_waker(Waker::noop());
        assert!(hand.waits.as_mut().unwrap().as_mut().poll(&mut unwoken).is_pending());
        // The thread that it waits for may have answered.
        hand.health.take_if(|health| health.as_mut().poll(&mut unwoken).is_ready());
        hand
    }

    /// In a child.
    async fn is_over(&mut self, remote: &RdmaMetadata) {
        refuses(self.source.as_ref().unwrap(), remote).await;
        refuses(self.sink.as_ref().unwrap(), remote).await;
        assert!(ended(self.waits.as_mut().unwrap().await));
        if let Some(health) = &mut self.health {
            health.await;
        }
        let (mut read, mut write) = (self.read.take().unwrap(), self.write.take().unwrap());
        assert!(ended(read.wait_for_completion().await));
        assert!(ended(write.wait_for_completion().await));
        assert!(ended(read.wait_blocking()));
        assert_eq!(read.status(), OperationStatus::Errored);
        let over = CancelOutcome::AlreadyEnded(OperationStatus::Errored);
        assert_eq!((read.cancel(), write.cancel()), (over, over));
        let reclaimed = read.reclaim().await;
        assert!(ended(reclaimed.outcome) && reclaimed.memory.is_none());
        let mut offered = self.offered_for_writing.take().unwrap();
        assert_eq!(offered.revoke(), RevokeOutcome::AlreadyEnded(OperationStatus::Errored));
        let _ = offered.metadata();
        assert!(ended(offered.reclaim().await.outcome));
    }

    /// In the parent, after children have come and gone.
    async fn goes_on(mut self) {
        self.read.as_mut().unwrap().wait_for_completion().await.unwrap();
        self.offered.as_mut().unwrap().wait_for_completion().await.unwrap();
        self.write.as_mut().unwrap().wait_for_completion().await.unwrap();
        let mut written = self.offered_for_writing.take().unwrap();
        written.wait_for_completion().await.unwrap();
        let memory = written.reclaim().await.memory.unwrap();
        let written = memory.iter().next().unwrap().region().to_vec().unwrap();
        assert!(written == pattern(4, LARGE), "the bytes written are wrong");
        let read = self.memory.as_ref().unwrap().to_vec().unwrap();
        assert!(read == pattern(3, LARGE), "the bytes read are wrong");
        let waits = self.waits.as_mut().unwrap();
        assert!(waits.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending());
    }
}

/// Forks with nothing in hand, and with offers, reads, writes and waits.
fn every_state(path: bool) {
    let (source, sink) = connectors(path, path);
    within(LIMIT, transfer(&source, &sink, 1));
    let idle = within(LIMIT, source.create_readable(filled(2, 5000))).unwrap();
    let remote = idle.metadata().clone();
    for exits in [false, true] {
        in_child(exits, LIMIT, || within(LIMIT, refuses(&source, &remote)));
        let mut hand = within(LIMIT, Hand::of(&source, &sink));
        in_child(exits, LIMIT, || within(LIMIT, hand.is_over(&remote)));
        // Dropped in the child, in any order.
        in_child(exits, LIMIT, || {
            drop(hand.source.take());
            drop((hand.offered.take(), hand.waits.take(), hand.memory.take()));
            drop((hand.write.take(), hand.sink.take(), hand.health.take(), hand.read.take()));
            drop(hand.offered_for_writing.take());
        });
        within(LIMIT, hand.goes_on());
        within(LIMIT, transfer(&source, &sink, 6));
    }
}

fn connectors(first: bool, second: bool) -> (Connector, Connector) {
    within(LIMIT, async { (connector(first).await, connector(second).await) })
}

#[test]
fn in_a_child_every_call_is_an_error_and_the_parent_goes_on() {
    alone("in_a_child_every_call_is_an_error_and_the_parent_goes_on", &[], || every_state(false));
}

#[test]
fn in_a_child_every_call_is_an_error_and_the_parent_goes_on_with_paths() {
    let name = "in_a_child_every_call_is_an_error_and_the_parent_goes_on_with_paths";
    alone(name, &[], || every_state(true));
}

/// A child builds connectors, and so does a child of its; they reach each other and the parent.
#[test]
fn a_connector_that_a_child_builds_works() {
    alone("a_connector_that_a_child_builds_works", &[], || {
        let (source, sink) = connectors(true, false);
        within(LIMIT, transfer(&source, &sink, 1));
        for (path, exits) in [(false, true), (true, true), (true, false)] {
            let mut offered = within(LIMIT, source.create_readable(filled(7, 200_000))).unwrap();
            let remote = offered.metadata().clone();
            let grandchild = || {
                let (one, other) = connectors(!path, path);
                within(LIMIT, transfer(&one, &other, 8));
            };
            in_child(exits, LIMIT, || {
                let (one, other) = connectors(path, path);
                within(LIMIT, transfer(&one, &other, 9));
                within(LIMIT, transfer(&other, &one, 10));
                within(LIMIT, async {
                    let local = one.buffer(200_000).unwrap();
                    let mut read = one.begin_read(&remote, local.clone()).await.unwrap();
                    read.wait_for_completion().await.unwrap();
                    assert!(local.to_vec().unwrap() == pattern(7, 200_000));
                });
                in_child(exits, LIMIT, grandchild);
                within(LIMIT, transfer(&one, &other, 11));
                assert!(is_forked(within(LIMIT, source.create_readable(filled(1, 10)))));
            });
            within(LIMIT, offered.wait_for_completion()).unwrap();
            within(LIMIT, transfer(&source, &sink, 12));
            // Peers that are met anew come over the sockets that the child had in common with this process.
            let threads = threads_of_connectors();
            let another = within(LIMIT, connector(path));
            within(LIMIT, transfer(&another, &source, 13));
            drop(another);
            // A thread that ends while a process forks may leave locks of the standard library behind in the child.
            let until = Instant::now() + LIMIT;
            while threads_of_connectors() > threads {
                assert!(Instant::now() < until, "its threads have not ended");
                thread::sleep(Duration::from_millis(1));
            }
        }
    });
}

/// Threads of this process that each connector has one or two of.
fn threads_of_connectors() -> usize {
    let threads = fs::read_dir("/proc/self/task").unwrap().flatten();
    let names = threads.filter_map(|thread| fs::read_to_string(thread.path().join("comm")).ok());
    names.filter(|name| ["nixl-control", "nixl-driver"].contains(&name.trim())).count()
}

/// Locks of the crates are held all the time, and children find some of them so.
#[test]
fn children_of_a_busy_process_do_not_hang() {
    alone("children_of_a_busy_process_do_not_hang", &[], || {
        let (source, sink) = connectors(true, true);
        let is_over = AtomicBool::new(false);
        let idle = within(LIMIT, source.create_readable(filled(2, 5000))).unwrap();
        let remote = idle.metadata().clone();
        thread::scope(|scope| {
            for seed in 0..2 {
                let (source, sink, is_over) = (&source, &sink, &is_over);
                scope.spawn(move || {
                    within(LIMIT, async {
                        while !is_over.load(Ordering::Relaxed) {
                            transfer(source, sink, seed).await;
                        }
                    });
                });
            }
            for fork in 0..50 {
                let mut handles = Some((source.clone(), sink.clone()));
                in_child(fork % 2 == 0, LIMIT, || {
                    within(LIMIT, refuses(&source, &remote));
                    drop(handles.take());
                });
            }
            is_over.store(true, Ordering::Relaxed);
        });
        within(LIMIT, transfer(&source, &sink, 3));
    });
}

/// Threads of the parent map and unmap memory all the time, and so does each child.
#[test]
fn children_of_a_process_that_unmaps_memory_do_not_hang() {
    alone("children_of_a_process_that_unmaps_memory_do_not_hang", &[], || {
        /// So much the C library maps for itself.
        const MAPPED: usize = 33 << 20;
        let (source, sink) = connectors(true, true);
        let map = || drop(black_box(Vec::<u8>::with_capacity(MAPPED)));
        // They go on until the process ends, also if a child hangs.
        for _ in 0..4 {
            thread::spawn(move || {
                loop {
                    map();
                }
            });
        }
        for fork in 0..300 {
            in_child(fork % 10 == 0, LIMIT, || (0..20).for_each(|_| map()));
        }
        within(LIMIT, transfer(&source, &sink, 3));
    });
}

/// As UCX's destructors do where a lock of theirs was held at the fork.
#[test]
fn a_child_whose_exit_waits_for_ever_ends_with_its_status() {
    static IS_CHILD: AtomicBool = AtomicBool::new(false);
    extern "C" fn wait_in_the_child() {
        while IS_CHILD.load(Ordering::Relaxed) {
            thread::park();
        }
    }
    alone("a_child_whose_exit_waits_for_ever_ends_with_its_status", &[], || {
        at_exit(wait_in_the_child);
        let (source, sink) = connectors(false, false);
        let status = exit_of_child(LIMIT, || {
            IS_CHILD.store(true, Ordering::Relaxed);
            7
        });
        assert_eq!((libc::WIFEXITED(status), libc::WEXITSTATUS(status)), (true, 7), "{status}");
        within(LIMIT, transfer(&source, &sink, 1));
    });
}
