//! Limits of this process.

use nix::sys::resource::{Resource, getrlimit};

/// A limit of this process on what it may use.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub enum ProcessLimit {
    /// Bytes of address space.
    AddressSpace,
    /// Bytes of writable memory of its own.
    Data,
    /// Bytes of a file that it writes.
    FileSize,
    /// Open files.
    OpenFiles,
    /// Bytes of a thread's stack.
    Stack,
}

impl ProcessLimit {
    /// The limit in force. `None` without one, and where the system refuses the query, as filters of system calls do.
    #[must_use]
    pub fn soft(self) -> Option<u64> {
        let resource = match self {
            Self::AddressSpace => Resource::RLIMIT_AS,
            Self::Data => Resource::RLIMIT_DATA,
            Self::FileSize => Resource::RLIMIT_FSIZE,
            Self::OpenFiles => Resource::RLIMIT_NOFILE,
            Self::Stack => Resource::RLIMIT_STACK,
        };
        let (soft, _) = getrlimit(resource).ok()?;
        (soft != nix::sys::resource::RLIM_INFINITY).then_some(soft)
    }
}

#[cfg(all(test, not(miri)))]
mod tests {
    use super::*;

    #[test]
    fn limits_are_those_of_the_systems_table() {
        let table = std::fs::read_to_string("/proc/self/limits").unwrap_or_default();
        for (limit, name) in [
            (ProcessLimit::AddressSpace, "Max address space"),
            (ProcessLimit::Data, "Max data size"),
            (ProcessLimit::FileSize, "Max file size"),
            (ProcessLimit::OpenFiles, "Max open files"),
            (ProcessLimit::Stack, "Max stack size"),
        ] {
            let Some(line) = table.lines().find_map(|line| line.strip_prefix(name)) else { return };
            let soft = line.split_whitespace().next().and_then(|soft| soft.parse().ok());
            assert_eq!(limit.soft(), soft, "{name}");
        }
    }
}
