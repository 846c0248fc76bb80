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
    CancelOutcome, Completion, Connector, ConnectorError, Export, ExportNotifications, Grant,
    GrantOptions, OperationError, OperationStatus, ReadOperation, ReadableOperation, RemoteExport,
    RevokeOutcome, TransportError, WritableOperation, WriteGrant, WriteGrantOptions,
    WriteOperation,
};
use nixl_descriptor::Region;
use nixl_executor::PathExecutor;
use nixl_executor::files::FileExecutor;
use nixl_executor::files::store::{BlockKey, BlockStore, StoreError, StoreOptions};
use nixl_executor::layout::Layout;
use nixl_metadata::{ExportMetadata, RdmaMetadata, Ticket};
use nixl_tests::{
    Cache, Peer, alone, at_exit, bytes_of, crc32, exit_of_child, hex_line, in_child, pattern,
    with_the_loaders_lock_held, within,
};

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

/// What an owner and an importer of exports hold when they fork.
struct Exported {
    cache: Cache,
    export: Option<Export>,
    grant: Option<Grant>,
    write: Option<WriteGrant>,
    heard: Option<ExportNotifications>,
    /// Waits that were polled before the fork.
    hears: Option<Wait<bool>>,
    free: Option<Wait<()>>,
    /// Of this process's export, and of a peer's with a ticket.
    own: Option<RemoteExport>,
    import: Option<RemoteExport>,
    ticket: Ticket,
}

impl Exported {
    /// The peer imports the export of this process, and this process its.
    async fn new(connector: &Connector, peer: &mut Peer) -> Self {
        let bytes = |line: &str| bytes_of(line).unwrap();
        let export_here = async || {
            let cache = Cache::new(7).unwrap();
            let export = connector.export([("cache", cache.layout.clone())]).await.unwrap();
            (cache, export)
        };
        let (cache, export) = export_here().await;
        let (_, silent) = export_here().await;
        peer.ask(&format!("import {}", hex_line(&export.metadata().encode().unwrap()))).unwrap();
        let theirs = peer.ask("export 9").unwrap();
        let granted = peer.ask("grant 3").unwrap();
        let import =
            connector.import(&ExportMetadata::decode(&bytes(&theirs)).unwrap()).await.unwrap();
        let ticket = Ticket::decode(&bytes(granted.split_once(' ').unwrap().1)).unwrap();
        let grant = export.grant(0, &[1, 2], GrantOptions::new()).unwrap();
        let write = export.grant_write(0, &[5], WriteGrantOptions::new()).await.unwrap();
        let own = connector.import(export.metadata()).await.unwrap();
        let mut free: Wait<()> = Box::pin(grant.free_blocks().unwrap());
        let mut nothing = silent.notifications().unwrap();
        let mut hears: Wait<bool> = Box::pin(async move {
            let _silent = silent;
            nothing.recv().await.is_none()
        });
        let mut unwoken = Context::from_waker(Waker::noop());
        assert!(free.as_mut().poll(&mut unwoken).is_pending());
        assert!(hears.as_mut().poll(&mut unwoken).is_pending());
        Self {
            heard: export.notifications(),
            export: Some(export),
            grant: Some(grant),
            write: Some(write),
            hears: Some(hears),
            free: Some(free),
            own: Some(own),
            import: Some(import),
            ticket,
            cache,
        }
    }

