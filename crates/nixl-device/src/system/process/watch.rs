//! A watch for the end of a process.

use std::fmt;
use std::io;
use std::os::fd::OwnedFd;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, child_subreaper, pidfd_open};

use super::identity::{ProcessIdentity, Stat, proc_is_of_this_namespace};
use crate::SharedError;

/// A watch for the end of a process of this PID namespace, also if another process gets its number afterwards.
pub struct ProcessWatch {
    handle: OwnedFd,
    pid: u32,
}

/// Why a process cannot be watched.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ProcessError {
    /// No process has the number.
    #[error(
        "there is no process {pid}: it has ended, or its number is of another PID namespace, which both sides then need \
         to share (hostPID, shareProcessNamespace, --pid)"
    )]
    NotThere {
        /// The number.
        pid: u32,
    },
    /// A security module or a filter of system calls forbids it.
    #[error(
        "process {pid} may not be watched: {error}. Allow the system call pidfd_open in the container's seccomp profile \
         and security module"
    )]
    NotAllowed {
        /// The number of the process.
        pid: u32,
        /// The error of the system.
        #[source]
        error: SharedError,
    },
    /// The number is that of a thread.
    #[error(
        "{pid} is the number of a thread, not of a process: name the process that it belongs to"
    )]
    IsThread {
        /// The number.
        pid: u32,
    },
    /// The kernel cannot.
    #[error("processes cannot be watched: pidfd_open is missing, which Linux has since 5.3")]
    Unsupported,
    /// Something else is short, such as descriptors.
    #[error("process {pid} cannot be watched: {error}. Raise the limit of open files (ulimit -n)")]
    Refused {
        /// The number of the process.
        pid: u32,
        /// The error of the system.
        #[source]
        error: SharedError,
    },
}

impl ProcessWatch {
    /// The process of this number. It may have ended already, if its parent has not looked yet. Takes some microseconds.
    ///
    /// # Errors
    ///
    /// [`ProcessError`]
    pub fn open(pid: u32) -> Result<Self, ProcessError> {
        let number = i32::try_from(pid).ok().and_then(Pid::from_raw);
        let number = number.ok_or(ProcessError::NotThere { pid })?;
        match pidfd_open(number, PidfdFlags::empty()) {
            Ok(handle) => Ok(Self { handle, pid }),
            Err(Errno::SRCH) => Err(ProcessError::NotThere { pid }),
            // Kernels differ in what they say of a thread.
            Err(Errno::INVAL | Errno::NOENT) => Err(ProcessError::IsThread { pid }),
            Err(Errno::NOSYS) => Err(ProcessError::Unsupported),
            Err(errno @ (Errno::PERM | Errno::ACCESS)) => {
                Err(ProcessError::NotAllowed { pid, error: io::Error::from(errno).into() })
            }
            Err(errno) => Err(ProcessError::Refused { pid, error: io::Error::from(errno).into() }),
        }
    }

    /// The process of a descriptor that [`pidfd_open`](https://man7.org/linux/man-pages/man2/pidfd_open.2.html) made, as one that another
    /// process sent. It may be of another PID namespace, so its number is not known here.
    #[must_use]
    pub fn of_descriptor(handle: OwnedFd) -> Self {
        Self { handle, pid: 0 }
    }

    pub(super) fn handle(&self) -> &OwnedFd {
        &self.handle
    }

    /// The number it was opened by; 0 if by a [descriptor](Self::of_descriptor). Another process may have it once this one has ended.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// Whether it has ended, with all its threads: its memory is unmapped then and its devices are closed, unless a child
    /// of its shares them ([`Holders`](super::Holders) finds it). So nothing that it began by itself touches memory any
    /// more; what it has sent does, once it is read. `false` if that cannot be asked just now. Takes about a microsecond.
    #[must_use]
    pub fn has_ended(&self) -> bool {
        let mut handles = [PollFd::new(&self.handle, PollFlags::IN)];
        let now = Timespec { tv_sec: 0, tv_nsec: 0 };
        poll(&mut handles, Some(&now)).is_ok_and(|ready| ready > 0)
    }

