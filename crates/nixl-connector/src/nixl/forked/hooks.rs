//! The lock of UCX's memory hooks, which threads of the parent may have held at the fork.
//!
//! Most likely they did: such a thread waits in the kernel while that copies its memory.
#![allow(unsafe_code, reason = "calls functions of a library that is loaded already")]

use std::sync::mpsc::{RecvTimeoutError, channel};
use std::thread;
use std::time::Duration;

use super::super::ucx::Ucx;

/// The lock, which has shares.
#[derive(Clone, Copy)]
pub(super) struct Hooks {
    /// `ucm_event_enter_exclusive`.
    lock: unsafe extern "C" fn(),
    /// `ucm_event_leave`.
    unlock: unsafe extern "C" fn(),
}

impl Hooks {
    pub(super) fn of(ucx: &Ucx) -> Option<Self> {
        // SAFETY: the type is that of the function, of every UCX since 1.0.
        let lock = unsafe { ucx.function("ucm_event_enter_exclusive") }?;
        // SAFETY: as above.
        let unlock = unsafe { ucx.function("ucm_event_leave") }?;
        Some(Self { lock, unlock })
    }

    /// Gives back the shares that threads of the parent had.
    ///
    /// A thread that wants the lock for itself does not get it as long as there are any; those of this process's threads are held for
    /// microseconds.
    pub(super) fn give_back(self) {
        const LONG: Duration = Duration::from_millis(200);
        const MOST: usize = 64;
        let (got_it, has_got_it) = channel();
        let lock = move || {
            // SAFETY: it locks.
            unsafe { (self.lock)() };
            // SAFETY: this thread has locked it.
            unsafe { (self.unlock)() };
            let _ = got_it.send(());
        };
        if thread::Builder::new().name("nixl-forked".to_owned()).spawn(lock).is_err() {
            return;
        }
        for _ in 0..MOST {
            match has_got_it.recv_timeout(LONG) {
                Err(RecvTimeoutError::Timeout) => {}
                _ => return,
            }
            // SAFETY: a share is held by a thread that this process does not have.
            unsafe { (self.unlock)() };
        }
    }
}
