//! Locks, fences, atomics, threads and shared pages, replaced by loom's in its models.
//!
//! The lock-free shared state of this crate is built on these; the modules `loom_model`, run by `cargo xtask loom`, are its models.
//! `docs/CI.md` lists them, and those of other crates. Dependencies have the real ones in a model.

#[cfg(all(test, loom))]
mod model;

#[cfg(all(test, loom))]
pub(crate) use loom::sync::atomic::fence;
#[cfg(all(test, loom))]
pub(crate) use loom::sync::{Mutex, MutexGuard};
#[cfg(all(test, loom))]
pub(crate) use loom::thread;
#[cfg(all(test, loom))]
pub(crate) use model::{ModelClock, SharedMemory, atomic, unpark, wake_one};
#[cfg(not(all(test, loom)))]
pub(crate) use nixl_descriptor::SharedMemory;
#[cfg(not(all(test, loom)))]
pub(crate) use nixl_device::locks::{lock, try_lock};
#[cfg(not(all(test, loom)))]
pub(crate) use nixl_device::named_thread;
#[cfg(not(all(test, loom)))]
pub(crate) use std::sync::atomic::fence;
#[cfg(not(all(test, loom)))]
pub(crate) use std::sync::{Mutex, MutexGuard, atomic};
#[cfg(not(all(test, loom)))]
pub(crate) use std::thread;

/// A thread of that name.
#[cfg(all(test, loom))]
pub(crate) fn named_thread(name: &str) -> thread::Builder {
    thread::Builder::new().name(name.to_owned())
}

/// Locks, ignoring poison: every critical section in this crate leaves its data consistent.
#[cfg(all(test, loom))]
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

/// As [`lock`], unless another thread holds the lock.
#[cfg(all(test, loom))]
pub(crate) fn try_lock<T>(mutex: &Mutex<T>) -> Option<MutexGuard<'_, T>> {
    mutex.try_lock().ok()
}

/// The content of a mutex that no other thread reaches, without its lock.
pub(crate) fn get_mut<T>(mutex: &mut Mutex<T>) -> &mut T {
    mutex.get_mut().unwrap_or_else(std::sync::PoisonError::into_inner)
}

/// Wakes one thread, of any process, that waits on the word. Returns whether there was one.
#[cfg(not(all(test, loom)))]
pub(crate) fn wake_one(word: &atomic::AtomicU32) -> bool {
    // No fallback if the system refuses: such waits are short.
    let woken = rustix::thread::futex::wake(word, rustix::thread::futex::Flags::empty(), 1);
    woken.is_ok_and(|woken| woken > 0)
}

/// Ends the thread's sleep, or prevents the next one.
#[cfg(not(all(test, loom)))]
pub(crate) fn unpark(thread: &thread::Thread) {
    thread.unpark();
}
