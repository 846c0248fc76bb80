//! System calls that the kernel refuses, as the filters of containers do.
#![allow(unsafe_code, reason = "sets a filter of system calls")]

use std::io;
use std::mem::offset_of;
use std::os::unix::process::CommandExt as _;
use std::process::Command;

/// A refused system call.
#[derive(Clone, Copy, Debug)]
pub struct Refused {
    number: i64,
    first: Option<u32>,
}

impl Refused {
    /// A call by its number.
    pub fn call(number: i64) -> Self {
        Self { number, first: None }
    }

    /// A call with this first argument alone.
    pub fn with(number: i64, first: u32) -> Self {
        Self { number, first: Some(first) }
    }
}

/// Has the kernel refuse these calls to this thread, and to the threads and processes that it starts, with an error's number.
///
/// # Errors
///
/// The system's.
pub fn refuse(calls: &[Refused], errno: i32) -> io::Result<()> {
    set(&mut filter(calls, errno))
}

/// The program of a command, to which the kernel refuses these calls.
pub fn refusing<'a>(command: &'a mut Command, calls: &[Refused], errno: i32) -> &'a mut Command {
    let mut filter = filter(calls, errno);
    // SAFETY: between the fork and the program it calls the kernel alone.
    unsafe { command.pre_exec(move || set(&mut filter)) }
}

fn filter(calls: &[Refused], errno: i32) -> Vec<libc::sock_filter> {
    const LOAD: u16 = 0x20;
    const JUMP_IF_EQUAL: u16 = 0x15;
    const RETURN: u16 = 0x06;
    let step = |code, jf, k| libc::sock_filter { code, jt: 0, jf, k };
    let mut steps = Vec::new();
    for Refused { number, first } in calls {
        steps.push(step(LOAD, 0, offset_of!(libc::seccomp_data, nr) as u32));
        steps.push(step(JUMP_IF_EQUAL, 1 + 2 * u8::from(first.is_some()), *number as u32));
        if let Some(first) = first {
            steps.push(step(LOAD, 0, offset_of!(libc::seccomp_data, args) as u32));
            steps.push(step(JUMP_IF_EQUAL, 1, *first));
        }
        steps.push(step(RETURN, 0, libc::SECCOMP_RET_ERRNO | errno.unsigned_abs()));
    }
    steps.push(step(RETURN, 0, libc::SECCOMP_RET_ALLOW));
    steps
}

fn set(steps: &mut [libc::sock_filter]) -> io::Result<()> {
    let len = u16::try_from(steps.len()).map_err(|_| io::ErrorKind::InvalidInput)?;
    let filter = libc::sock_fprog { len, filter: steps.as_mut_ptr() };
    // SAFETY: it takes no pointers.
    let is_bound = unsafe { libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) } == 0;
    let filter = &raw const filter;
    // SAFETY: the filter and its steps outlive the call, which copies them.
    let is_set = is_bound
        && unsafe { libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_FILTER, filter) } == 0;
    if is_set { Ok(()) } else { Err(io::Error::last_os_error()) }
}
