//! Waits for free blocks, with wakers that use the table.

use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Wake, Waker};

use super::{contiguous, key, table};
use crate::grants::{FreeBlocks, GrantEnd, GrantTerms};

/// A task of an executor, which has the wait in it.
struct Task(#[expect(dead_code, reason = "it is dropped")] Mutex<Option<FreeBlocks>>);

impl Wake for Task {
    fn wake(self: Arc<Self>) {}
}

/// Dropping a waker may drop a task, and the waits in it: not while the table is locked.
#[test]
fn a_waker_with_another_wait_in_it_is_dropped() {
    let (table, _) = table(&[contiguous(8)], 4);
    let granted = table.grant(&GrantTerms::read(0), &[1]).unwrap();
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
    assert_eq!(table.end(slot, generation), GrantEnd::Ended);
    assert_eq!(table.stats().waiting, 0);
}

/// A grant that fails half-way has blocks for a moment; a wait that saw it goes on.
#[test]
fn a_wait_survives_grants_that_fail() {
    let (table, _) = table(&[contiguous(8)], 2);
    std::thread::scope(|scope| {
        let failing = scope.spawn(|| {
            let first = table.grant(&GrantTerms::read(0), &[6]).unwrap();
            let second = table.grant(&GrantTerms::read(0), &[7]).unwrap();
            for _ in 0..20_000 {
                // All slots are taken.
                assert!(table.grant(&GrantTerms::write(0), &[1, 2]).is_err());
            }
            (first, second)
        });
        while !failing.is_finished() {
            let mut wait = table.free_blocks(0, &[1, 2]).unwrap();
            let me = Waker::from(Arc::new(Parked(std::thread::current())));
            while Pin::new(&mut wait).poll(&mut Context::from_waker(&me)).is_pending() {
                std::thread::park();
            }
        }
        failing.join().unwrap();
    });
    assert_eq!(table.stats().waiting, 0);
}

struct Parked(std::thread::Thread);

impl Wake for Parked {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}