    /// In a child.
    async fn is_over(&mut self, connector: &Connector) {
        let export = self.export.as_ref().unwrap();
        assert!(is_forked(connector.export([("cache", self.cache.layout.clone())]).await));
        assert!(is_forked(connector.import(export.metadata()).await));
        assert!(is_forked(export.grant(0, &[3], GrantOptions::new())));
        assert!(is_forked(export.grant_write(0, &[3], WriteGrantOptions::new()).await));
        assert!(is_forked(export.free_blocks(0, &[3])));
        assert!(export.notifications().is_none());
        assert_eq!(export.stats(), Default::default());
        let grant = self.grant.take().unwrap();
        assert!(is_forked(grant.renew()) && is_forked(grant.ready_through(1)));
        assert!(is_forked(grant.free_blocks()));
        let own_ticket = grant.ticket().clone();
        let _ = format!("{export:?} {grant:?}");
        assert!(!grant.end());
        let write = self.write.as_mut().unwrap();
        assert!(ended(write.written().await));
        let over = RevokeOutcome::AlreadyEnded(OperationStatus::Errored);
        assert_eq!(write.revoke(), over);
        let heard = self.heard.as_mut().unwrap();
        assert!(heard.recv().await.is_none() && heard.recv_blocking().is_none());
        assert!(self.hears.as_mut().unwrap().await);
        self.free.as_mut().unwrap().await;
        for (import, ticket) in [(&self.own, &own_ticket), (&self.import, &self.ticket)] {
            let import = import.as_ref().unwrap();
            let local = &self.cache.layout;
            assert!(is_forked(
                import.read_blocks(ticket, local, &[9]).await.map_err(|e| e.cause().clone())
            ));
            assert!(is_forked(
                import.write_blocks(ticket, local, &[9]).await.map_err(|e| e.cause().clone())
            ));
            assert!(is_forked(import.path_to("cache", local).await));
            assert!(is_forked(import.layers_ready(ticket).await));
            assert!(is_forked(import.done(ticket).await) && is_forked(import.renew(ticket).await));
            assert!(is_forked(import.notify(b"from a child").await));
        }
        assert!(!self.export.take().unwrap().close(LIMIT).await);
    }

    /// In the parent, after children have come and gone.
    async fn goes_on(mut self, peer: &mut Peer) {
        let mut unwoken = Context::from_waker(Waker::noop());
        let (export, grant) = (self.export.take().unwrap(), self.grant.take().unwrap());
        assert!(self.free.as_mut().unwrap().as_mut().poll(&mut unwoken).is_pending());
        assert!(self.hears.as_mut().unwrap().as_mut().poll(&mut unwoken).is_pending());
        assert_eq!(export.stats().alive(), 1);
        let read = peer.ask(&format!("blocks {}", hex_line(&grant.ticket().encode()))).unwrap();
        let blocks = [1, 2].map(|block| self.cache.block(block).unwrap()).concat();
        assert_eq!(read, crc32(&blocks), "the grant stands");
        let write = self.write.as_mut().unwrap();
        peer.ask(&format!("put {}", hex_line(&write.ticket().encode()))).unwrap();
        write.written().await.unwrap();
        peer.ask("notify from a peer").unwrap();
        let heard = self.heard.as_mut().unwrap().recv().await.unwrap();
        assert_eq!((&heard.payload[..], heard.lost), (&b"from a peer"[..], 0));
        let import = self.import.take().unwrap();
        import.read_blocks(&self.ticket, &self.cache.layout, &[9]).await.unwrap();
        drop((self.own.take(), self.heard.take(), self.write.take()));
        assert!(grant.end());
        self.free.take().unwrap().await;
    }
}

#[test]
fn in_a_child_exports_are_errors_and_the_parents_grants_stand() {
    alone("in_a_child_exports_are_errors_and_the_parents_grants_stand", &[], || {
        let mut peer = Peer::start(env!("CARGO_BIN_EXE_peer"), &[]);
        let connector = within(LIMIT, connector(false));
        for exits in [false, true] {
            let mut hand = within(LIMIT, Exported::new(&connector, &mut peer));
            in_child(exits, LIMIT, || within(LIMIT, hand.is_over(&connector)));
            // Dropped in the child, the imports last.
            in_child(exits, LIMIT, || {
                drop((hand.export.take(), hand.grant.take(), hand.write.take()));
                drop((hand.heard.take(), hand.hears.take(), hand.free.take()));
                drop((hand.import.take(), hand.own.take()));
            });
            within(LIMIT, hand.goes_on(&mut peer));
        }
    });
}

/// The locks of a table are held all the time, and children find some of them so.
#[test]
fn children_of_an_owner_that_grants_do_not_hang() {
    alone("children_of_an_owner_that_grants_do_not_hang", &[], || {
        let connector = within(LIMIT, connector(false));
        let cache = Cache::new(7).unwrap();
        let layouts = [("cache", cache.layout.clone())];
        let export = within(LIMIT, connector.export(layouts)).unwrap();
        let is_over = AtomicBool::new(false);
        thread::scope(|scope| {
            for block in 0..2 {
                let (export, is_over) = (&export, &is_over);
                scope.spawn(move || {
                    while !is_over.load(Ordering::Relaxed) {
                        drop(export.grant(0, &[block], GrantOptions::new()).unwrap());
                    }
                });
            }
            let mut grant = Some(export.grant(0, &[3], GrantOptions::new()).unwrap());
            let mut heard = export.notifications();
            for _ in 0..50 {
                in_child(false, LIMIT, || {
                    assert!(is_forked(export.grant(0, &[4], GrantOptions::new())));
                    assert!(within(LIMIT, heard.as_mut().unwrap().recv()).is_none());
                    drop((grant.take(), heard.take()));
                });
            }
            is_over.store(true, Ordering::Relaxed);
            assert!(grant.unwrap().end());
        });
    });
}

