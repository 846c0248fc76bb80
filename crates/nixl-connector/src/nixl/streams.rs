//! The numbers of standard streams, kept from the engine's files.
//!
//! Where a standard stream is closed, its number is the next that the system gives: the application's output would go into a socket
//! or a shared file of UCX. Rust's runtime opens the streams of its own programs at their start; a program in another language that
//! loads this library may have closed them.

use std::os::fd::{AsRawFd as _, BorrowedFd, IntoRawFd as _, OwnedFd};

use rustix::fs::{CWD, Mode, OFlags, openat};
use rustix::io::{Errno, fcntl_dupfd_cloexec, fcntl_getfd};
use rustix::stdio::{stderr, stdin, stdout};

/// The first number that no standard stream has.
const AFTER_STANDARD: i32 = 3;

/// Opens `/dev/null` under the numbers of closed standard streams.
pub(super) fn open_closed() {
    for stream in [stdin(), stdout(), stderr()] {
        if is_closed(stream) {
            fill(stream.as_raw_fd());
        }
    }
}

fn is_closed(stream: BorrowedFd<'_>) -> bool {
    fcntl_getfd(stream) == Err(Errno::BADF)
}

fn fill(number: i32) {
    // As a standard stream, it is inherited by other programs.
    let open = |path, flags| openat(CWD, path, flags, Mode::empty());
    let opened = open("/dev/null", OFlags::RDWR).or_else(|_| open("/", OFlags::PATH));
    // The system gives the lowest free number. Another thread may have taken this one meanwhile.
    if let Ok(file) = opened
        && file.as_raw_fd() == number
    {
        let _ = file.into_raw_fd();
    }
}

/// The same file under a number that no standard stream has.
pub(super) fn beyond_standard(file: OwnedFd) -> Result<OwnedFd, Errno> {
    match file.as_raw_fd() < AFTER_STANDARD {
        true => fcntl_dupfd_cloexec(&file, AFTER_STANDARD),
        false => Ok(file),
    }
}
