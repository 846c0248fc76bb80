//! Models of grants beside copies, run by `cargo xtask loom`.

use std::ops::Deref;
use std::sync::PoisonError;

use loom::cell::UnsafeCell;
use loom::sync::Arc;
pub(super) use loom::sync::atomic::{AtomicU32, fence};
pub(super) use loom::sync::{Mutex, MutexGuard};
use loom::thread;

use super::*;

pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// An atomic whose sequentially consistent loads and additions have one order with each other and with fences.
///
/// Loom takes such an access for one that acquires and releases. The fence gives to it what the language promises.
#[derive(Debug)]
pub(super) struct AtomicUsize(loom::sync::atomic::AtomicUsize);

impl AtomicUsize {
    pub(super) fn new(value: usize) -> Self {
        Self(loom::sync::atomic::AtomicUsize::new(value))
    }

    pub(super) fn load(&self, order: Ordering) -> usize {
        if order == Ordering::SeqCst {
            fence(order);
        }
        self.0.load(order)
    }
}

impl Deref for AtomicUsize {
    type Target = loom::sync::atomic::AtomicUsize;

    fn deref(&self) -> &Self::Target {
        &self.0
    }
}

const BLOCK: u32 = 0;

/// A block that copies write and that readers of a grant read.
struct World {
    counts: Counts,
    bytes: UnsafeCell<u8>,
}

impl World {
    fn new() -> Arc<Self> {
        Arc::new(Self { counts: Counts::new(1), bytes: UnsafeCell::new(0) })
    }

    /// As a copy does: it writes unless the block is granted. Returns whether it wrote.
    fn copy(&self) -> bool {
        self.counts.enter(1);
        let is_granted = self.counts.any() && self.counts.first_granted(BLOCK..=BLOCK).is_some();
        if !is_granted {
            seen();
            self.bytes.with_mut(|_| ());
        }
        self.counts.leave(1);
        !is_granted
    }

    /// As a grant does: its reader reads unless copies may be under way. Returns whether it read.
    fn grant(&self) -> bool {
        let is_busy = self.counts.begin(&[BLOCK]).unwrap();
        if !is_busy {
            self.bytes.with(|_| ());
        }
        self.counts.end(&[BLOCK]);
        !is_busy
    }
}

/// One of the two sees the other, while neither has ended.
#[test]
fn loom_a_grant_sees_a_copy_or_the_copy_the_grant() {
    loom::model(|| {
        let world = World::new();
        let copy = {
            let world = Arc::clone(&world);
            thread::spawn(move || {
                world.counts.enter(1);
                world.counts.any() && world.counts.first_granted(BLOCK..=BLOCK).is_some()
            })
        };
        let sees_copy = world.counts.begin(&[BLOCK]).unwrap();
        assert!(copy.join().unwrap() | sees_copy);
    });
}

/// No byte is read by a grant's reader while a copy writes it, and each has what the other did before.
#[test]
fn loom_granted_bytes_are_not_written() {
    loom::model(|| {
        let world = World::new();
        let copy = {
            let world = Arc::clone(&world);
            thread::spawn(move || world.copy())
        };
        let has_read = world.grant();
        let has_written = copy.join().unwrap();
        assert!(has_read || has_written || world.counts.granted() == 0);
    });
}

/// A grant that ends leaves the other's block granted, and the last leaves none.
#[test]
fn loom_grants_of_one_block_are_counted() {
    loom::model(|| {
        let world = World::new();
        let other = {
            let world = Arc::clone(&world);
            thread::spawn(move || world.grant())
        };
        world.counts.begin(&[BLOCK]).unwrap();
        assert!(world.counts.is_granted(BLOCK));
        other.join().unwrap();
        assert_eq!((world.counts.granted(), world.counts.is_granted(BLOCK)), (1, true));
        world.counts.end(&[BLOCK]);
        assert_eq!((world.counts.granted(), world.counts.is_granted(BLOCK)), (0, false));
    });
}
