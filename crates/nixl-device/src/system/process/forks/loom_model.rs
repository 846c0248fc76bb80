//! Models of the threads of a process that ask for its generation beside a fork, and that make a value of it, run by
//! `cargo xtask loom`.

use std::sync::OnceLock;

use loom::cell::UnsafeCell;
use loom::sync::atomic;
use loom::thread;

use super::*;

/// Loom's, which statics can hold: made at the first use, or before other threads have it.
#[derive(Debug, Default)]
pub(in super::super) struct AtomicU64(u64, OnceLock<atomic::AtomicU64>);

impl AtomicU64 {
    pub(in super::super) const fn new(value: u64) -> Self {
        Self(value, OnceLock::new())
    }

    /// Made now: for loom, to make one is a change that other threads must be ordered with.
    pub(in super::super) fn made(self) -> Self {
        let _ = &*self;
        self
    }
}

impl Deref for AtomicU64 {
    type Target = atomic::AtomicU64;

    fn deref(&self) -> &atomic::AtomicU64 {
        self.1.get_or_init(|| atomic::AtomicU64::new(self.0))
    }
}

/// Loom's, which statics can hold, and which is null at first.
#[derive(Debug)]
pub(super) struct AtomicPtr<T>(OnceLock<atomic::AtomicPtr<T>>);

impl<T> AtomicPtr<T> {
    pub(super) const fn new(_: *mut T) -> Self {
        Self(OnceLock::new())
    }
}

impl<T> Deref for AtomicPtr<T> {
    type Target = atomic::AtomicPtr<T>;

    fn deref(&self) -> &atomic::AtomicPtr<T> {
        self.0.get_or_init(|| atomic::AtomicPtr::new(ptr::null_mut()))
    }
}

impl Line {
    pub(super) fn made(self) -> Self {
        let Self { word, unsupported, latest, first } = self;
        let _ = &*word;
        Self { word, unsupported, latest: latest.made(), first: first.made() }
    }

    fn leaked(self) -> &'static Self {
        Box::leak(Box::new(self.made()))
    }

    /// That of a child which a thread forks here: the kernel copies the words and zeroes the page.
    fn forked(&self) -> &'static Self {
        let copy = |word: &AtomicU64| AtomicU64::new(word.load(Ordering::Relaxed));
        let child = Self { latest: copy(&self.latest), first: copy(&self.first), ..Self::new() };
        if !self.word.load(Ordering::Relaxed).is_null() {
            child.word.store(wiped_page().unwrap().as_ptr(), Ordering::Relaxed);
        }
        child.leaked()
    }
}

#[test]
fn loom_threads_of_a_process_have_one_generation() {
    loom::model(|| {
        let line = Line::new().leaked();
        let others = [(); 2].map(|()| thread::spawn(|| line.current()));
        let mine = line.current();
        assert!(line.is_current(mine) && !line.is_forked(mine));
        for other in others {
            assert_eq!(other.join().unwrap(), mine);
        }
    });
}

#[test]
fn loom_a_child_knows_that_it_is_one_whatever_threads_of_the_parent_were_at() {
    loom::model(|| {
        let line = Line::new().leaked();
        // It may be stopped anywhere by the fork.
        let stopped = thread::spawn(|| line.current());
        let mine = line.current();
        let child = line.forked();
        assert!(!child.is_current(mine));
        let of_child = child.current();
        assert!(of_child != mine && child.is_current(of_child) && child.is_forked(of_child));
        let grandchild = child.forked();
        let of_grandchild = grandchild.current();
        assert!(of_grandchild != mine && of_grandchild != of_child);
        assert!(grandchild.is_forked(of_grandchild));
        assert_eq!(stopped.join().unwrap(), mine);
    });
}

/// Loom sees it if it is read before its writer is done.
struct Value(UnsafeCell<u8>);

// SAFETY: loom fails the model if two threads are in the cell at once, one of them writing.
unsafe impl Sync for Value {}

#[test]
fn loom_threads_of_a_process_have_one_value() {
    loom::model(|| {
        let make = || {
            let value = Value(UnsafeCell::new(0));
            value.0.with_mut(|_| ());
            value
        };
        let value: &'static PerProcess<Value> = Box::leak(Box::new(PerProcess::new(make)));
        let _ = &*value.current;
        let other = thread::spawn(|| {
            let value = value.get();
            value.0.with(|_| ());
            ptr::from_ref(value).addr()
        });
        let mine = value.get();
        mine.0.with(|_| ());
        assert_eq!(other.join().unwrap(), ptr::from_ref(mine).addr());
    });
}
