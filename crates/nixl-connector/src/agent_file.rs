//! The anonymous file that each agent of an engine holds open.
//!
//! Its name is the agent's, which proves that the agent [is on this host](crate::nixl). It contains the identity of the process that
//! made it: a child of a fork inherits the file and not the identity, so a process with a file of its own identity has made an agent
//! since it started.

use std::os::unix::fs::FileExt as _;

#[cfg(feature = "nixl")]
pub(crate) use made::{create, name};
use nixl_device::memfds_of;

const PREFIX: &str = "nixl-agent-";

/// Whether the process that started then has made an agent since.
pub(crate) fn has_agent_of_its_own(pid: u32, start_time: u64) -> bool {
    let expected = contents(pid, start_time);
    memfds_of(pid, PREFIX).iter().any(|file| {
        let mut found = [0; 12];
        file.read_exact_at(&mut found, 0).is_ok() && found == expected
    })
}

/// Identifier and start time, as the process's own PID namespace has them.
fn contents(pid: u32, start_time: u64) -> [u8; 12] {
    let mut bytes = [0; 12];
    bytes[..4].copy_from_slice(&pid.to_le_bytes());
    bytes[4..].copy_from_slice(&start_time.to_le_bytes());
    bytes
}

#[cfg(feature = "nixl")]
mod made {
    use std::os::fd::OwnedFd;

    use nixl_device::ProcessIdentity;
    use rustix::fs::{MemfdFlags, memfd_create};
    use rustix::io::pwrite;

    use super::{PREFIX, contents};

    /// The file of an agent of this process.
    pub(crate) fn create(agent: &str) -> rustix::io::Result<OwnedFd> {
        let file = memfd_create(name(agent), MemfdFlags::CLOEXEC)?;
        if let Some(process) = ProcessIdentity::current() {
            pwrite(&file, &contents(process.pid(), process.start_time()), 0)?;
        }
        Ok(file)
    }

    /// Its name. Agents' names are at most 255 bytes, files' 249.
    pub(crate) fn name(agent: &str) -> String {
        let end = agent.len();
        // The end is the random part.
        let start = (0..=end).find(|at| end - at <= 200 && agent.is_char_boundary(*at));
        format!("{PREFIX}{}", &agent[start.unwrap_or(end)..])
    }
}

#[cfg(all(test, feature = "nixl"))]
mod tests {
    use nixl_device::ProcessIdentity;

    use super::*;

    #[test]
    fn an_agent_is_its_processs_own_by_number_and_start() {
        let Some(process) = ProcessIdentity::current() else { return };
        let (pid, start) = (process.pid(), process.start_time());
        let file = create(&format!("own-{}", uuid::Uuid::new_v4()));
        assert!(file.is_ok() && has_agent_of_its_own(pid, start));
        // As in a child that inherited the file.
        assert!(!has_agent_of_its_own(pid, start + 1));
        assert!(!has_agent_of_its_own(1, start));
    }

    #[test]
    fn names_of_any_length_name_a_file() {
        for agent in ["a".repeat(255), "ä".repeat(127), String::from("b")] {
            assert!(create(&agent).is_ok(), "{agent}");
        }
    }
}
