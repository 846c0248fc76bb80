//! Cancelled, dropped and late operations: whose memory comes back when, and what is written to it afterwards.

use std::sync::Arc;
use std::task::{Poll, Wake, Waker};
use std::thread::{self, Thread};
use std::time::Duration;

use nixl_descriptor::LeaseMode;
use nixl_descriptor::file::pair_file_blocks;
use nixl_descriptor::layout::Layout;
use nixl_ops::OperationError;
use proptest::prelude::*;

use super::super::class::FileClass;
use super::super::operation::FileEngine;
use super::super::operation::Operation;
use super::super::simulated::SimulatedFiles;
use super::super::{FileExecutor, FileIoError, FileIoOptions, FileOperation, IoKind};
use super::world::{KINDS, Spill, content, disk, engines, geometry, memory, on, on_disk, until};

/// A read of one block, without an executor.
pub(super) fn read_operation(
    engine: &Arc<dyn FileEngine>,
    spill: &Spill,
    memory: &Layout,
    from: usize,
    to: usize,
) -> Arc<Operation> {
    let pairs = pair_file_blocks(&spill.layout, &[from], memory, &[to], 0..3).unwrap();
    let file = spill.layout.file();
    let held = (
        memory.lease(&[to], 0..3, LeaseMode::Write).unwrap(),
        file.lease(&pairs.ranges(), LeaseMode::Read).unwrap(),
    );
    let (engine, held) = (Arc::clone(engine), Box::new(held));
    Operation::of_pairs(IoKind::Read, FileClass::Demand, file, engine, &pairs, (false, held))
}

/// Submits all of an operation, and waits for its end.
pub(super) fn finish(operation: &Arc<Operation>) -> Result<(), FileIoError> {
    struct Unpark(Thread);
    impl Wake for Unpark {
        fn wake(self: Arc<Self>) {
            self.0.unpark();
        }
    }
    while let Some(op) = operation.take(None) {
        operation.engine().submit(vec![op]);
    }
    let waker = Waker::from(Arc::new(Unpark(thread::current())));
    loop {
        match operation.poll(&waker) {
            Poll::Ready(result) => return result,
            Poll::Pending => thread::park(),
        }
    }
}

fn options() -> FileIoOptions {
    FileIoOptions::new()
}

fn is_free(memory: &Layout, block: usize) -> bool {
    memory.lease(&[block], 0..3, LeaseMode::Write).is_ok()
}

fn read(executor: &FileExecutor, spill: &Spill, memory: &Layout, block: usize) -> FileOperation {
    executor.read_blocks(&spill.layout, &[block], memory, &[block], &options()).unwrap()
}

#[test]
fn a_dropped_operation_keeps_its_memory_until_the_answer() {
    let geometry = geometry(4, 4096);
    let (disk, spill, memory) = (disk(), Spill::new(geometry, true), memory(geometry, KINDS[1]));
    let executor = on_disk(&disk);
    spill.fill(2, &content(&geometry, 2));
    disk.freeze();
    let dropped = read(&executor, &spill, &memory, 2);
    until(|| disk.pending() > 0);
    drop(dropped);
    assert!(
        !is_free(&memory, 2) && memory.copy_block_from_slice(2, &content(&geometry, 9)).is_err()
    );
    // Not even the end of the executor changes that.
    drop(executor);
    assert!(!is_free(&memory, 2));
    disk.thaw();
    until(|| is_free(&memory, 2));
    assert!(memory.block_to_vec(2).unwrap() == content(&geometry, 2));
}

