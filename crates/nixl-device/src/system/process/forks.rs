//! Forks: the generation of a process, and values that belong to one process alone.
//!
//! The child of a fork has the memory of its parent and one of its threads. A lock that another thread held stays locked in it, a channel
//! leads to no thread, and files, shared pages and epoll sets are the parent's too. So inherited values are neither used nor dropped in a
//! child: [`ForkGeneration`] shows that a value is inherited, [`PerProcess`] gives each process a value of its own, and [`LeakInChild`]
//! is not dropped in a child.
//!
//! The generation is a word in a page that the kernel zeroes in the child of every fork (`MADV_WIPEONFORK`), also of one that does not
//! pass through the C library. Where the kernel cannot, the number of the process takes its place.
#![allow(unsafe_code)] // A page of the kernel's, and values that live for ever.

#[cfg(all(test, loom))]
pub(super) mod loom_model;

use std::fmt;
use std::mem::ManuallyDrop;
use std::ops::{Deref, DerefMut};
use std::process;
use std::ptr::{self, NonNull};
use std::sync::atomic::Ordering;
#[cfg(not(all(test, loom)))]
use std::sync::atomic::{AtomicPtr, AtomicU64};

#[cfg(not(all(test, loom)))]
use rustix::mm::{Advice, MapFlags, ProtFlags, madvise, mmap_anonymous, munmap};

#[cfg(all(test, loom))]
use loom_model::{AtomicPtr, AtomicU64};

/// Distinguishes a process from those that it was forked from, and from those that are forked from it.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct ForkGeneration(pub(super) u64);

/// The generations of a process and of those before it.
struct Line {
    /// Where the word is that holds the generation of this process. Null before the first look.
    word: AtomicPtr<AtomicU64>,
    /// The word's place where the kernel wipes no page.
    unsupported: AtomicU64,
    /// The latest generation of this process and of those before it. A child inherits it.
    latest: AtomicU64,
    /// That of the first process of this line that queried it. A child inherits it.
    first: AtomicU64,
}

#[cfg(not(all(test, loom)))]
static LINE: Line = Line::new();
#[cfg(all(test, loom))]
loom::lazy_static! {
    static ref LINE: Line = Line::new().made();
}

impl Line {
    const fn new() -> Self {
        Self {
            word: AtomicPtr::new(ptr::null_mut()),
            unsupported: AtomicU64::new(0),
            latest: AtomicU64::new(0),
            first: AtomicU64::new(0),
        }
    }

    /// The generation of this process.
    fn current(&'static self) -> ForkGeneration {
        let Some(word) = self.word() else { return self.noted(process::id().into()) };
        // A thread that sees a generation sees that it was counted, which a child of a fork by it must.
        let known = word.load(Ordering::Acquire);
        if known != 0 {
            return self.noted(known);
        }
        let next = self.latest.fetch_add(1, Ordering::Relaxed) + 1;
        let set = word.compare_exchange(0, next, Ordering::AcqRel, Ordering::Acquire);
        self.noted(set.map_or_else(|of_another_thread| of_another_thread, |_| next))
    }

    /// Every thread notes the first generation before it uses it: another thread that does so may be stopped before, by a fork.
    fn noted(&self, generation: u64) -> ForkGeneration {
        if self.first.load(Ordering::Relaxed) == 0 {
            let (first, relaxed) = (&self.first, Ordering::Relaxed);
            let _ = first.compare_exchange(0, generation, relaxed, relaxed);
        }
        ForkGeneration(generation)
    }

    fn is_forked(&self, generation: ForkGeneration) -> bool {
        generation.0 != self.first.load(Ordering::Relaxed)
    }

    #[inline]
    fn is_current(&self, generation: ForkGeneration) -> bool {
        let word = self.word.load(Ordering::Acquire);
        if ptr::eq(word, &raw const self.unsupported) {
            return generation.0 == u64::from(process::id());
        }
        // SAFETY: as in `word`. There is one, since a generation was made of it.
        unsafe { word.as_ref() }.is_some_and(|word| word.load(Ordering::Relaxed) == generation.0)
    }

