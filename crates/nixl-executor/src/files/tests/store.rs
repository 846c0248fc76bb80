//! The block store: what is found, when, and after which crash.

use std::collections::HashMap;
use std::fs::File;
use std::future::Future;
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker};
use std::thread::{self, ThreadId};

use nixl_descriptor::LeaseMode;
use nixl_descriptor::file::{FileOptions, FileRegion};
use nixl_descriptor::layout::Layout;
use proptest::prelude::*;
use tempfile::TempDir;

use super::super::store::{BlockKey, BlockStore, Commit, StoreError, StoreOptions};
use super::super::{FileExecutor, IoKind, SimulatedFiles};
use super::world::{KINDS, content, disk, geometry, memory, on_disk, until};

const INNER: usize = 700;

fn key(number: usize) -> BlockKey {
    BlockKey::from([number as u8 + 1; 32])
}

fn options(capacity: u32) -> StoreOptions {
    StoreOptions::new(geometry(1, INNER), capacity).namespace(b"model").commit(Commit::Each)
}

/// Waits for a future on this thread, which does nothing else.
fn wait<F: Future>(future: F) -> F::Output {
    let mut future = pin!(future);
    loop {
        match future.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(output) => return output,
            Poll::Pending => thread::yield_now(),
        }
    }
}

struct World {
    folder: TempDir,
    disk: SimulatedFiles,
    executor: FileExecutor,
    memory: Layout,
}

impl World {
    fn new() -> Self {
        let disk = disk();
        let (folder, executor) = (tempfile::tempdir().unwrap(), on_disk(&disk));
        Self { folder, disk, executor, memory: memory(geometry(4, INNER), KINDS[1]) }
    }

    fn open(&self, options: StoreOptions) -> Result<BlockStore, StoreError> {
        wait(BlockStore::open(&self.executor, self.folder.path(), options))
    }

    fn path(&self) -> std::path::PathBuf {
        self.folder.path().join("blocks")
    }

    /// Puts the content of that number.
    fn put(&self, store: &BlockStore, of: usize, number: usize) -> Result<(), StoreError> {
        let bytes = content(self.memory.geometry(), number);
        until(|| self.memory.copy_block_from_slice(0, &bytes).is_ok());
        wait(store.put(key(of), &self.memory, 0))
    }

    /// Whether a block is found. If it is, it has the content of one of the numbers, which is returned.
    fn get(&self, store: &BlockStore, of: usize, numbers: &[usize]) -> Option<usize> {
        let empty = vec![0; self.memory.geometry().block_len()];
        until(|| self.memory.copy_block_from_slice(1, &empty).is_ok());
        match wait(store.get(key(of), &self.memory, 1)) {
            Ok(false) | Err(StoreError::Damaged { .. }) => None,
            Ok(true) => {
                let found = self.memory.block_to_vec(1).unwrap();
                let of_number =
                    |&&number: &&usize| content(self.memory.geometry(), number) == found;
                Some(*numbers.iter().rev().find(of_number).expect("a wrong block was served"))
            }
            Err(other) => panic!("{other}"),
        }
    }
}

#[test]
fn blocks_are_found_until_they_are_replaced_removed_or_give_way() {
    let world = World::new();
    let store = world.open(options(3)).unwrap();
    for number in 0..3 {
        assert_eq!(world.get(&store, number, &[]), None);
        world.put(&store, number, number).unwrap();
    }
    world.put(&store, 1, 10).unwrap();
    // The replacement took the slot of the block that was not used for the longest time.
    assert_eq!(world.get(&store, 0, &[0]), None);
    assert_eq!(world.get(&store, 1, &[1, 10]), Some(10));
    assert_eq!(world.get(&store, 2, &[2]), Some(2));
    assert!(wait(store.remove(key(2))).unwrap() && !wait(store.remove(key(2))).unwrap());
    assert_eq!((world.get(&store, 2, &[2]), store.len()), (None, 1));
    for number in 4..7 {
        world.put(&store, number, number).unwrap();
    }
    assert_eq!((world.get(&store, 1, &[10]), store.len(), store.capacity()), (None, 3, 3));
    drop(store);
    let store = world.open(options(3)).unwrap();
    for number in 4..7 {
        assert_eq!(world.get(&store, number, &[number]), Some(number));
    }
    assert_eq!((store.len(), store.damaged()), (3, 0));
}

