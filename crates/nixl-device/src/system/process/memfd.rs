//! Processes that have an anonymous file of a given name open.

use std::collections::HashSet;
use std::fs::{self, File};
use std::os::unix::ffi::OsStrExt as _;

use rustix::fs::{Mode, OFlags, open};

use super::descriptors::each_descriptor;

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

/// The anonymous files of a process whose names begin with this, opened for reading: those that this process may open. Names of more
/// than 50 bytes are compared as far as that.
#[must_use]
pub fn memfds_of(pid: u32, beginning: &str) -> Vec<File> {
    let (beginning, folder) = (format!("/memfd:{beginning}"), format!("/proc/{pid}"));
    let mut numbers = Vec::new();
    // Of a process that may not be looked into, or has ended, there are none.
    let _ = each_descriptor(&folder, |number, link, _| {
        if link.starts_with(beginning.as_bytes()) {
            numbers.push(number.to_owned());
        }
        true
    });
    // Not before all are listed: this process's own would be listed as well.
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK;
    let opened = numbers.into_iter().filter_map(|number| {
        let path = format!("{folder}/fd/{}", number.to_str().ok()?);
        open(path, flags, Mode::empty()).ok()
    });
    opened.map(File::from).collect()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::FileExt as _;

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

    #[test]
    fn files_are_opened_by_the_beginning_of_their_names() {
        let name = format!("opened-{}-", std::process::id());
        assert!(memfds_of(std::process::id(), &name).is_empty());
        let file = memfd_create(format!("{name}c"), MemfdFlags::CLOEXEC).map(File::from);
        assert!(file.is_ok_and(|file| {
            let mut found = [0];
            let opened = memfds_of(std::process::id(), &name);
            file.write_all_at(b"3", 0).is_ok()
                && opened.len() == 1
                && opened[0].read_exact_at(&mut found, 0).is_ok()
                && found == *b"3"
        }));
        assert!(memfds_of(u32::MAX, &name).is_empty());
    }
}