    /// `None` where the kernel wipes no page.
    fn word(&'static self) -> Option<&'static AtomicU64> {
        let mut word = self.word.load(Ordering::Acquire);
        if word.is_null() {
            let new = match wiped_page() {
                Some(page) => page.as_ptr(),
                None => (&raw const self.unsupported).cast_mut(),
            };
            // No lock: a fork in the middle of this would leave it locked in the child. Of two threads, one leaves a page behind.
            let null = ptr::null_mut();
            let set = self.word.compare_exchange(null, new, Ordering::AcqRel, Ordering::Acquire);
            word = set.map_or_else(|of_another_thread| of_another_thread, |_| new);
        }
        let is_supported = !ptr::eq(word, &raw const self.unsupported);
        // SAFETY: it points to the beginning of a mapped page that is never unmapped, or to a static, and is aligned; all use it as
        // an atomic word. The kernel zeroes it only in a child, which has no other thread then.
        is_supported.then(|| unsafe { &*word.cast_const() })
    }
}

impl ForkGeneration {
    /// That of this process.
    #[must_use]
    pub fn current() -> Self {
        LINE.current()
    }

    /// Whether a process that this one was forked from had a generation of its own, so that what it had begun may be half done here.
    #[must_use]
    pub fn is_forked(self) -> bool {
        LINE.is_forked(self)
    }

    /// Whether this process is the one that had this generation. Costs two loads.
    #[must_use]
    #[inline]
    pub fn is_current(self) -> bool {
        LINE.is_current(self)
    }
}

/// A zero word in a page that is zero again in children.
#[cfg(not(all(test, loom)))]
fn wiped_page() -> Option<NonNull<AtomicU64>> {
    // The interpreter has no such advice.
    if cfg!(miri) {
        return None;
    }
    let len = rustix::param::page_size();
    // SAFETY: a new mapping, at an address that the kernel chooses.
    let page = unsafe {
        mmap_anonymous(ptr::null_mut(), len, ProtFlags::READ | ProtFlags::WRITE, MapFlags::PRIVATE)
    };
    let page = page.ok()?;
    // SAFETY: the mapping is this function's own, and the advice changes nothing in this process.
    let advised = unsafe { madvise(page, len, Advice::LinuxWipeOnFork) };
    if advised.is_err() {
        // SAFETY: no pointer into it is kept.
        let _ = unsafe { munmap(page, len) };
        return None;
    }
    NonNull::new(page.cast())
}

/// One that no other process has: models have one process.
#[cfg(all(test, loom))]
fn wiped_page() -> Option<NonNull<AtomicU64>> {
    NonNull::new(Box::into_raw(Box::new(AtomicU64::new(0).made())))
}

/// A value of which each process has its own: for statics. A child of a fork begins with a new one, and leaves that of its parent alone.
pub struct PerProcess<T> {
    current: AtomicPtr<Made<T>>,
    make: fn() -> T,
}

struct Made<T> {
    generation: ForkGeneration,
    value: T,
}

impl<T> PerProcess<T> {
    /// A value that `make` makes at its first use in a process. Of two threads that use it first at once, one drops the value that it made.
    pub const fn new(make: fn() -> T) -> Self {
        Self { current: AtomicPtr::new(ptr::null_mut()), make }
    }
}

impl<T: Send + Sync> PerProcess<T> {
    /// That of this process.
    #[must_use]
    pub fn get(&'static self) -> &'static T {
        let current = self.current.load(Ordering::Acquire);
        match Self::made(current) {
            Some(made) if made.generation.is_current() => &made.value,
            _ => self.renew(current),
        }
    }

    fn renew(&'static self, seen: *mut Made<T>) -> &'static T {
        let generation = ForkGeneration::current();
        let new = Box::into_raw(Box::new(Made { generation, value: (self.make)() }));
        match self.current.compare_exchange(seen, new, Ordering::AcqRel, Ordering::Acquire) {
            // What was there is the parent's, and stays.
            Ok(_) => match Self::made(new) {
                Some(made) => &made.value,
                None => unreachable!("a box is not null"),
            },
            Err(_) => {
                // SAFETY: it came from a box above, and no other thread has seen it.
                drop(unsafe { Box::from_raw(new) });
                self.get()
            }
        }
    }

    fn made(pointer: *mut Made<T>) -> Option<&'static Made<T>> {
        // SAFETY: it is null or came from a box in `renew`, which is never freed once it was stored, nor changed.
        unsafe { pointer.as_ref() }
    }
}

/// A value that a child of a fork does not drop: of its threads, locks and files, some are its parent's and some are not there.
pub struct LeakInChild<T> {
    value: ManuallyDrop<T>,
    generation: ForkGeneration,
}

impl<T> LeakInChild<T> {
    /// A value of this process.
    pub fn new(value: T) -> Self {
        Self { value: ManuallyDrop::new(value), generation: ForkGeneration::current() }
    }