#[test]
fn a_folder_has_one_owner_and_one_kind_of_blocks() {
    let world = World::new();
    let store = world.open(options(3)).unwrap();
    world.put(&store, 0, 0).unwrap();
    assert!(matches!(world.open(options(3)), Err(StoreError::InUse { .. })));
    drop(store);
    for other in [
        options(3).namespace(b"another model"),
        StoreOptions::new(geometry(1, INNER + 1), 3).namespace(b"model"),
        options(4),
    ] {
        let refused = world.open(other).map(drop).unwrap_err();
        assert!(matches!(refused, StoreError::OtherBlocks { .. }), "{refused}");
    }
    let file = File::options().write(true).open(world.path()).unwrap();
    file.write_all_at(b"?", 3).unwrap();
    let refused = world.open(options(3)).map(drop).unwrap_err();
    assert!(matches!(refused, StoreError::NoStore { .. }), "{refused}");
    // As if it had ended while it was created.
    file.write_all_at(&[0; 4096], 0).unwrap();
    // What it held is still there, and the generations go on.
    let store = world.open(options(3)).unwrap();
    assert_eq!(world.get(&store, 0, &[0]), Some(0));
}

#[test]
fn a_damaged_block_is_an_error_and_others_are_unharmed() {
    let world = World::new();
    let store = world.open(options(8)).unwrap();
    for number in 0..4 {
        world.put(&store, number, number).unwrap();
    }
    let file = File::options().read(true).write(true).open(world.path()).unwrap();
    let bytes = content(world.memory.geometry(), 2);
    let mut all = vec![0; file.metadata().unwrap().len() as usize];
    file.read_exact_at(&mut all, 0).unwrap();
    let at = all.windows(bytes.len()).position(|part| part == bytes).unwrap();
    file.write_all_at(&[bytes[4000].wrapping_add(1)], at as u64 + 4000).unwrap();
    let error = wait(store.get(key(2), &world.memory, 1)).unwrap_err();
    assert_eq!(error, StoreError::Damaged { key: key(2) });
    assert_eq!((world.get(&store, 2, &[]), store.damaged(), store.len()), (None, 1, 3));
    for number in [0, 1, 3] {
        assert_eq!(world.get(&store, number, &[number]), Some(number));
    }
    world.put(&store, 2, 9).unwrap();
    assert_eq!(world.get(&store, 2, &[2, 9]), Some(9));
}

#[test]
fn a_failed_put_is_not_found_and_the_block_before_it_is() {
    let world = World::new();
    let store = world.open(options(8)).unwrap();
    world.put(&store, 0, 0).unwrap();
    // The record that is emptied, the block, its record.
    for others in 0..3 {
        world.disk.fail_nth(IoKind::Write, others, libc::ENOSPC);
        let error = world.put(&store, 0, 1).unwrap_err();
        assert!(matches!(error, StoreError::Operation(_)), "{error}");
        assert_eq!(world.get(&store, 0, &[0, 1]), Some(0), "write {others}");
    }
    world.put(&store, 0, 2).unwrap();
    assert_eq!(world.get(&store, 0, &[0, 1, 2]), Some(2));
}

#[test]
fn a_failed_sync_ends_all_puts_until_the_store_is_opened_again() {
    let world = World::new();
    // Each sync of a put: of the record that is emptied, of the block, and of its record.
    for others in 0..3 {
        let store = world.open(options(8)).unwrap();
        world.put(&store, 0, 2 * others as usize).unwrap();
        let number = 2 * others as usize + 1;
        world.disk.fail_nth(IoKind::Sync, others, libc::EIO);
        let error = world.put(&store, 1, number).unwrap_err();
        assert!(matches!(error, StoreError::NotSynced { .. }), "{error}");
        // The kernel states the loss once.
        let error = world.put(&store, 1, number).unwrap_err();
        assert!(matches!(error, StoreError::NotSynced { .. }), "{error}");
        assert!(!store.contains(key(1)));
        assert_eq!(world.get(&store, 0, &[number - 1]), Some(number - 1));
        drop(store);
        let store = world.open(options(8)).unwrap();
        world.put(&store, 1, number).unwrap();
        assert!(wait(store.remove(key(1))).unwrap());
        assert_eq!(world.get(&store, 0, &[number - 1]), Some(number - 1));
    }
}

