//! A thread to which the kernel refuses io_uring, as Docker's default profile does.
#![allow(unsafe_code, reason = "sets a filter of system calls")]

use std::io;
use std::thread;

use anyhow::{Result, anyhow};

/// Runs `work` on a thread that may not set up a ring; neither may the threads that it starts.
pub(super) fn without_uring<T: Send>(work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
    thread::scope(|scope| {
        let filtered = scope.spawn(|| {
            forbid()?;
            work()
        });
        filtered.join().map_err(|_| anyhow!("the thread without io_uring panicked"))?
    })
}

fn forbid() -> io::Result<()> {
    const LOAD: u16 = (libc::BPF_LD | libc::BPF_W | libc::BPF_ABS) as u16;
    const IF_EQUAL: u16 = (libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K) as u16;
    const RETURN: u16 = (libc::BPF_RET | libc::BPF_K) as u16;
    let step = |code, k, jf| libc::sock_filter { code, jt: 0, jf, k };
    let mut steps = [
        step(LOAD, 0, 0), // The number of the call is the first field.
        step(IF_EQUAL, libc::SYS_io_uring_setup as u32, 1),
        step(RETURN, libc::SECCOMP_RET_ERRNO | libc::EPERM as u32, 0),
        step(RETURN, libc::SECCOMP_RET_ALLOW, 0),
    ];
    let filter = libc::sock_fprog { len: steps.len() as u16, filter: steps.as_mut_ptr() };
    let filter = &raw const filter;
    // SAFETY: it takes no pointers.
    let is_bound = unsafe { libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) } == 0;
    // SAFETY: the filter and its steps live until the call returns, which copies them.
    let is_set = is_bound
        && unsafe { libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_FILTER, filter) } == 0;
    if is_set { Ok(()) } else { Err(io::Error::last_os_error()) }
}
