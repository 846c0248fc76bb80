//! Models of exits and forks beside threads that enter, run by `cargo xtask loom`.

use std::sync::PoisonError;

use loom::cell::UnsafeCell;
use loom::sync::{Arc, Mutex};
use loom::thread;

use super::*;

/// Of which every access is sequentially consistent, as nowhere in loom: under a lock.
#[derive(Debug)]
pub(super) struct AtomicUsize(Mutex<usize>);

impl AtomicUsize {
    pub(super) fn load(&self, order: Ordering) -> usize {
        self.change(order, |value| value)
    }

    pub(super) fn fetch_add(&self, value: usize, order: Ordering) -> usize {
        self.change(order, |before| before + value)
    }

    pub(super) fn fetch_sub(&self, value: usize, order: Ordering) -> usize {
        self.change(order, |before| before - value)
    }

    pub(super) fn fetch_or(&self, value: usize, order: Ordering) -> usize {
        self.change(order, |before| before | value)
    }

    fn change(&self, order: Ordering, to: impl FnOnce(usize) -> usize) -> usize {
        assert_eq!(order, Ordering::SeqCst);
        let mut value = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let before = *value;
        *value = to(before);
        before
    }
}

impl ExitGuard {
    fn new() -> Self {
        let none = || AtomicUsize(Mutex::new(0));
        Self { inside: none(), pauses: none() }
    }
}

pub(super) fn a_moment() {
    thread::yield_now();
}

/// Further away than a model runs.
fn late() -> Instant {
    Instant::now() + Duration::from_secs(3600)
}

/// A gate, and what is behind it: used by threads inside, and changed by exits and forks.
struct World {
    guard: ExitGuard,
    library: UnsafeCell<u8>,
}

impl World {
    fn new() -> Arc<Self> {
        Arc::new(Self { guard: ExitGuard::new(), library: UnsafeCell::new(0) })
    }

    /// Returns whether it got in.
    fn enter(&self) -> bool {
        let Some(_busy) = self.guard.enter() else { return false };
        self.library.with(|_| ());
        true
    }

    fn exit(&self) {
        assert!(self.guard.close(late()));
        self.library.with_mut(|_| ());
    }

    fn fork(&self) {
        assert!(self.guard.pause(late()));
        self.library.with_mut(|_| ());
        self.guard.resume();
    }
}

#[test]
fn loom_no_thread_is_inside_after_an_exit() {
    loom::model(|| {
        let world = World::new();
        let others = [(); 2].map(|()| {
            let world = Arc::clone(&world);
            thread::spawn(move || world.enter())
        });
        world.exit();
        assert!(!world.enter());
        others.into_iter().for_each(|other| drop(other.join().unwrap()));
    });
}

#[test]
fn loom_no_thread_is_inside_at_a_fork_and_all_get_in_after_it() {
    loom::model(|| {
        let world = World::new();
        let other = {
            let world = Arc::clone(&world);
            thread::spawn(move || world.enter())
        };
        world.fork();
        assert!(world.enter() && other.join().unwrap());
    });
}

/// The thread that forks is another than the one that exits.
#[test]
fn loom_an_exit_amid_a_fork_lets_no_thread_in() {
    loom::model(|| {
        let world = World::new();
        let other = {
            let world = Arc::clone(&world);
            thread::spawn(move || {
                assert!(world.guard.pause(late()));
                world.guard.resume();
                world.enter()
            })
        };
        world.exit();
        other.join().unwrap();
        assert!(!world.enter());
    });
}
