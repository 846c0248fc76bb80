//! Read/write locks of UCX that threads of the parent held for reading at the fork.
//!
//! Such locks are likely: a thread that writes to memory while the kernel copies it waits there, with its locks. The child
//! releases these read locks. A writer waits until there are none; those of this process's threads last microseconds.
#![allow(
    unsafe_code,
    reason = "calls functions of a library that is loaded already, and of the C library"
)]

use std::ffi::{c_int, c_void};
use std::fs;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::time::Duration;

use nixl_device::named_thread;

use rustix::thread::{Pid, gettid};

use super::super::ucx::Ucx;

/// Takes a lock on a separate thread, and releases read locks of it, one by one, until the thread has it.
fn free(lock: impl FnOnce() + Send + 'static, give_back: impl Fn(Pid)) {
    const LONG: Duration = Duration::from_millis(200);
    const MOST: usize = 64;
    let (got_it, has_got_it) = channel();
    let (tell, told) = channel();
    let take = move || {
        let _ = tell.send(gettid());
        lock();
        let _ = got_it.send(());
    };
    if named_thread("nixl-forked").spawn(take).is_err() {
        return;
    }
    let Ok(thread) = told.recv() else { return };
    for _ in 0..MOST {
        match has_got_it.recv_timeout(LONG) {
            Err(RecvTimeoutError::Timeout) => give_back(thread),
            _ => return,
        }
    }
}

/// Frees the lock of UCX's memory hooks.
pub(super) fn free_hooks(ucx: &Ucx) {
    type Function = unsafe extern "C" fn();
    // SAFETY: the type is that of the function, of every UCX since 1.0.
    let lock = unsafe { ucx.function::<Function>("ucm_event_enter_exclusive") };
    // SAFETY: as above.
    let unlock = unsafe { ucx.function::<Function>("ucm_event_leave") };
    let (Some(lock), Some(unlock)) = (lock, unlock) else { return };
    let take = move || {
        // SAFETY: it locks.
        unsafe { lock() };
        // SAFETY: this thread has locked it.
        unsafe { unlock() };
    };
    // SAFETY: the read lock is that of a thread that this process does not have.
    free(take, |_| unsafe { unlock() });
}

unsafe extern "C" {
    fn pthread_rwlock_unlock(lock: *mut c_void) -> c_int;
}

/// Frees the lock of UCX's handlers, which has no exported functions. `probe` takes it.
pub(super) fn free_handlers(probe: impl FnOnce() + Send + 'static) {
    free_in("libucs", probe);
}

/// Frees a read/write lock in the data of a library whose name begins so. `probe` takes it.
fn free_in(library: &str, probe: impl FnOnce() + Send + 'static) {
    free(probe, |thread| {
        let Some(lock) = awaited(thread, library).filter(|lock| is_shared(*lock)) else { return };
        // SAFETY: a thread waits in this lock for its readers, which this process does not have.
        unsafe { pthread_rwlock_unlock(lock) };
    });
}

/// The lock that a thread waits for, if it is of this library: with the GNU C library the kernel is given the address of its third word.
fn awaited(thread: Pid, library: &str) -> Option<*mut c_void> {
    const OFFSET: usize = 8;
    if !cfg!(target_env = "gnu") {
        return None;
    }
    // The number of the call, and its arguments.
    let call = fs::read_to_string(format!("/proc/self/task/{thread}/syscall")).ok()?;
    let address = call.split_whitespace().nth(1)?.strip_prefix("0x")?;
    let lock = usize::from_str_radix(address, 16).ok()?.checked_sub(OFFSET)?;
    let maps = fs::read_to_string("/proc/self/maps").ok()?;
    let is_of_it = maps.lines().any(|line| is_data(line, library, lock));
    is_of_it.then(|| std::ptr::with_exposed_provenance_mut(lock))
}

