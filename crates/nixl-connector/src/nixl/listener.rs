//! The listening sockets of UCX.
//!
//! UCX closes its listening socket for good if it cannot accept a connection, for example at the limit of open files. From then
//! on peers without a connection cannot reach this agent, and NIXL does not report it.

use std::collections::HashSet;
use std::fs;
use std::io;
use std::net::IpAddr;
use std::os::fd::RawFd;

use nixl_device::{TcpSocket, TcpState};

use super::ucx::{Filter, close_on_exec};

/// The listening sockets of one agent.
#[derive(Debug)]
pub(super) struct Listener {
    inodes: HashSet<u64>,
}

impl Listener {
    /// The sockets that are open now, by inode and port; listed before the agent is made, and after.
    pub(super) fn open_now() -> Vec<(u64, u16)> {
        // Without the list the sockets are not watched.
        let sockets = TcpSocket::all_of_this_process().unwrap_or_default();
        let listening = sockets.into_iter().filter(|socket| socket.state() == TcpState::Listen);
        listening.filter_map(|socket| Some((socket.inode(), socket.local()?.port()))).collect()
    }

    /// The sockets of the agent: opened since `before`, on a port in its connection details.
    pub(super) fn found(before: &[(u64, u16)], after: &[(u64, u16)], details: &[u8]) -> Self {
        let names = |port: u16| {
            let both = [port.to_be_bytes(), port.to_le_bytes()];
            details.windows(2).any(|window| both.iter().any(|bytes| window == bytes))
        };
        let is_new = |socket: &&(u64, u16)| !before.contains(socket) && names(socket.1);
        Self { inodes: after.iter().filter(is_new).map(|(inode, _)| *inode).collect() }
    }

    /// Has the kernel close them in programs that this process starts: UCX does not, and a program that outlives this process would
    /// keep the port open.
    pub(super) fn keep_apart(&self) {
        if let Err(error) = self.descriptors().into_iter().try_for_each(close_on_exec) {
            tracing::warn!(%error, "programs that this process starts inherit a listening socket of UCX");
        }
    }

    /// Has the kernel drop connections of other networks. Returns the number of the sockets.
    pub(super) fn admit(&self, networks: &[(IpAddr, u8)]) -> io::Result<usize> {
        let mut filter = Filter::from_networks(networks);
        let descriptors = self.descriptors();
        descriptors.iter().try_for_each(|number| filter.attach(*number))?;
        Ok(descriptors.len())
    }

    fn descriptors(&self) -> Vec<RawFd> {
        let entries = fs::read_dir("/proc/self/fd").into_iter().flatten().flatten();
        let number = |entry: fs::DirEntry| {
            let link = fs::read_link(entry.path()).ok()?;
            self.is_one(link.to_str()?).then(|| entry.file_name().to_str()?.parse().ok())?
        };
        entries.filter_map(number).collect()
    }

    /// Whether a link of `/proc/self/fd` leads to one of them.
    pub(super) fn is_one(&self, link: &str) -> bool {
        let inode = link.strip_prefix("socket:[").and_then(|rest| rest.strip_suffix(']'));
        inode.and_then(|inode| inode.parse().ok()).is_some_and(|inode| self.inodes.contains(&inode))
    }

    /// Whether one of them was closed. Takes about a millisecond.
    pub(super) fn is_closed(&self) -> bool {
        if self.inodes.is_empty() {
            return false;
        }
        let Ok(sockets) = TcpSocket::all_of_this_process() else { return false };
        let listens = |inode: &u64| {
            sockets.iter().any(|s| s.inode() == *inode && s.state() == TcpState::Listen)
        };
        !self.inodes.iter().all(listens)
    }
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    #[test]
    fn a_socket_that_was_closed_is_noticed_and_those_of_others_are_not() {
        let earlier = TcpListener::bind("127.0.0.1:0").unwrap();
        let before = Listener::open_now();
        let of_agent = TcpListener::bind("127.0.0.1:0").unwrap();
        let of_others = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = of_agent.local_addr().unwrap().port();
        let details = [&[0; 5], &port.to_be_bytes()[..]].concat();
        let listener = Listener::found(&before, &Listener::open_now(), &details);
        assert_eq!(listener.inodes.len(), 1);
        drop((earlier, of_others));
        assert!(!listener.is_closed());
        drop(of_agent);
        assert!(listener.is_closed());
    }

    #[test]
    fn an_agent_without_such_sockets_is_not_watched() {
        assert!(!Listener::found(&[], &[(1, 2)], b"").is_closed());
    }
}
