//! Whether a process has ended.

use std::fmt;
use std::io;
use std::os::fd::OwnedFd;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, pidfd_open};

/// A process of this PID namespace, to be asked whether it has ended: that very one, whoever gets its number afterwards.
pub struct Process {
    handle: OwnedFd,
    pid: u32,
}

impl Process {
    /// The process of this number. It may have ended already, if its parent has not looked yet.
    ///
    /// # Errors
    ///
    /// What the system says: there is no such process, it is a thread, there are too many open files, or the kernel is
    /// older than Linux 5.3.
    pub fn open(pid: u32) -> io::Result<Self> {
        let none = || io::Error::from(io::ErrorKind::NotFound);
        let number = i32::try_from(pid).ok().and_then(Pid::from_raw).ok_or_else(none)?;
        Ok(Self { handle: pidfd_open(number, PidfdFlags::empty())?, pid })
    }

    /// Whether it has ended, with all its threads: its memory is unmapped then and its devices are closed, unless a child
    /// of its shares them. So nothing that it began touches memory any more. `false` if that cannot be asked just now.
    #[must_use]
    pub fn has_ended(&self) -> bool {
        let mut handles = [PollFd::new(&self.handle, PollFlags::IN)];
        let now = Timespec { tv_sec: 0, tv_nsec: 0 };
        poll(&mut handles, Some(&now)).is_ok_and(|ready| ready > 0)
    }
}

impl fmt::Debug for Process {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Process").field("pid", &self.pid).finish_non_exhaustive()
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use std::process::{Command, Stdio};

    use super::*;

    #[test]
    fn a_child_has_ended_once_it_was_killed_even_if_nobody_waits() {
        let mut child = Command::new("cat").stdin(Stdio::piped()).spawn().unwrap();
        let process = Process::open(child.id()).unwrap();
        assert!(!process.has_ended());
        child.kill().unwrap();
        while !process.has_ended() {
            std::thread::yield_now();
        }
        // It is what only its parent can remove.
        assert!(Process::open(child.id()).unwrap().has_ended());
        child.wait().unwrap();
        assert!(process.has_ended());
    }

    #[test]
    fn what_is_no_process_is_an_error() {
        for pid in [0, u32::MAX, i32::MAX as u32] {
            assert!(Process::open(pid).is_err(), "{pid}");
        }
        assert!(!Process::open(std::process::id()).unwrap().has_ended());
    }
}