#[test]
fn a_sync_that_fails_after_its_put_was_dropped_ends_the_other_puts() {
    let world = World::new();
    let store = world.open(options(8)).unwrap();
    world.put(&store, 0, 0).unwrap();
    // The erased record, and then its sync.
    world.disk.freeze_after(1);
    assert!(until_frozen(&world.disk, store.put(key(1), &world.memory, 2)).is_none());
    until(|| world.disk.pending() == 1);
    world.disk.fail_next(IoKind::Sync, libc::EIO);
    let mut second = Box::pin(store.put(key(2), &world.memory, 3));
    assert!(second.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending());
    world.disk.thaw();
    let error = wait(second).unwrap_err();
    assert!(matches!(error, StoreError::NotSynced { .. }), "{error}");
}

#[test]
fn a_waker_that_panics_ends_no_other_sync() {
    /// Not on the thread that polls.
    struct Panics(ThreadId);
    impl Wake for Panics {
        fn wake(self: Arc<Self>) {
            assert_eq!(thread::current().id(), self.0, "a waker of the caller's");
        }
    }
    let world = World::new();
    let store = world.open(options(8)).unwrap();
    world.put(&store, 0, 0).unwrap();
    // The erased record, and then its sync.
    world.disk.freeze_after(1);
    let mut put = Box::pin(store.put(key(1), &world.memory, 2));
    let panics = Waker::from(Arc::new(Panics(thread::current().id())));
    loop {
        let waits = world.disk.is_frozen() && world.disk.pending() > 0;
        assert!(put.as_mut().poll(&mut Context::from_waker(&panics)).is_pending());
        if waits {
            break;
        }
        thread::yield_now();
    }
    assert!(put.as_mut().poll(&mut Context::from_waker(&panics)).is_pending());
    world.disk.thaw();
    wait(put).unwrap();
    world.put(&store, 2, 3).unwrap();
}

#[test]
fn an_older_block_of_a_removed_one_is_not_found_after_a_restart() {
    for gives_way in [false, true] {
        let world = World::new();
        let store = world.open(options(3)).unwrap();
        world.put(&store, 0, 0).unwrap();
        // The record of the block before, after the erased record, the block and its record.
        world.disk.fail_nth(IoKind::Write, 3, libc::EIO);
        world.put(&store, 0, 1).unwrap_err();
        assert_eq!(world.get(&store, 0, &[1]), Some(1));
        if gives_way {
            for number in 2..5 {
                world.put(&store, number, number).unwrap();
            }
            assert!(!store.contains(key(0)));
        } else {
            assert!(wait(store.remove(key(0))).unwrap());
        }
        drop(store);
        let store = world.open(options(3)).unwrap();
        assert_eq!(world.get(&store, 0, &[]), None, "gives way: {gives_way}");
    }
}

#[test]
fn a_removed_block_that_is_read_is_removed_by_another_call() {
    let world = World::new();
    let store = world.open(options(3)).unwrap();
    world.put(&store, 0, 0).unwrap();
    world.disk.freeze();
    let mut read = Box::pin(store.get(key(0), &world.memory, 1));
    assert!(read.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending());
    let used = wait(store.remove(key(0))).unwrap_err();
    assert_eq!(used, StoreError::StillUsed { key: key(0) });
    assert!(!store.contains(key(0)));
    drop(read);
    world.disk.thaw();
    until(|| wait(store.remove(key(0))).is_ok());
    drop(store);
    let store = world.open(options(3)).unwrap();
    assert_eq!(world.get(&store, 0, &[]), None);
}

