//! The epoll set of UCX's thread, as reported by the kernel.
#![allow(unsafe_code, reason = "replaces a descriptor of UCX's")]

use std::fs;
use std::os::fd::{AsRawFd as _, BorrowedFd, FromRawFd as _, IntoRawFd as _, OwnedFd, RawFd};

use rustix::event::epoll;
use rustix::io::DupFlags;

use super::super::listener::Listener;

/// An entry of an epoll set.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Registration {
    pub(super) fd: RawFd,
    data: u64,
}

impl Registration {
    /// The format of `/proc/self/fdinfo`: `tfd:       20 events:       19 data:                0  pos:0 ino:14 sdev:10`.
    fn parse(line: &str) -> Option<Self> {
        let mut words = line.strip_prefix("tfd:")?.split_whitespace();
        let fd = words.next()?.parse().ok()?;
        let (_, _) = (words.next().filter(|word| *word == "events:")?, words.next()?);
        let data = words.next().filter(|word| *word == "data:").and_then(|_| words.next())?;
        Some(Self { fd, data: u64::from_str_radix(data, 16).ok()? })
    }

    /// All entries of a set whose data are its descriptors, as in that of UCX's thread. `None` for any other set.
    pub(super) fn all_of_ucx(set: RawFd) -> Option<Vec<Self>> {
        let info = fs::read_to_string(format!("/proc/self/fdinfo/{set}")).ok()?;
        let lines = info.lines().filter(|line| line.starts_with("tfd:"));
        let all: Vec<Self> = lines.map(Self::parse).collect::<Option<_>>()?;
        let is_ucx = |one: &Self| u64::try_from(one.fd) == Ok(one.data);
        (!all.is_empty() && all.iter().all(is_ucx)).then_some(all)
    }
}

/// The epoll set that waits for the agent's connections.
pub(super) fn set_with(listener: &Listener) -> Option<RawFd> {
    let (mut sets, mut listening) = (Vec::new(), Vec::new());
    for entry in fs::read_dir("/proc/self/fd").ok()?.flatten() {
        let number = entry.file_name().to_str().and_then(|name| name.parse::<RawFd>().ok());
        let (Some(fd), Ok(link)) = (number, fs::read_link(entry.path())) else { continue };
        let Some(link) = link.to_str() else { continue };
        if link == "anon_inode:[eventpoll]" {
            sets.push(fd);
        } else if listener.is_one(link) {
            listening.push(fd);
        }
    }
    let waits = |set: &RawFd| {
        let registered = Registration::all_of_ucx(*set);
        registered.is_some_and(|all| all.iter().any(|one| listening.contains(&one.fd)))
    };
    sets.into_iter().find(waits)
}

/// Replaces the descriptor by that of a new set, for this process alone, with all other descriptors that epoll accepts. Returns
/// these.
pub(super) fn replace(set: RawFd) -> rustix::io::Result<Vec<RawFd>> {
    let new = epoll::create(epoll::CreateFlags::CLOEXEC)?;
    let open = fs::read_dir("/proc/self/fd").map_err(|_| rustix::io::Errno::NOENT)?;
    let numbers = open.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    // Read completely first: the listing has a descriptor itself.
    let numbers: Vec<RawFd> = numbers.collect();
    let mut waited_for = Vec::with_capacity(numbers.len());
    for number in numbers.into_iter().filter(|number| ![set, new.as_raw_fd()].contains(number)) {
        let data = epoll::EventData::new_u64(u64::from(number.unsigned_abs()));
        // SAFETY: it was open a moment ago; if it is closed by now, the kernel refuses it.
        let fd = unsafe { BorrowedFd::borrow_raw(number) };
        // epoll refuses files, which need no wait.
        if epoll::add(&new, fd, data, epoll::EventFlags::empty()).is_ok() {
            waited_for.push(number);
        }
    }
    // SAFETY: UCX owns it, and gets it back below.
    let mut old = unsafe { OwnedFd::from_raw_fd(set) };
    let replaced = rustix::io::dup3(&new, &mut old, DupFlags::CLOEXEC);
    let _ = old.into_raw_fd();
    replaced.map(|()| waited_for)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn registrations_are_read_as_the_kernel_writes_them() {
        let line = "tfd:       20 events:     2019 data:               1c  pos:0 ino:14 sdev:10";
        let read = Registration { fd: 20, data: 0x1c };
        assert_eq!(Registration::parse(line), Some(read));
        for bad in ["", "pos:\t0", "tfd: x events: 1 data: 1", "tfd: 1 data: 1", "tfd: 1 events: 1"]
        {
            assert_eq!(Registration::parse(bad), None, "{bad:?}");
        }
    }

    #[test]
    fn a_set_is_replaced_by_one_with_all_descriptors() {
        let (reader, _writer) = rustix::pipe::pipe().unwrap();
        let set = epoll::create(epoll::CreateFlags::CLOEXEC).unwrap();
        let shared = rustix::io::dup(&set).unwrap();
        let number = set.as_raw_fd();
        assert_eq!(Registration::all_of_ucx(number), None, "an empty set is not UCX's");
        let data = epoll::EventData::new_u64(u64::from(reader.as_raw_fd().unsigned_abs()));
        epoll::add(&set, &reader, data, epoll::EventFlags::IN).unwrap();
        let registered = Registration::all_of_ucx(number).unwrap();
        assert!(replace(number).unwrap().contains(&reader.as_raw_fd()));
        // What UCX removes from it stays in the one that it was, which the parent has.
        epoll::delete(&set, &reader).unwrap();
        assert_eq!(Registration::all_of_ucx(shared.as_raw_fd()), Some(registered));
    }
}
