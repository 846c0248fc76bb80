//! The identity of a process, distinct from earlier and later processes with its number.

use std::fs;

use serde::Serialize;

/// A process of this PID namespace and boot: its number, which another process gets after it, and its start.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
pub struct ProcessIdentity {
    pub(super) pid: u32,
    pub(super) start_time: u64,
}

impl ProcessIdentity {
    /// Its number in its PID namespace.
    #[must_use]
    pub const fn pid(&self) -> u32 {
        self.pid
    }

    /// When it started, in clock ticks since the boot (of its time namespace). Two processes that have one number after
    /// each other differ in it, since numbers are given in turn and a tick is 10 ms.
    #[must_use]
    pub const fn start_time(&self) -> u64 {
        self.start_time
    }

    /// This process. `None` if `/proc` cannot be read or is of another PID namespace.
    #[must_use]
    pub fn current() -> Option<Self> {
        let pid = std::process::id();
        let stat = proc_is_of_this_namespace().then(|| Stat::read("/proc/self"))??;
        Some(Self { pid, start_time: stat.start_time })
    }
}

/// Whether `/proc` numbers processes as system calls of this process do. If it is of another PID namespace (the host's,
/// say, which a container sees), its folders are other processes than those that system calls reach by the same number.
/// `false` if that cannot be known. Takes some tens of microseconds.
#[must_use]
pub fn proc_is_of_this_namespace() -> bool {
    // The numbers of this process in the namespace of `/proc` and in each below it, down to its own.
    let own = std::process::id().to_string();
    fs::read_to_string("/proc/self/status").is_ok_and(|status| {
        let numbers = status.lines().find_map(|line| line.strip_prefix("NSpid:"));
        numbers.is_some_and(|numbers| numbers.split_whitespace().eq([own.as_str()]))
    })
}

/// Some fields of `/proc/PID/stat`, which is open to all users unless `/proc` hides processes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Stat {
    pub(super) is_zombie: bool,
    pub(super) is_kernel_thread: bool,
    /// It runs the program of its parent, with all that the parent had open and mapped.
    pub(super) is_fork: bool,
    pub(super) parent: u32,
    pub(super) threads: u64,
    pub(super) start_time: u64,
}

impl Stat {
    /// `folder` is that of the process, such as `/proc/1`.
    pub(super) fn read(folder: &str) -> Option<Self> {
        Self::parse(&fs::read(format!("{folder}/stat")).ok()?)
    }

    /// The name of the program, in parentheses, may hold any bytes, also spaces and parentheses.
    fn parse(line: &[u8]) -> Option<Self> {
        /// Of `PF_KTHREAD` in the kernel.
        const KERNEL_THREAD: u64 = 0x20_0000;
        /// Of `PF_FORKNOEXEC`.
        const FORK: u64 = 0x40;
        let name_end = line.iter().rposition(|byte| *byte == b')')?;
        let rest = std::str::from_utf8(line.get(name_end + 1..)?).ok()?;
        // The manual counts from 1, and two fields are before these.
        let fields: Vec<_> = rest.split_ascii_whitespace().take(20).collect();
        let number = |field: usize| fields.get(field - 3)?.parse::<u64>().ok();
        Some(Self {
            is_zombie: *fields.first()? == "Z",
            is_kernel_thread: number(9)? & KERNEL_THREAD != 0,
            is_fork: number(9)? & FORK != 0,
            parent: fields.get(1)?.parse().ok()?,
            threads: number(20)?,
            start_time: number(22)?,
        })
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn a_program_may_have_any_name() {
        let rest = b"S 1 2 2 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 3 0 777 8 9";
        let wanted = Stat {
            is_zombie: false,
            is_kernel_thread: false,
            is_fork: false,
            parent: 1,
            threads: 3,
            start_time: 777,
        };
        for name in [&b"cat"[..], b"a b", b") Z 1 (", b"\xFF\n)", b""] {
            let line = [b"123 (", name, b") ", rest].concat();
            assert_eq!(Stat::parse(&line), Some(wanted), "{name:?}");
        }
        let forked = b"7 (a) S 1 2 2 0 -1 4194368 1 2 3 4 5 6 7 8 20 0 3 0 777 8 9";
        assert!(Stat::parse(forked).unwrap().is_fork);
        let kernel = b"2 (kthreadd) S 0 0 0 0 -1 2129984 0 0 0 0 0 0 0 0 20 0 1 0 31 0";
        assert!(Stat::parse(kernel).unwrap().is_kernel_thread);
        for broken in [&b""[..], b"1 (a", b"1 (a)", b"1 (a) S 1 2 3", &kernel[..50]] {
            assert_eq!(Stat::parse(broken), None);
        }
    }

    #[test]
    fn this_process_started_after_the_first_one() {
        let me = ProcessIdentity::current().unwrap();
        assert_eq!(me.pid, std::process::id());
        assert_eq!(ProcessIdentity::current(), Some(me));
        let first = Stat::read("/proc/1").unwrap();
        assert!(first.start_time <= me.start_time && !first.is_zombie);
        assert!(Stat::read("/proc/0").is_none());
    }
}