    /// Whether this process has inherited it.
    #[inline]
    pub fn is_inherited(&self) -> bool {
        !self.generation.is_current()
    }
}

/// The clone is of the same process as the value.
impl<T: Clone> Clone for LeakInChild<T> {
    fn clone(&self) -> Self {
        Self { value: self.value.clone(), generation: self.generation }
    }
}

impl<T> Deref for LeakInChild<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.value
    }
}

impl<T> DerefMut for LeakInChild<T> {
    fn deref_mut(&mut self) -> &mut T {
        &mut self.value
    }
}

impl<T> Drop for LeakInChild<T> {
    fn drop(&mut self) {
        if !self.is_inherited() {
            // SAFETY: dropped once, here, and not used afterwards.
            unsafe { ManuallyDrop::drop(&mut self.value) }
        }
    }
}

impl<T: fmt::Debug> fmt::Debug for LeakInChild<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        (**self).fmt(f)
    }
}

impl<T> fmt::Debug for PerProcess<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PerProcess").finish_non_exhaustive()
    }
}

#[cfg(all(test, not(loom)))]
#[allow(clippy::unwrap_used, reason = "tests")]
pub(super) mod tests {
    use std::sync::Mutex;
    use std::sync::atomic::AtomicUsize;

    use super::*;

    /// Runs it in a child of a fork, and returns its answer.
    pub(in super::super) fn in_child(look: impl FnOnce() -> bool) -> bool {
        // SAFETY: the child calls nothing that another thread's locks could stop, and ends without destructors.
        unsafe extern "C" {
            fn fork() -> i32;
            fn _exit(code: i32) -> !;
            fn waitpid(pid: i32, status: *mut i32, options: i32) -> i32;
        }
        let mut status = -1;
        // SAFETY: as above.
        match unsafe { fork() } {
            // SAFETY: it ends this child.
            0 => unsafe { _exit(i32::from(!look())) },
            child => {
                assert!(child > 0);
                // SAFETY: the status is valid for writing.
                assert_eq!(unsafe { waitpid(child, &raw mut status, 0) }, child);
                status == 0
            }
        }
    }

    /// The number of a child of a fork. `None` in the child.
    pub(in super::super) fn fork() -> Option<u32> {
        // SAFETY: as the C library declares it.
        unsafe extern "C" {
            fn fork() -> i32;
        }
        // SAFETY: the child runs no code that needs another thread or its locks.
        let child = unsafe { fork() };
        assert!(child >= 0);
        (child > 0).then_some(child.cast_unsigned())
    }

    #[test]
    fn each_generation_is_its_own_processes() {
        let here = ForkGeneration::current();
        assert!(here.is_current() && here == ForkGeneration::current());
        let holds = in_child(|| {
            let mine = ForkGeneration::current();
            let grandchild = || !here.is_current() && !mine.is_current();
            let differs = !here.is_current() && mine != here && mine.is_current();
            differs && mine.is_forked() && in_child(grandchild)
        });
        assert!(holds && here.is_current() && !here.is_forked());
    }

    #[test]
    fn a_child_has_statics_of_its_own_whatever_was_locked() {
        static NUMBER: PerProcess<Mutex<u32>> = PerProcess::new(|| Mutex::new(7));
        let mut locked = NUMBER.get().lock().unwrap();
        *locked = 8;
        assert!(in_child(|| NUMBER.get().try_lock().is_ok_and(|number| *number == 7)));
        drop(locked);
        assert_eq!(*NUMBER.get().lock().unwrap(), 8);
    }

    #[test]
    fn what_is_inherited_is_not_dropped() {
        struct Counts<'a>(&'a AtomicUsize);
        impl Drop for Counts<'_> {
            fn drop(&mut self) {
                self.0.fetch_add(1, Ordering::Relaxed);
            }
        }
        let drops = AtomicUsize::new(0);
        let value = LeakInChild::new(Counts(&drops));
        assert!(!value.is_inherited());
        let mut value = Some(value);
        assert!(in_child(|| {
            let inherited = value.as_ref().is_some_and(LeakInChild::is_inherited);
            drop(value.take());
            inherited && drops.load(Ordering::Relaxed) == 0
        }));
        drop(value);
        assert_eq!(drops.load(Ordering::Relaxed), 1);
    }
}
