//! Locks that ignore poison, and their count for tests.

use std::sync::{
    Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard, TryLockError,
};

/// Locks, ignoring poison: the critical sections of these crates leave their data consistent between any two statements.
pub fn lock<T: ?Sized>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    count();
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// As [`lock`], unless another thread holds the lock.
pub fn try_lock<T: ?Sized>(mutex: &Mutex<T>) -> Option<MutexGuard<'_, T>> {
    count();
    match mutex.try_lock() {
        Ok(guard) => Some(guard),
        Err(TryLockError::Poisoned(poisoned)) => Some(poisoned.into_inner()),
        Err(TryLockError::WouldBlock) => None,
    }
}

/// As [`lock`], for reading.
pub fn read<T: ?Sized>(lock: &RwLock<T>) -> RwLockReadGuard<'_, T> {
    count();
    lock.read().unwrap_or_else(PoisonError::into_inner)
}

/// As [`lock`], for writing.
pub fn write<T: ?Sized>(lock: &RwLock<T>) -> RwLockWriteGuard<'_, T> {
    count();
    lock.write().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(feature = "lock-count")]
thread_local! {
    static TAKEN: std::cell::Cell<usize> = const { std::cell::Cell::new(0) };
}

/// The calls of this module by this thread so far.
#[cfg(feature = "lock-count")]
pub fn taken() -> usize {
    TAKEN.get()
}

fn count() {
    // A destructor of a thread's locals may take a lock after this one is gone.
    #[cfg(feature = "lock-count")]
    let _ = TAKEN.try_with(|taken| taken.set(taken.get() + 1));
}

#[cfg(test)]
mod tests {
    use std::thread;

    use super::*;

    #[test]
    fn a_panic_under_a_lock_leaves_it_usable() {
        let (mutex, shared) = (Mutex::new(1), RwLock::new(1));
        let panicked = thread::scope(|scope| {
            let held = scope.spawn(|| {
                let _held = (lock(&mutex), write(&shared));
                panic!("under both");
            });
            held.join().is_err()
        });
        assert!(panicked && mutex.is_poisoned() && shared.is_poisoned());
        assert_eq!(*lock(&mutex), 1);
        assert_eq!(*read(&shared), 1);
        assert_eq!(*write(&shared), 1);
        let held = try_lock(&mutex);
        assert!(held.is_some() && try_lock(&mutex).is_none());
    }

    #[cfg(feature = "lock-count")]
    #[test]
    fn each_call_counts_for_its_thread() {
        let (mutex, shared) = (Mutex::new(1), RwLock::new(1));
        let before = taken();
        drop((lock(&mutex), read(&shared)));
        drop((try_lock(&mutex), write(&shared)));
        assert_eq!(taken() - before, 4);
        assert_eq!(thread::spawn(taken).join().unwrap(), 0);
    }
}