#[test]
fn an_unfinished_creation_is_begun_again() {
    let world = World::new();
    drop(world.open(options(3)).unwrap());
    let len = std::fs::metadata(world.path()).unwrap().len();
    for len in [0, 4096, len / 2, len] {
        let file = File::create(world.path()).unwrap();
        file.set_len(len).unwrap();
        let store = world.open(options(3)).unwrap();
        assert_eq!(store.len(), 0);
        world.put(&store, 0, 0).unwrap();
        assert_eq!(world.get(&store, 0, &[0]), Some(0));
    }
    // A part of a store that was in use is no unfinished one.
    File::options().write(true).open(world.path()).unwrap().set_len(len / 2).unwrap();
    let refused = world.open(options(3)).map(drop).unwrap_err();
    assert!(matches!(refused, StoreError::OtherBlocks { .. }), "{refused}");
}

#[test]
fn a_store_with_a_lost_first_page_serves_no_older_blocks() {
    let world = World::new();
    let store = world.open(options(8)).unwrap();
    for number in 0..4 {
        world.put(&store, 0, number).unwrap();
    }
    drop(store);
    File::options().write(true).open(world.path()).unwrap().write_all_at(&[0; 4096], 0).unwrap();
    let store = world.open(options(8)).unwrap();
    world.put(&store, 0, 9).unwrap();
    drop(store);
    let store = world.open(options(8)).unwrap();
    assert_eq!(world.get(&store, 0, &[9]), Some(9));
}

#[test]
fn the_folder_is_owned_until_the_last_write_has_ended() {
    let world = World::new();
    let store = world.open(options(3)).unwrap();
    world.disk.freeze();
    let mut put = Box::pin(store.put(key(0), &world.memory, 0));
    assert!(put.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending());
    until(|| world.disk.pending() == 1);
    drop(put);
    drop(store);
    assert!(matches!(world.open(options(3)), Err(StoreError::InUse { .. })));
    world.disk.thaw();
    // As another process sees it.
    let owner = File::open(world.folder.path().join("owner")).unwrap();
    until(|| owner.try_lock().is_ok());
}

#[test]
fn a_put_that_is_refused_takes_no_block() {
    let world = World::new();
    let store = world.open(options(2)).unwrap();
    for number in 0..2 {
        world.put(&store, number, number).unwrap();
    }
    let other = memory(geometry(1, INNER + 1), KINDS[1]);
    wait(store.put(key(5), &other, 0)).unwrap_err();
    wait(store.put(key(5), &world.memory, 4)).unwrap_err();
    let lease = world.memory.lease(&[2], 0..3, LeaseMode::Write).unwrap();
    wait(store.put(key(5), &world.memory, 2)).unwrap_err();
    drop(lease);
    assert_eq!(store.len(), 2);
}

#[test]
fn blocks_in_use_do_not_give_way() {
    let world = World::new();
    let store = world.open(options(2)).unwrap();
    for number in 0..2 {
        world.put(&store, number, number).unwrap();
    }
    world.disk.freeze();
    let poll = |future: std::pin::Pin<&mut dyn Future<Output = Result<bool, StoreError>>>| {
        assert!(future.poll(&mut Context::from_waker(Waker::noop())).is_pending());
    };
    let mut first = Box::pin(store.get(key(0), &world.memory, 1));
    let mut second = Box::pin(store.get(key(1), &world.memory, 2));
    poll(first.as_mut());
    poll(second.as_mut());
    until(|| world.disk.pending() == 2);
    // Dropped, the read goes on, and so its slot stays.
    drop(second);
    let full = world.put(&store, 5, 5).unwrap_err();
    assert_eq!(full, StoreError::Full { capacity: 2 });
    world.disk.thaw();
    assert!(wait(first).unwrap());
    until(|| world.put(&store, 5, 5).is_ok());
    assert_eq!(world.get(&store, 5, &[5]), Some(5));
}

/// A step of a life between two crashes.
#[derive(Clone, Copy, Debug)]
enum Step {
    Put(usize),
    Remove(usize),
    Get(usize),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => (0..5usize).prop_map(Step::Put),
        1 => (0..5usize).prop_map(Step::Remove),
        1 => (0..5usize).prop_map(Step::Get),
    ]
}

/// What may be found of a key.
#[derive(Default)]
struct Known {
    /// All that was ever put.
    numbers: Vec<usize>,
    /// The oldest that may still be found.
    least: usize,
    /// It must be found.
    is_there: bool,
}

