//! Handlers of signals.
#![allow(unsafe_code, reason = "installs and reads handlers of signals")]

use std::mem;
use std::ptr;

/// The signals that UCX would handle.
const SIGNALS: [libc::c_int; 5] =
    [libc::SIGHUP, libc::SIGILL, libc::SIGBUS, libc::SIGFPE, libc::SIGSEGV];

extern "C" fn ignore(_: libc::c_int) {}

/// Installs a handler for each signal that UCX would handle, but for the first, whose default stays. Returns the
/// [handlers](handlers_of_signals).
///
/// # Panics
///
/// If the system refuses.
pub fn install_handlers() -> Vec<usize> {
    for signal in &SIGNALS[1..] {
        // SAFETY: all zero is a handler without flags and mask.
        let mut action: libc::sigaction = unsafe { mem::zeroed() };
        let handler: extern "C" fn(libc::c_int) = ignore;
        action.sa_sigaction = handler as usize;
        // SAFETY: the handler does nothing, and is there as long as the process.
        assert_eq!(unsafe { libc::sigaction(*signal, &raw const action, ptr::null_mut()) }, 0);
    }
    handlers_of_signals()
}

/// The handlers in force of the signals that UCX would handle.
pub fn handlers_of_signals() -> Vec<usize> {
    let handler = |signal| {
        // SAFETY: as above.
        let mut action: libc::sigaction = unsafe { mem::zeroed() };
        // SAFETY: nothing is installed, and the result is valid for writing.
        unsafe { libc::sigaction(signal, ptr::null(), &raw mut action) };
        action.sa_sigaction
    };
    SIGNALS.map(handler).to_vec()
}
