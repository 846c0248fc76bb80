//! Detection of refused calls of epoll: UCX ends the process at the first.
#![allow(
    unsafe_code,
    reason = "calls the C library as UCX does, where a filter may tell its variants apart"
)]

use std::io;
use std::os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd};

use super::library::NixlUnavailable;

/// Refuses an agent if the system refuses a call of epoll.
pub(super) fn check() -> Result<(), NixlUnavailable> {
    try_all().map_err(|(call, error)| NixlUnavailable::Start {
        what: "backend",
        reason: format!("UCX needs the system call {call}, which is refused: {error}; permit it in the filter of system calls"),
    })
}

fn try_all() -> Result<(), (&'static str, io::Error)> {
    let create = || {
        // SAFETY: it takes any size.
        let set = unsafe { libc::epoll_create(1) };
        match set < 0 {
            true => Err(("epoll_create", io::Error::last_os_error())),
            // SAFETY: it is open, and nothing else owns it.
            false => Ok(unsafe { OwnedFd::from_raw_fd(set) }),
        }
    };
    let (set, watched) = (create()?, create()?);
    let done = |call, result: i32| match result < 0 {
        true => Err((call, io::Error::last_os_error())),
        false => Ok(()),
    };
    let mut event = libc::epoll_event { events: libc::EPOLLIN as u32, u64: 0 };
    let (number, of) = (set.as_raw_fd(), watched.as_raw_fd());
    // SAFETY: both are open, and the event is valid during the call.
    done("epoll_ctl", unsafe { libc::epoll_ctl(number, libc::EPOLL_CTL_ADD, of, &raw mut event) })?;
    // SAFETY: there is room for one event, and it does not wait.
    done("epoll_wait", unsafe { libc::epoll_wait(number, &raw mut event, 1, 0) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calls_that_are_permitted_are_no_error() {
        assert_eq!(check(), Ok(()));
    }
}
