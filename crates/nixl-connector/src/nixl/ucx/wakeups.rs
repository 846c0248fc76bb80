//! The Unix sockets on which UCX is woken.
//!
//! UCX's transports of shared memory wake a process by a datagram of one byte, to a socket with an abstract name: any process of the
//! network namespace, of whichever user, can send to it. UCX takes an empty datagram for the end of a connection, and ends the
//! process ("failed to arm iface"). So the kernel drops empty ones.
//!
//! UCX opens its sockets without `FD_CLOEXEC`. Programs that this process starts do not get these.
#![allow(unsafe_code, reason = "asks sockets of UCX, which this library does not own")]

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::os::fd::{BorrowedFd, RawFd};

use rustix::io::{FdFlags, fcntl_setfd};
use rustix::net::sockopt::socket_type;
use rustix::net::{RecvFlags, SocketAddrUnix, SocketType, getsockname, recv};

use super::filter::Filter;

/// The sockets that were open before UCX made its own, by their links in `/proc`.
#[derive(Debug)]
pub(in crate::nixl) struct WakeUps {
    before: BTreeSet<(RawFd, String)>,
}

impl WakeUps {
    pub(in crate::nixl) fn before() -> Self {
        Self { before: sockets().unwrap_or_default() }
    }

    /// Has the kernel drop empty datagrams to the sockets that were opened since, and close these in programs that are started.
    pub(in crate::nixl) fn keep_apart(&self) {
        let result = sockets().and_then(|sockets| {
            let new = sockets.difference(&self.before).map(|(number, _)| *number);
            new.filter(|number| is_named_by_the_kernel(*number)).try_for_each(|number| {
                close_on_exec(number)?;
                drop_empty(number)
            })
        });
        if let Err(error) = result {
            tracing::warn!(
                %error,
                "empty datagrams to UCX's Unix sockets are not dropped: any process of this network namespace can end this one"
            );
        }
    }
}

/// Has the kernel close a descriptor of UCX in programs that this process starts.
pub(in crate::nixl) fn close_on_exec(number: RawFd) -> io::Result<()> {
    // SAFETY: a descriptor that was closed meanwhile is an error of this call.
    let descriptor = unsafe { BorrowedFd::borrow_raw(number) };
    Ok(fcntl_setfd(descriptor, FdFlags::CLOEXEC)?)
}

fn sockets() -> io::Result<BTreeSet<(RawFd, String)>> {
    let entries = fs::read_dir("/proc/self/fd")?.flatten();
    let socket = |entry: fs::DirEntry| {
        let link = fs::read_link(entry.path()).ok()?.to_str()?.to_owned();
        let number = entry.file_name().to_str()?.parse().ok()?;
        link.starts_with("socket:[").then_some((number, link))
    };
    Ok(entries.filter_map(socket).collect())
}

/// Whether it is a Unix socket for datagrams with a name of five digits that the kernel chose, as UCX's are.
fn is_named_by_the_kernel(number: RawFd) -> bool {
    const DIGITS: usize = 5;
    // SAFETY: a descriptor that was closed meanwhile is an error of these calls, and another one of this number is asked the same.
    let socket = unsafe { BorrowedFd::borrow_raw(number) };
    if socket_type(socket) != Ok(SocketType::DGRAM) {
        return false;
    }
    let name = getsockname(socket).ok().and_then(|name| SocketAddrUnix::try_from(name).ok());
    let digits = |name: &[u8]| name.len() == DIGITS && name.iter().all(u8::is_ascii_hexdigit);
    name.is_some_and(|name| name.abstract_name().is_some_and(digits))
}

fn drop_empty(number: RawFd) -> io::Result<()> {
    /// More than the kernel queues for a socket of datagrams (`net.unix.max_dgram_qlen`); what comes later passed the filter.
    const QUEUED: usize = 1 << 14;
    Filter::not_empty().attach(number)?;
    // What came before the filter: no peer knows the socket yet.
    // SAFETY: a descriptor that was closed meanwhile is an error of the calls.
    let socket = unsafe { BorrowedFd::borrow_raw(number) };
    let mut queued = (0..QUEUED).map(|_| recv(socket, &mut [0; 1], RecvFlags::DONTWAIT));
    queued.find(Result::is_err);
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::io::ErrorKind;
    use std::os::fd::AsRawFd as _;
    use std::os::linux::net::SocketAddrExt as _;
    use std::os::unix::net::{SocketAddr, UnixDatagram};

    use rustix::io::fcntl_getfd;

    use super::*;

    #[test]
    fn empty_datagrams_are_dropped_and_others_arrive() {
        let before = WakeUps::before();
        // An abstract name of no bytes is chosen by the kernel.
        let socket = rustix::net::socket(rustix::net::AddressFamily::UNIX, SocketType::DGRAM, None);
        let socket = UnixDatagram::from(socket.unwrap());
        let name = format!("{:05x}", std::process::id() % 0x10_0000);
        let address = SocketAddrUnix::new_abstract_name(name.as_bytes()).unwrap();
        rustix::net::bind(&socket, &address).unwrap();
        let address = SocketAddr::from_abstract_name(&name).unwrap();
        let other = UnixDatagram::unbound().unwrap();
        other.send_to_addr(b"", &address).unwrap();
        before.keep_apart();
        assert!(fcntl_getfd(&socket).unwrap().contains(FdFlags::CLOEXEC));
        socket.set_nonblocking(true).unwrap();
        let mut byte = [0];
        let nothing =
            |received: io::Result<usize>| received.unwrap_err().kind() == ErrorKind::WouldBlock;
        assert!(nothing(socket.recv(&mut byte)), "it came before the filter");
        other.send_to_addr(b"", &address).unwrap();
        assert!(nothing(socket.recv(&mut byte)));
        other.send_to_addr(b"x", &address).unwrap();
        assert_eq!((socket.recv(&mut byte).unwrap(), byte), (1, *b"x"));
        assert!(!is_named_by_the_kernel(other.as_raw_fd()));
    }
}
