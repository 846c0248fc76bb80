//! The application's handlers of signals, kept while UCX is loaded.
//!
//! UCX installs handlers of its own as its library loads, which print a backtrace and end the process or wait for a debugger. An
//! application may depend on its handlers: a runtime catches SIGSEGV, a server reads its settings anew at SIGHUP.
#![allow(unsafe_code, reason = "reads and restores handlers of signals")]

use std::mem::MaybeUninit;
use std::ptr;
use std::sync::{Mutex, MutexGuard};

use libc::{SIGBUS, SIGFPE, SIGHUP, SIGILL, SIGSEGV, c_int, sigaction};
use nixl_device::PerProcess;
use nixl_device::locks::lock;

/// The signals that UCX handles by default.
const SIGNALS: [c_int; 5] = [SIGHUP, SIGILL, SIGBUS, SIGFPE, SIGSEGV];

/// The handlers in force. Restored on drop, one holder at a time: another would take UCX's for the application's.
pub(super) struct Handlers {
    kept: [Option<sigaction>; SIGNALS.len()],
    _alone: MutexGuard<'static, ()>,
}

impl Handlers {
    /// Waits for another holder. **Blocks.**
    pub(super) fn keep() -> Self {
        static ALONE: PerProcess<Mutex<()>> = PerProcess::new(Mutex::default);
        let alone = lock(ALONE.get());
        Self { kept: SIGNALS.map(handler), _alone: alone }
    }
}

fn handler(signal: c_int) -> Option<sigaction> {
    let mut found = MaybeUninit::<sigaction>::uninit();
    // SAFETY: nothing is installed, and the place for the result is valid for writing.
    if unsafe { sigaction(signal, ptr::null(), found.as_mut_ptr()) } != 0 {
        return None;
    }
    // SAFETY: the call has succeeded, so it has written the result.
    Some(unsafe { found.assume_init() })
}

impl Drop for Handlers {
    fn drop(&mut self) {
        for (signal, kept) in SIGNALS.into_iter().zip(&self.kept) {
            let Some(kept) = kept else { continue };
            if handler(signal).is_some_and(|now| now.sa_sigaction != kept.sa_sigaction) {
                // SAFETY: the handler was this signal's before, with its flags and mask, and the application has not taken it back.
                unsafe { sigaction(signal, kept, ptr::null_mut()) };
            }
        }
    }
}
