//! Waits for free blocks, with wakers that use the table.

use std::pin::Pin;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering::{Relaxed, SeqCst};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Wake, Waker};
use std::thread::{self, Thread};
use std::time::{Duration, Instant};

use super::{contiguous, key, table};
use crate::grants::{FreeBlocks, GrantTerms};

/// A task of an executor, which has the wait in it.
struct Task(#[expect(dead_code, reason = "it is dropped")] Mutex<Option<FreeBlocks>>);

impl Wake for Task {
    fn wake(self: Arc<Self>) {}
}

/// Dropping a waker may drop a task, and the waits in it: not while the table is locked.
#[test]
fn a_waker_with_another_wait_in_it_is_dropped() {
    let (table, _) = table(&[contiguous(8)], 4);
    let granted = table.grant(&GrantTerms::new(0), &[1]).unwrap();
    let wait = || table.free_blocks(0, &[1]).unwrap();
    let task = || {
        let mut inner = wait();
        let poll = Pin::new(&mut inner).poll(&mut Context::from_waker(Waker::noop()));
        assert_eq!(poll, Poll::Pending);
        Waker::from(Arc::new(Task(Mutex::new(Some(inner)))))
    };
    let mut replaced = wait();
    for _ in 0..2 {
        let poll = Pin::new(&mut replaced).poll(&mut Context::from_waker(&task()));
        assert_eq!(poll, Poll::Pending);
    }
    let mut cancelled = wait();
    let poll = Pin::new(&mut cancelled).poll(&mut Context::from_waker(&task()));
    assert_eq!(poll, Poll::Pending);
    assert_eq!(table.stats().waiting, 4);
    drop(cancelled);
    assert_eq!(table.stats().waiting, 2);
    let (slot, generation) = key(&granted);
    assert!(table.end(slot, generation));
    assert_eq!(table.stats().waiting, 0);
}

/// A grant that fails half-way has blocks for a moment; a wait that saw it goes on.
#[test]
fn a_wait_survives_grants_that_fail() {
    let (table, _) = table(&[contiguous(8)], 1);
    let _held = table.grant(&GrantTerms::new(0), &[7]).unwrap();
    let enough = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            while !enough.load(Relaxed) {
                // All slots are taken.
                assert!(table.grant(&GrantTerms::new(0), &[1, 2]).is_err());
            }
        });
        let me = Arc::new(Parked { thread: thread::current(), woken: AtomicBool::new(false) });
        let waker = Waker::from(Arc::clone(&me));
        let mut pending = 0;
        while pending < 20 {
            let mut wait = table.free_blocks(0, &[1, 2]).unwrap();
            while Pin::new(&mut wait).poll(&mut Context::from_waker(&waker)).is_pending() {
                pending += 1;
                enough.store(!me.park(), Relaxed);
                assert!(!enough.load(Relaxed), "the wait was not woken");
            }
        }
        enough.store(true, Relaxed);
    });
    assert_eq!(table.stats().waiting, 0);
}

struct Parked {
    thread: Thread,
    woken: AtomicBool,
}

impl Parked {
    /// Whether it was woken, which takes no time.
    fn park(&self) -> bool {
        let began = Instant::now();
        let limit = Duration::from_secs(60);
        while !self.woken.swap(false, SeqCst) && began.elapsed() < limit {
            thread::park_timeout(limit);
        }
        began.elapsed() < limit
    }
}

impl Wake for Parked {
    fn wake(self: Arc<Self>) {
        self.woken.store(true, SeqCst);
        self.thread.unpark();
    }
}
