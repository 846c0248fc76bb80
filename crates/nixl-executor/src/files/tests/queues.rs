//! The queue of a device: admission, classes and promotion.

use std::sync::Arc;

use super::super::{FileClass, FileExecutor, FileIoOptions, FileTransferError};
use super::world::{KINDS, Spill, clock, disk, geometry, memory, on_disk, until};

fn class(class: FileClass) -> FileIoOptions {
    FileIoOptions::new().class(class)
}

#[test]
fn a_full_queue_refuses_all_but_demand() {
    let geometry = geometry(16, 200_000);
    let (disk, spill) = (disk(), Spill::new(geometry, false));
    let (memory, len) = (memory(geometry, KINDS[0]), geometry.block_len() as u64);
    let executor = FileExecutor::on(clock(), Some(Arc::new(disk.clone())), 3 * len).unwrap();
    disk.freeze();
    let read = |block: usize, of: FileClass| {
        executor.read_blocks(&spill.layout, &[block], &memory, &[block], &class(of))
    };
    // Two calls of a write are in flight beside demand, so of this one some waits.
    let mut begun = vec![read(0, FileClass::Demand).unwrap()];
    for block in 1..4 {
        begun.push(read(block, FileClass::Prefetch).unwrap());
    }
    let refused = read(4, FileClass::Prefetch).map(drop).unwrap_err();
    assert_eq!(
        refused,
        FileTransferError::Busy { class: FileClass::Prefetch, queued: 4 * len, limit: 3 * len }
    );
    // Nothing of the refused one is leased, and each class has room of its own.
    begun.push(read(4, FileClass::Scrub).unwrap());
    for block in 5..12 {
        begun.push(read(block, FileClass::Demand).unwrap());
    }
    disk.thaw();
    for mut operation in begun {
        operation.wait_blocking().unwrap();
    }
    assert_eq!(executor.waiting(spill.layout.file(), FileClass::Prefetch), 0);
    read(4, FileClass::Prefetch).unwrap().wait_blocking().unwrap();
}

#[test]
fn a_promoted_prefetch_has_the_depth_of_demand() {
    let geometry = geometry(2, 2 << 20);
    let (disk, spill, memory) = (disk(), Spill::new(geometry, false), memory(geometry, KINDS[0]));
    let executor = on_disk(&disk);
    disk.freeze();
    let mut demand = executor
        .read_blocks(&spill.layout, &[0], &memory, &[0], &class(FileClass::Demand).layers(0..1))
        .unwrap();
    until(|| disk.pending() == 8);
    let mut prefetch = executor
        .read_blocks(&spill.layout, &[1], &memory, &[1], &class(FileClass::Prefetch))
        .unwrap();
    until(|| disk.pending() == 10);
    prefetch.promote();
    until(|| disk.pending() == 18);
    assert_eq!(executor.waiting(spill.layout.file(), FileClass::Prefetch), 0);
    disk.thaw();
    demand.wait_blocking().unwrap();
    prefetch.wait_blocking().unwrap();
}
