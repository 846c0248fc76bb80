//! Processes that have an anonymous file of a given name open.

use std::collections::HashSet;
use std::fs;
use std::os::unix::ffi::OsStrExt as _;

/// Those of the candidates that have an anonymous file (`memfd_create`) of this name open. A process that this one may not look
/// into is not among them. Takes some microseconds for each descriptor of each candidate.
pub fn memfd_holders(
    name: &str,
    candidates: impl Iterator<Item = u32>,
) -> impl Iterator<Item = u32> {
    let link = format!("/memfd:{name} (deleted)");
    let mut seen = HashSet::new();
    candidates.filter(move |pid| seen.insert(*pid) && has(*pid, link.as_bytes()))
}

fn has(pid: u32, wanted: &[u8]) -> bool {
    let Ok(descriptors) = fs::read_dir(format!("/proc/{pid}/fd")) else { return false };
    let links = descriptors.flatten().filter_map(|entry| fs::read_link(entry.path()).ok());
    links.into_iter().any(|link| link.as_os_str().as_bytes() == wanted)
}

#[cfg(test)]
mod tests {
    use rustix::fs::{MemfdFlags, memfd_create};

    use super::*;

    #[test]
    fn the_process_that_has_the_file_is_found_as_long_as_it_has() {
        let name = format!("holders-{}", std::process::id());
        let here = || memfd_holders(&name, [1, std::process::id(), u32::MAX].into_iter()).count();
        assert_eq!(here(), 0);
        let file = memfd_create(&*name, MemfdFlags::CLOEXEC);
        assert!(file.is_ok());
        assert_eq!(here(), 1);
        drop(file);
        assert_eq!(here(), 0);
    }
}