#[test]
fn a_deadline_ends_the_wait_and_not_the_lease() {
    let geometry = geometry(4, 4096);
    let (disk, spill, memory) = (disk(), Spill::new(geometry, true), memory(geometry, KINDS[1]));
    let executor = on_disk(&disk);
    disk.freeze();
    let late = options().timeout(Duration::from_millis(10));
    let mut late = executor.read_blocks(&spill.layout, &[1], &memory, &[1], &late).unwrap();
    until(|| disk.pending() > 0);
    let error = late.wait_blocking().unwrap_err();
    assert!(matches!(error, OperationError::TimedOut { .. }), "{error}");
    assert!(!is_free(&memory, 1));
    disk.thaw();
    until(|| is_free(&memory, 1));
    read(&executor, &spill, &memory, 1).wait_blocking().unwrap();
}

#[test]
fn a_cancelled_operation_begins_no_further_call() {
    let geometry = geometry(2, 8 << 20);
    let (disk, spill, memory) = (disk(), Spill::new(geometry, false), memory(geometry, KINDS[0]));
    let executor = on_disk(&disk);
    disk.freeze();
    let long = read(&executor, &spill, &memory, 0);
    until(|| disk.pending() > 0);
    // 48 MiB, of which no more than the device's depth has begun.
    assert_eq!(disk.pending(), 16);
    drop(long);
    disk.thaw();
    until(|| is_free(&memory, 0));
    assert_eq!(disk.pending(), 0);
    assert_eq!(executor.waiting(spill.layout.file(), FileClass::Demand), 0);
}

#[test]
fn an_operation_that_is_lost_leaves_its_memory_leased() {
    let geometry = geometry(4, 512);
    for (_, engine) in engines() {
        let (spill, memory) = (Spill::new(geometry, false), memory(geometry, KINDS[0]));
        let operation = read_operation(&engine, &spill, &memory, 0, 0);
        // As by a thread of an engine that panics.
        drop(operation.take(None).unwrap());
        drop(operation);
        assert!(!is_free(&memory, 0));
    }
}

#[test]
fn errors_of_the_system_end_one_operation_alone() {
    let geometry = geometry(4, 4096);
    let (disk, spill, memory) = (disk(), Spill::new(geometry, true), memory(geometry, KINDS[1]));
    let executor = on_disk(&disk);
    spill.fill(3, &content(&geometry, 3));
    for errno in [libc::EIO, libc::EINVAL, libc::EFAULT, libc::EBADF, libc::ENOMEM, libc::ESTALE] {
        disk.fail_next(IoKind::Read, errno);
        let error = read(&executor, &spill, &memory, 3).wait_blocking().unwrap_err();
        let found = FileIoError::of(&error);
        assert!(matches!(found, Some(FileIoError::System { kind: IoKind::Read, .. })), "{error}");
        assert!(is_free(&memory, 3));
    }
    for errno in [libc::ENOSPC, libc::EDQUOT, libc::EFBIG] {
        disk.fail_next(IoKind::Write, errno);
        let mut write =
            executor.write_blocks(&memory, &[1], &spill.layout, &[1], &options()).unwrap();
        let error = write.wait_blocking().unwrap_err();
        assert!(matches!(FileIoError::of(&error), Some(FileIoError::NoSpace { .. })), "{error}");
    }
    disk.fail_next(IoKind::Sync, libc::EIO);
    let error =
        executor.sync(spill.layout.file(), &options()).unwrap().wait_blocking().unwrap_err();
    assert!(FileIoError::of(&error).is_some());
    // What the kernel puts off is called again.
    for errno in [libc::EAGAIN, libc::EINTR] {
        disk.fail_next(IoKind::Read, errno);
        read(&executor, &spill, &memory, 3).wait_blocking().unwrap();
    }
    assert!(memory.block_to_vec(3).unwrap() == content(&geometry, 3));
}

