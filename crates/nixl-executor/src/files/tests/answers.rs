//! Answers of the kernel to one call.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use std::task::Waker;
use std::thread;

use super::super::operation::{FileEngine, FileOp, Operation};
use super::super::threads::ThreadFiles;
use super::cancelling::read_operation;
use super::world::{KINDS, Spill, geometry, memory, until};

fn op(direct: bool) -> (Spill, FileOp) {
    let engine: Arc<dyn FileEngine> = Arc::new(ThreadFiles::new());
    let geometry = geometry(2, 4096);
    let (spill, memory) = (Spill::new(geometry, direct), memory(geometry, KINDS[1]));
    let op = read_operation(&engine, &spill, &memory, 1, 0).take(None).unwrap();
    (spill, op)
}

fn lens(op: &FileOp) -> Vec<usize> {
    op.segments().iter().map(|segment| segment.len).collect()
}

#[test]
fn a_short_count_moves_on_through_the_segments() {
    let (spill, op) = op(false);
    let start = spill.layout.stride();
    assert_eq!((op.offset(), op.left(), lens(&op)), (start, 24_576, vec![8192, 8192, 8192]));
    let first = op.segments()[0].address;
    let op = op.answer(Ok(100)).unwrap();
    assert_eq!((op.offset(), op.left(), lens(&op)), (start + 100, 24_476, vec![8092, 8192, 8192]));
    assert_eq!(op.segments()[0].address, first + 100);
    let op = op.answer(Ok(8092)).unwrap();
    assert_eq!((op.left(), lens(&op)), (16_384, vec![8192, 8192]));
    let op = op.answer(Ok(8193)).unwrap();
    assert_eq!((op.left(), lens(&op)), (8191, vec![8191]));
    assert!(op.answer(Ok(8191)).is_none());
}

#[test]
fn what_begins_inside_a_sector_goes_through_the_page_cache() {
    let (_spill, op) = op(true);
    assert!(op.is_direct());
    let op = op.answer(Ok(4096)).unwrap();
    assert!(op.is_direct());
    let op = op.answer(Ok(100)).unwrap();
    assert!(!op.is_direct());
    drop(op.answer(Ok(24_576)));
}

#[test]
fn a_call_that_is_put_off_for_ever_ends() {
    let (_spill, op) = op(false);
    let again = || Err(io::Error::from(io::ErrorKind::WouldBlock));
    let mut calls = 0;
    let mut left = Some(op);
    while let Some(op) = left {
        calls += 1;
        left = op.answer(again());
    }
    assert_eq!(calls, 1001);
}

#[test]
fn the_memory_is_free_before_a_poll_returns_the_result() {
    /// Leases whose release takes some time, during which the operation is polled.
    struct Slow {
        polls: Arc<AtomicUsize>,
        released: Arc<AtomicBool>,
    }
    impl Drop for Slow {
        fn drop(&mut self) {
            let seen = self.polls.load(SeqCst);
            until(|| self.polls.load(SeqCst) > seen);
            (0..1000).for_each(|_| thread::yield_now());
            self.released.store(true, SeqCst);
        }
    }
    let engine: Arc<dyn FileEngine> = Arc::new(ThreadFiles::new());
    let spill = Spill::new(geometry(2, 4096), false);
    let (polls, released) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicBool::new(false)));
    let held = Slow { polls: Arc::clone(&polls), released: Arc::clone(&released) };
    let operation = Operation::holding(spill.layout.file(), engine, Box::new(held));
    thread::scope(|scope| {
        scope.spawn(|| {
            loop {
                polls.fetch_add(1, SeqCst);
                if operation.poll(Waker::noop()).is_ready() {
                    break;
                }
            }
            assert!(released.load(SeqCst));
        });
        drop(operation.take(None).unwrap().answer(Ok(0)));
    });
}
