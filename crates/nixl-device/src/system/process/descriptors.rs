//! Open file descriptors of a process.

use std::ffi::CStr;
use std::os::fd::{AsFd, BorrowedFd};

use rustix::fs::{CWD, Dir, Mode, OFlags, openat, readlinkat_raw};
use rustix::io::{Errno, Result};

/// Calls `see` with the number of each descriptor of the process (or thread) that `folder` is of, such as `/proc/1`, the
/// first bytes of its link, and the folder in which the number is the name of that link. Ends early if `see` returns `false`.
/// Without a query of a file system, so one that hangs does not matter.
pub(crate) fn each_descriptor(
    folder: &str,
    mut see: impl FnMut(&CStr, &[u8], BorrowedFd<'_>) -> bool,
) -> Result<()> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let folder = openat(CWD, format!("{folder}/fd"), flags, Mode::empty())?;
    let mut link = [0; 64];
    for entry in Dir::read_from(&folder)? {
        let entry = entry?;
        let name = entry.file_name();
        if name.to_bytes().starts_with(b".") {
            continue;
        }
        match readlinkat_raw(&folder, name, &mut link[..]) {
            Ok(len) => {
                if !see(name, &link[..len], folder.as_fd()) {
                    break;
                }
            }
            // It was closed since.
            Err(Errno::NOENT) => {}
            Err(errno) => return Err(errno),
        }
    }
    Ok(())
}

/// The number of a socket in `/proc`, if such a link leads to one.
pub(crate) fn socket_inode(link: &[u8]) -> Option<u64> {
    let digits = link.strip_prefix(b"socket:[")?.strip_suffix(b"]")?;
    std::str::from_utf8(digits).ok()?.parse().ok()
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use std::os::fd::AsRawFd;

    use super::*;

    #[test]
    fn sockets_and_files_are_among_the_own_descriptors() {
        let socket = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        let inode = rustix::fs::fstat(&socket).unwrap().st_ino;
        let number = socket.as_raw_fd().to_string();
        let mut seen = Vec::new();
        each_descriptor("/proc/self", |name, link, _| {
            seen.push((name.to_str().unwrap().to_owned(), socket_inode(link)));
            true
        })
        .unwrap();
        assert!(seen.contains(&(number, Some(inode))), "{seen:?}");
        assert!(seen.iter().any(|(_, inode)| inode.is_none()));
        assert_eq!(each_descriptor("/proc/0", |_, _, _| true).unwrap_err(), Errno::NOENT);
    }

    #[test]
    fn other_links_are_no_sockets() {
        assert_eq!(socket_inode(b"socket:[12]"), Some(12));
        for link in [&b"pipe:[12]"[..], b"socket:[]", b"socket:[1", b"socket:[x]", b"/socket:[1]"] {
            assert_eq!(socket_inode(link), None);
        }
    }
}