#[test]
fn short_answers_are_continued() {
    let geometry = geometry(4, 10_000);
    for direct in [false, true] {
        let (disk, spill) = (disk(), Spill::new(geometry, direct));
        let (executor, memory) = (on_disk(&disk), memory(geometry, KINDS[2]));
        spill.fill(0, &content(&geometry, 0));
        for bytes in [1, 511, 4096, 9_999] {
            disk.shorten_next(IoKind::Read, bytes);
            disk.shorten_next(IoKind::Read, bytes);
            executor
                .read_blocks(&spill.layout, &[0], &memory, &[2], &options())
                .unwrap()
                .wait_blocking()
                .unwrap();
            assert!(memory.block_to_vec(2).unwrap() == content(&geometry, 0));
            disk.shorten_next(IoKind::Write, bytes);
            executor
                .write_blocks(&memory, &[2], &spill.layout, &[1], &options())
                .unwrap()
                .wait_blocking()
                .unwrap();
            assert!(spill.block(1) == content(&geometry, 0));
        }
    }
    // A write that goes nowhere is no success.
    let (disk, spill) = (disk(), Spill::new(geometry, false));
    let (executor, memory) = (on_disk(&disk), memory(geometry, KINDS[2]));
    disk.shorten_next(IoKind::Write, 0);
    let mut write = executor.write_blocks(&memory, &[0], &spill.layout, &[0], &options()).unwrap();
    let error = write.wait_blocking().unwrap_err();
    assert!(matches!(FileIoError::of(&error), Some(FileIoError::WroteNothing { .. })), "{error}");
}

/// What happens to an operation.
#[derive(Clone, Copy, Debug)]
enum Fate {
    Awaited,
    Dropped,
    Failed(i32),
    Short(usize),
}

fn fate() -> impl Strategy<Value = Fate> {
    prop_oneof![
        4 => Just(Fate::Awaited),
        4 => Just(Fate::Dropped),
        1 => prop::sample::select(&[libc::EIO, libc::EINTR, libc::EAGAIN][..]).prop_map(Fate::Failed),
        1 => (1..5000usize).prop_map(Fate::Short),
    ]
}

/// Reads blocks, each with its fate, and marks the memory of those that were given up once it is back: the mark stays.
fn run(executor: &FileExecutor, disk: Option<&SimulatedFiles>, fates: &[Fate]) {
    let geometry = geometry(fates.len(), 2048);
    let (spill, memory) = (Spill::new(geometry, true), memory(geometry, KINDS[1]));
    for block in 0..fates.len() {
        spill.fill(block, &content(&geometry, block));
    }
    let mut awaited = Vec::new();
    for (block, fate) in fates.iter().enumerate() {
        if let Some(disk) = disk {
            match *fate {
                Fate::Failed(errno) => disk.fail_next(IoKind::Read, errno),
                Fate::Short(bytes) => disk.shorten_next(IoKind::Read, bytes),
                _ => {}
            }
        }
        let operation = read(executor, &spill, &memory, block);
        match fate {
            Fate::Dropped => drop(operation),
            _ => awaited.push((block, operation)),
        }
    }
    for (block, fate) in fates.iter().enumerate() {
        if let Fate::Dropped = fate {
            until(|| is_free(&memory, block));
            memory.copy_block_from_slice(block, &vec![0xAA; geometry.block_len()]).unwrap();
        }
    }
    for (block, mut operation) in awaited {
        // A fault may have met another operation.
        if operation.wait_blocking().is_ok() {
            assert!(memory.block_to_vec(block).unwrap() == content(&geometry, block));
        }
        until(|| is_free(&memory, block));
    }
    for (block, fate) in fates.iter().enumerate() {
        if let Fate::Dropped = fate {
            assert!(memory.block_to_vec(block).unwrap() == vec![0xAA; geometry.block_len()]);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(12))]

    /// No byte is written to memory that was given back, and no completed read has other bytes than the file.
    #[test]
    fn nothing_is_written_after_memory_was_given_back(
        fates in prop::collection::vec(fate(), 1..40),
    ) {
        for (name, engine) in engines() {
            if name != "simulated" {
                run(&on(&engine), None, &fates);
            }
        }
        let disk = disk();
        run(&on_disk(&disk), Some(&disk), &fates);
    }
}