    /// When it started, as [`ProcessIdentity::start_time`]. `None` once it has ended, and where `/proc` cannot be read,
    /// hides the process, or is of another PID namespace. Takes some tens of microseconds.
    #[must_use]
    pub fn start_time(&self) -> Option<u64> {
        let folder = format!("/proc/{}", self.pid);
        let stat = proc_is_of_this_namespace().then(|| Stat::read(&folder))??;
        // Its number was not given to another as long as it had not ended.
        (!self.has_ended()).then_some(stat.start_time)
    }

    /// Whether this process has started it. `false` of a process that has ended, and if that is not known: in a process that gets the
    /// orphans of others (the first of a PID namespace, and a subreaper).
    #[must_use]
    pub fn is_child(&self) -> bool {
        let adopts = std::process::id() == 1 || !matches!(child_subreaper(), Ok(None));
        if adopts || !proc_is_of_this_namespace() {
            return false;
        }
        let stat = Stat::read(&format!("/proc/{}", self.pid));
        stat.is_some_and(|stat| stat.parent == std::process::id()) && !self.has_ended()
    }

    /// Which process it is. `None` as for [`start_time`](Self::start_time).
    #[must_use]
    pub fn identity(&self) -> Option<ProcessIdentity> {
        Some(ProcessIdentity { pid: self.pid, start_time: self.start_time()? })
    }

    /// Whether it runs and is the process that started then, not another that got the number of one that has ended.
    #[must_use]
    pub fn is(&self, start_time: u64) -> bool {
        self.start_time() == Some(start_time)
    }
}

impl fmt::Debug for ProcessWatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ProcessWatch").field("pid", &self.pid).finish_non_exhaustive()
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use std::process::{Command, Stdio};

    use super::*;

    #[test]
    fn a_child_has_ended_once_it_was_killed_even_before_it_is_waited_for() {
        let mut child = Command::new("cat").stdin(Stdio::piped()).spawn().unwrap();
        let process = ProcessWatch::open(child.id()).unwrap();
        assert!(!process.has_ended());
        child.kill().unwrap();
        while !process.has_ended() {
            std::thread::yield_now();
        }
        // It is what only its parent can remove.
        assert!(ProcessWatch::open(child.id()).unwrap().has_ended());
        child.wait().unwrap();
        assert!(process.has_ended());
    }

    #[test]
    fn a_process_is_told_by_its_start_as_long_as_it_runs() {
        let mut child = Command::new("cat").stdin(Stdio::piped()).spawn().unwrap();
        let process = ProcessWatch::open(child.id()).unwrap();
        let identity = process.identity().unwrap();
        assert_eq!(identity.pid, process.pid());
        assert!(identity.start_time >= ProcessIdentity::current().unwrap().start_time);
        assert!(process.is(identity.start_time));
        assert!(process.is_child() || std::process::id() == 1);
        // What a process that had the number before would have said.
        assert!(!process.is(identity.start_time - 1));
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(!process.is(identity.start_time));
        assert_eq!((process.start_time(), process.identity()), (None, None));
        assert!(!process.is_child());
        let myself = ProcessWatch::open(std::process::id()).unwrap();
        assert_eq!(myself.identity(), ProcessIdentity::current());
        assert!(!myself.is_child());
    }

    #[test]
    fn what_is_no_process_is_an_error() {
        for pid in [0, u32::MAX, i32::MAX as u32] {
            let error = ProcessWatch::open(pid).unwrap_err();
            assert_eq!(error, ProcessError::NotThere { pid });
        }
        assert!(!ProcessWatch::open(std::process::id()).unwrap().has_ended());
    }

    #[test]
    fn a_thread_is_no_process() {
        let thread = std::thread::spawn(|| {
            let pid = rustix::thread::gettid().as_raw_nonzero().get().unsigned_abs();
            (pid, ProcessWatch::open(pid).unwrap_err())
        });
        let (pid, error) = thread.join().unwrap();
        assert_eq!(error, ProcessError::IsThread { pid });
    }
}
