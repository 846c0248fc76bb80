//! Children of a fork.
#![allow(unsafe_code, reason = "forks")]
#![allow(
    clippy::print_stderr,
    reason = "what a child has to say belongs to the output of the test"
)]

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread;
use std::time::{Duration, Instant};

/// Runs `body` in a child that is forked from this process, and returns once it has ended. It ends by the C library's `exit` if it
/// `exits`, and at once if not.
///
/// # Panics
///
/// If the body panics, or has not ended by `limit`.
pub fn in_child(exits: bool, limit: Duration, body: impl FnOnce()) {
    let status = status_of_child(limit, || {
        let code = i32::from(catch_unwind(AssertUnwindSafe(body)).is_err());
        match exits {
            // SAFETY: the child has one thread but for those that it started.
            true => unsafe { libc::exit(code) },
            // SAFETY: as above.
            false => unsafe { libc::_exit(code) },
        }
    });
    assert_eq!(status, 0, "the child failed; see above");
}

/// Has a child of a fork call the C library's `exit` with the number that `body` gives, and returns its status as `waitpid` tells it.
///
/// # Panics
///
/// If the body panics, or the child has not ended by `limit`.
pub fn exit_of_child(limit: Duration, body: impl FnOnce() -> i32) -> i32 {
    // SAFETY: the child has one thread but for those that it started.
    status_of_child(limit, || unsafe { libc::exit(body()) })
}

/// Has the C library call this function when a process exits, after the functions of connectors that are built later.
///
/// # Panics
///
/// If the C library refuses.
pub fn at_exit(call: extern "C" fn()) {
    // SAFETY: the function is there as long as the process.
    assert_eq!(unsafe { libc::atexit(call) }, 0);
}

/// Runs `body` while another thread holds the lock of the C library's list of loaded libraries.
///
/// # Panics
///
/// If the body does.
pub fn with_the_loaders_lock_held(body: impl FnOnce()) {
    type Waits = (Sender<()>, Receiver<()>);
    unsafe extern "C" fn wait(
        _: *mut libc::dl_phdr_info,
        _: usize,
        data: *mut libc::c_void,
    ) -> libc::c_int {
        // SAFETY: it is what the walk below is given, which nothing else uses meanwhile.
        let (held, is_over) = unsafe { &*data.cast::<Waits>() };
        let _ = held.send(());
        // An error is the end of the body.
        let _ = is_over.recv();
        1
    }
    let (held, is_held) = channel();
    let (over, is_over) = channel::<()>();
    thread::scope(|scope| {
        scope.spawn(move || {
            let mut waits: Waits = (held, is_over);
            // SAFETY: the function has the type that the loader calls, and gets these channels alone.
            unsafe { libc::dl_iterate_phdr(Some(wait), (&raw mut waits).cast()) };
        });
        is_held.recv().expect("the walk begins");
        let _over = over;
        body();
    });
}

fn status_of_child(limit: Duration, body: impl FnOnce()) -> i32 {
    // SAFETY: what the child may find locked or missing is what is tested.
    let child = unsafe { libc::fork() };
    if child == 0 {
        body();
        // SAFETY: it ends this process.
        unsafe { libc::abort() };
    }
    assert!(child > 0, "no fork");
    let until = Instant::now() + limit;
    let mut status = 0;
    // SAFETY: the status is valid for writing.
    while unsafe { libc::waitpid(child, &raw mut status, libc::WNOHANG) } == 0 {
        if Instant::now() >= until {
            // SAFETY: the child is this process's, and not waited for yet.
            unsafe { libc::kill(child, libc::SIGKILL) };
            // SAFETY: as above.
            unsafe { libc::waitpid(child, &raw mut status, 0) };
            panic!("the child has not ended within {limit:?}");
        }
        thread::sleep(Duration::from_millis(1));
    }
    status
}
