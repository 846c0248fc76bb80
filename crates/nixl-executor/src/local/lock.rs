//! Mutexes without poison.

use std::sync::{Mutex, MutexGuard, PoisonError};

/// Locks, ignoring poison: the data that such locks guard is consistent between any two statements.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