/// As above, of the locks of a store of blocks and of an executor's counts.
#[test]
fn children_of_an_owner_of_a_store_do_not_hang() {
    alone("children_of_an_owner_of_a_store_do_not_hang", &[], || {
        const BLOCK: usize = 4096;
        let folder = tempfile::tempdir().unwrap();
        let memory = Layout::of_blocks(Region::zeroed(BLOCK).unwrap(), BLOCK).unwrap();
        let files = FileExecutor::new().unwrap();
        let options = StoreOptions::new(*memory.geometry(), 8);
        let store = within(LIMIT, BlockStore::open(&files, folder.path(), options)).unwrap();
        let key = BlockKey::from([1; 32]);
        within(LIMIT, store.put(key, &memory, 0)).unwrap();
        let paths = PathExecutor::new().unwrap();
        let is_over = AtomicBool::new(false);
        thread::scope(|scope| {
            for _ in 0..2 {
                scope.spawn(|| {
                    while !is_over.load(Ordering::Relaxed) {
                        black_box((store.contains(key), paths.peer_stats(), paths.staging_stats()));
                    }
                });
            }
            let mut taken = Some(store.clone());
            for _ in 0..50 {
                in_child(false, LIMIT, || {
                    assert_eq!((store.contains(key), store.len(), store.damaged()), (false, 0, 0));
                    let forked = |error| {
                        let forked = OperationError::Transport(TransportError::Forked);
                        assert_eq!(error, StoreError::Operation(forked));
                    };
                    forked(within(LIMIT, store.put(key, &memory, 0)).unwrap_err());
                    forked(within(LIMIT, store.get(key, &memory, 0)).unwrap_err());
                    forked(within(LIMIT, store.remove(key)).unwrap_err());
                    black_box((paths.peer_stats(), paths.staging_stats(), format!("{store:?}")));
                    drop(taken.take());
                });
            }
            is_over.store(true, Ordering::Relaxed);
        });
        assert!(within(LIMIT, store.get(key, &memory, 0)).unwrap());
    });
}

/// A fork in the middle leaves locks behind that no child can have.
#[test]
fn children_of_a_process_that_builds_connectors_do_not_hang() {
    alone("children_of_a_process_that_builds_connectors_do_not_hang", &[], || {
        const BUILT: usize = 5;
        let is_over = AtomicBool::new(false);
        thread::scope(|scope| {
            scope.spawn(|| {
                (0..BUILT).for_each(|_| drop(within(LIMIT, connector(true))));
                is_over.store(true, Ordering::Relaxed);
            });
            let mut forks = 0;
            while !is_over.load(Ordering::Relaxed) {
                forks += 1;
                in_child(forks % 2 == 0, LIMIT, || {
                    let mut builder = Connector::builder();
                    if forks % 3 == 0 {
                        builder = builder.executor(Arc::new(PathExecutor::new().unwrap()));
                    }
                    if let Err(error) = within(LIMIT, builder.build()) {
                        assert!(error.to_string().contains("fork"), "{error}");
                    }
                });
            }
        });
        let (source, sink) = connectors(false, false);
        within(LIMIT, transfer(&source, &sink, 1));
    });
}

/// As while an application loads a library.
#[test]
fn a_child_whose_parent_held_the_lock_of_the_loader_is_told_so() {
    alone("a_child_whose_parent_held_the_lock_of_the_loader_is_told_so", &[], || {
        let (source, sink) = connectors(false, false);
        with_the_loaders_lock_held(|| {
            in_child(false, LIMIT, || {
                let error = within(LIMIT, Connector::builder().build()).unwrap_err();
                assert!(error.to_string().contains("fork"), "{error}");
                // Without the driver of CUDA, which the parent may have loaded.
                drop(PathExecutor::new().unwrap());
            });
        });
        within(LIMIT, transfer(&source, &sink, 1));
    });
}
