//! The driver on a thread of its own, with real time.

use std::sync::Arc;
use std::thread;

use nixl_ops::{
    Driver, OperationError, OperationOptions, OperationStatus, ReadOperation, SystemClock,
};

use crate::world::{Engine, Inbox, Memory, block_on, config};

fn begin(driver: &Arc<Driver>, engine: &Arc<Engine>, len: usize) -> ReadOperation {
    let memory = Memory::of(len);
    let execution = engine.moving(memory.leased());
    ReadOperation::begin(driver, execution, memory.list(), OperationOptions::new()).unwrap()
}

/// Waiters on several threads, engines ended and operations cancelled from others: no wake-up is lost.
#[test]
fn every_waiter_wakes() {
    let inbox = Arc::new(Inbox::default());
    let driver = Arc::new(Driver::spawn(inbox, Arc::new(SystemClock::new()), config()).unwrap());
    thread::scope(|scope| {
        for lane in 0..4 {
            let driver = &driver;
            scope.spawn(move || {
                for round in 0..200 {
                    let engine = Engine::pending();
                    // Small and large, so that both the caller and the driver post.
                    let mut read = begin(driver, &engine, 1 + (round + lane) % 2 * 100);
                    scope.spawn(move || engine.end(Ok(())));
                    block_on(read.wait_for_completion()).unwrap();
                    assert_eq!(read.status(), OperationStatus::Complete);
                }
            });
        }
    });
    assert_eq!(driver.stats().active, 0);
}

#[test]
fn a_cancelled_operation_gives_its_memory_back_once_the_engine_is_quiet() {
    let inbox = Arc::new(Inbox::default());
    let driver = Arc::new(Driver::spawn(inbox, Arc::new(SystemClock::new()), config()).unwrap());
    let engine = Engine::pending();
    let mut read = begin(&driver, &engine, 1);
    read.cancel();
    let other = thread::spawn(move || engine.end(Ok(())));
    let reclaimed = block_on(read.reclaim());
    assert_eq!(reclaimed.outcome, Err(OperationError::Cancelled));
    assert!(reclaimed.memory.is_some());
    other.join().unwrap();
}