/// Whether a line of `/proc/self/maps` is data of a library whose name begins so, with this address in it.
fn is_data(line: &str, library: &str, address: usize) -> bool {
    let mut words = line.split_whitespace();
    let (Some(range), Some(rights)) = (words.next(), words.next()) else { return false };
    let Some((start, end)) = range.split_once('-') else { return false };
    let number = |text| usize::from_str_radix(text, 16);
    let (Ok(start), Ok(end)) = (number(start), number(end)) else { return false };
    let name = line.rsplit('/').next().filter(|_| line.contains('/'));
    (start..end).contains(&address)
        && rights.starts_with("rw")
        && name.is_some_and(|name| name.starts_with(library))
}

/// Whether a read/write lock of the GNU C library is held by readers.
fn is_shared(lock: *mut c_void) -> bool {
    const OF_A_WRITER: u32 = 1;
    const READERS: u32 = 3;
    // SAFETY: the first word of the lock, in data of a library that is never unloaded; the C library changes it atomically, too.
    let word = unsafe { AtomicU32::from_ptr(lock.cast()) }.load(Ordering::Acquire);
    word & OF_A_WRITER == 0 && word >> READERS > 0
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::AtomicUsize;
    use std::thread;

    use super::*;

    #[test]
    fn data_of_a_library_is_told_by_its_line() {
        let line = "7f10-7f20 rw-p 00070000 08:01 42    /opt/lib/libucs-14c218c5.so.0.0.0";
        assert!(is_data(line, "libucs", 0x7f10) && is_data(line, "libucs", 0x7f1f));
        assert!(!is_data(line, "libucs", 0x7f20) && !is_data(line, "libucm", 0x7f10));
        for other in [&line.replace("rw-p", "r--p"), "7f10-7f20 rw-p 0 0:0 0", "", "rw-p libucs"] {
            assert!(!is_data(other, "libucs", 0x7f10), "{other}");
        }
    }

    #[test]
    fn shares_are_given_back_until_the_lock_is_free() {
        let shares = Arc::new(AtomicUsize::new(3));
        let awaited = Arc::clone(&shares);
        let take = move || {
            while awaited.load(Ordering::Acquire) > 0 {
                thread::yield_now();
            }
        };
        free(take, |_| {
            shares.fetch_sub(1, Ordering::Release);
        });
        assert_eq!(shares.load(Ordering::Relaxed), 0);
    }

    /// Leftover shares of a lock in this program's data, as a library's would be.
    #[test]
    #[cfg(target_env = "gnu")]
    fn a_lock_with_leftover_shares_is_freed() {
        type Function = unsafe extern "C" fn(*mut c_void) -> c_int;
        unsafe extern "C" {
            fn pthread_rwlock_rdlock(lock: *mut c_void) -> c_int;
            fn pthread_rwlock_wrlock(lock: *mut c_void) -> c_int;
        }
        // Not in the pages that begin as zeros, which belong to no file; larger than any such lock.
        #[unsafe(link_section = ".data")]
        static LOCK: [AtomicU32; 32] = [const { AtomicU32::new(0) }; 32];
        let call = |function: Function| {
            // SAFETY: the lock is as one is initialized, and outlives all threads.
            unsafe { function(LOCK.as_ptr().cast_mut().cast()) }
        };
        let is_held = || is_shared(LOCK.as_ptr().cast_mut().cast());
        assert!(!is_held());
        assert_eq!(call(pthread_rwlock_wrlock), 0);
        assert!(!is_held());
        assert_eq!(call(pthread_rwlock_unlock), 0);
        for _ in 0..3 {
            assert_eq!(call(pthread_rwlock_rdlock), 0);
        }
        assert!(is_held());
        let program = std::env::current_exe().unwrap();
        let name = program.file_name().unwrap().to_str().unwrap();
        free_in(name, move || {
            assert_eq!(call(pthread_rwlock_wrlock), 0);
            assert_eq!(call(pthread_rwlock_unlock), 0);
        });
        assert!(!is_held());
    }
}