fn tracked(folder: &Path) -> FileRegion {
    FileRegion::open(folder, "blocks", &FileOptions::read_write()).unwrap()
}

/// The output of a future, or `None` once it waits for a disk that is frozen.
fn until_frozen<F: Future>(disk: &SimulatedFiles, future: F) -> Option<F::Output> {
    let mut future = pin!(future);
    loop {
        let waits = disk.is_frozen() && disk.pending() > 0;
        match future.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(output) => return Some(output),
            Poll::Pending if waits => return None,
            Poll::Pending => thread::yield_now(),
        }
    }
}

/// Lives of a store, each with its steps and the number of calls after which the power is lost.
fn survive(lives: &[(Vec<Step>, u64)], capacity: u32, commit: Commit) {
    let world = World::new();
    let mut known: HashMap<usize, Known> = HashMap::new();
    let (mut last, evicts) = (0, capacity < 8);
    drop(world.open(options(capacity)).unwrap());
    let file = tracked(world.folder.path());
    world.disk.track(&file).unwrap();
    for (steps, calls) in lives {
        let store = world.open(options(capacity).commit(commit)).unwrap();
        for (&of, known) in &known {
            let found = world.get(&store, of, &known.numbers);
            if commit == Commit::Each {
                assert!(found.is_none_or(|found| found >= known.least), "an old block was served");
                assert!(found.is_some() || !known.is_there || evicts, "a committed block is lost");
            }
        }
        world.disk.freeze_after(*calls);
        for &step in steps {
            last += 1;
            let is_done = match step {
                Step::Put(of) => {
                    let bytes = content(world.memory.geometry(), last);
                    until(|| world.memory.copy_block_from_slice(0, &bytes).is_ok());
                    let known = known.entry(of).or_default();
                    known.numbers.push(last);
                    let put = until_frozen(&world.disk, store.put(key(of), &world.memory, 0));
                    if let Some(put) = &put {
                        put.as_ref().unwrap();
                        (known.least, known.is_there) = (last, true);
                    }
                    put.is_some()
                }
                Step::Remove(of) => {
                    let known = known.entry(of).or_default();
                    known.is_there = false;
                    let removed = until_frozen(&world.disk, store.remove(key(of)));
                    if let Some(removed) = &removed {
                        removed.as_ref().unwrap();
                        known.least = last;
                    }
                    removed.is_some()
                }
                Step::Get(of) => {
                    until_frozen(&world.disk, store.get(key(of), &world.memory, 2)).is_some()
                }
            };
            if !is_done {
                break;
            }
        }
        drop(store);
        world.disk.crash(&file).unwrap();
        world.disk.thaw();
    }
}

fn lives() -> impl Strategy<Value = Vec<(Vec<Step>, u64)>> {
    prop::collection::vec((prop::collection::vec(step(), 1..12), 0..60u64), 2..6)
}

#[test]
fn a_torn_replacement_and_a_superseded_record_are_not_found() {
    use Step::{Get, Put, Remove};
    // The power is lost amid a replacement: once before its block is on the disk, once before the record of the block that it
    // replaced is emptied.
    for seen in 0..30 {
        let replaced = (vec![Put(1), Put(1), Get(1), Put(2)], 14 + seen);
        survive(&[replaced, (vec![Put(1)], 4 + seen % 4), (vec![Put(0)], 0)], 8, Commit::Each);
        let superseded = (vec![Put(0), Put(4), Put(4)], 10 + seen % 16);
        survive(&[superseded, (vec![Remove(4)], 2), (vec![Put(0)], 0)], 8, Commit::Each);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]

    /// Whenever the power is lost: no wrong block is served, none older than the last that was committed, and each that was
    /// committed is there.
    #[test]
    fn committed_blocks_survive_crashes_and_no_other_is_served(lives in lives()) {
        survive(&lives, 8, Commit::Each);
    }

    #[test]
    fn no_wrong_block_is_served_after_a_crash_of_a_full_store(lives in lives()) {
        survive(&lives, 3, Commit::Each);
        survive(&lives, 3, Commit::None);
    }
}
