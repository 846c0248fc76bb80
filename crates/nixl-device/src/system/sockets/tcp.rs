//! The TCP sockets that this process can read from.

use std::collections::{HashMap, HashSet};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::OwnedFd;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{fstat, getxattr};
use rustix::io::{Errno, ioctl_fionread};
use rustix::process::{PidfdFlags, PidfdGetfdFlags, getpid, pidfd_getfd, pidfd_open};

use super::{netlink, proc_net};
use crate::SharedError;
use crate::system::process::{each_descriptor, socket_inode};

/// A TCP socket that this process has open, or will have once it accepts a connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TcpSocket {
    pub(crate) local: Option<SocketAddr>,
    pub(crate) remote: Option<SocketAddr>,
    state: TcpState,
    unread: Option<u64>,
    unsent: Option<u64>,
    inode: u64,
}

/// The state of a TCP socket, as RFC 9293 names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum TcpState {
    /// Both sides may send.
    Established,
    /// This side has requested a connection.
    SynSent,
    /// The other side has requested a connection and has not confirmed it.
    SynReceived,
    /// This side has sent its end of stream, which is not acknowledged.
    FinWait1,
    /// This side has sent its end of stream; the other may still send.
    FinWait2,
    /// There is no connection (any more): it was reset, both sides have sent their ends of stream, or it never was. What
    /// was received before can still be read.
    Closed,
    /// The other side has sent its end of stream.
    CloseWait,
    /// The other side has sent its end of stream, and then this one, which is not acknowledged.
    LastAck,
    /// It waits for connections.
    Listen,
    /// Both sides have sent their end of stream at once.
    Closing,
    /// The kernel's table does not have it, and its state cannot be had otherwise: it is of another network namespace, has
    /// just been opened, or is closed and may not be looked at.
    Unlisted,
}

/// Why the TCP sockets are not known.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SocketsError {
    /// Which sockets a process has open is not known.
    #[error(
        "the open files of process {pid} cannot be listed: {error}. /proc has to be mounted, of this PID namespace, and \
         to show them to this user"
    )]
    Descriptors {
        /// The process.
        pid: u32,
        /// The error of the system.
        #[source]
        error: SharedError,
    },
    /// The table of sockets cannot be read.
    #[error(
        "the TCP sockets of this network namespace are not known: inet_diag fails with {netlink}, /proc/self/net/tcp with {proc}. \
         Allow netlink sockets, or mount /proc"
    )]
    Table {
        /// What went wrong with the first way.
        netlink: String,
        /// What went wrong with the second.
        proc: String,
    },
}

/// A line of the kernel's table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Row {
    pub(super) local: SocketAddr,
    pub(super) remote: SocketAddr,
    /// The kernel's number.
    pub(super) state: u8,
    pub(super) receive_queue: u32,
    pub(super) send_queue: u32,
    pub(super) inode: u64,
}

impl TcpSocket {
    /// Every TCP socket that is open in this process, and every connection that waits for one of its listening sockets to
    /// accept it.
    ///
    /// It is no moment: the kernel's table is read first, then the descriptors. A socket that was opened in between is
    /// [`Unlisted`](TcpState::Unlisted); one that is opened afterwards is not there. So a list is final with regard to a peer
    /// only once the peer has ended.
    ///
    /// The kernel's table has no sockets without a connection, such as those that were reset with bytes unread. They are
    /// looked at by a duplicate of their descriptor (`pidfd_getfd`), and are [`Unlisted`](TcpState::Unlisted) where that is
    /// forbidden, as some containers do.
    ///
    /// Takes half a millisecond, and on hosts with many sockets about a microsecond for each of them.
    ///
    /// # Errors
    ///
    /// [`SocketsError`]
    pub fn all_of_this_process() -> Result<Vec<Self>, SocketsError> {
        of_this_process(table()?)
    }

    /// Whether nothing that the other side has sent, or still sends, will ever be read from it: its end of stream has
    /// come, or the connection is no more, and nothing before that waits to be read. What was read from it may still be
    /// about to be used by the reader. `false` if that is not known.
    #[must_use]
    pub fn is_past_end_of_stream(&self) -> bool {
        self.state.has_ended() && self.unread == Some(0)
    }

    /// Whether the other side may be at this address: it is, or is not known. Not so of a socket that listens.
    #[must_use]
    pub fn may_lead_to(&self, address: IpAddr) -> bool {
        let address = address.to_canonical();
        self.state != TcpState::Listen && self.remote.is_none_or(|remote| remote.ip() == address)
    }

    /// This side. `None` if the kernel does not report it. IPv4 addresses inside IPv6 are given as IPv4 ones.
    #[must_use]
    pub fn local(&self) -> Option<SocketAddr> {
        self.local
    }

    /// The other side. `None` of a socket that listens, that was never connected, or whose connection has ended entirely:
    /// then the kernel no longer reports where it led.
    #[must_use]
    pub fn remote(&self) -> Option<SocketAddr> {
        self.remote
    }

    /// Its state.
    #[must_use]
    pub fn state(&self) -> TcpState {
        self.state
    }

    /// Bytes that wait to be read, without the end of stream, which the kernel counts as one. Connections that wait to be
    /// accepted if it listens. `None` if the kernel does not report it.
    #[must_use]
    pub fn unread(&self) -> Option<u64> {
        self.unread
    }

    /// Bytes that the other side has not acknowledged. `None` if the kernel does not report it, or if it listens.
    #[must_use]
    pub fn unsent(&self) -> Option<u64> {
        self.unsent
    }

    /// Its number in `/proc`. 0 of a connection that waits to be accepted.
    #[must_use]
    pub fn inode(&self) -> u64 {
        self.inode
    }
}

impl TcpState {
    /// Of the kernel's number. `None` of a connection that has ended and that no process has open.
    fn from_kernel(state: u8) -> Option<Self> {
        Some(match state {
            1 => Self::Established,
            2 => Self::SynSent,
            3 | 12 => Self::SynReceived,
            4 => Self::FinWait1,
            5 => Self::FinWait2,
            6 => return None,
            7 => Self::Closed,
            8 => Self::CloseWait,
            9 => Self::LastAck,
            10 => Self::Listen,
            11 => Self::Closing,
            _ => Self::Unlisted,
        })
    }

    /// Whether the end of the other side's stream has come, or can come no more.
    fn has_ended(self) -> bool {
        self == Self::Closed || self.counts_end_of_stream()
    }

    /// Whether the kernel counts the end of stream as one byte unread, until the reader has met it.
    fn counts_end_of_stream(self) -> bool {
        matches!(self, Self::CloseWait | Self::LastAck | Self::Closing)
    }

    /// Whether it may be that of a connection that nothing has accepted. One that its process has closed is in others.
    fn may_be_unaccepted(self) -> bool {
        matches!(self, Self::Established | Self::SynReceived | Self::CloseWait)
    }
}

impl Row {
    fn into_socket(self) -> Option<TcpSocket> {
        let state = TcpState::from_kernel(self.state)?;
        let end = u32::from(state.counts_end_of_stream());
        let remote = Some(self.remote).filter(|remote| remote.port() != 0);
        Some(TcpSocket {
            local: Some(self.local),
            remote,
            state,
            unread: Some(self.receive_queue.saturating_sub(end).into()),
            unsent: (state != TcpState::Listen).then_some(self.send_queue.into()),
            inode: self.inode,
        })
    }
}

/// All sockets of this network namespace.
fn table() -> Result<Vec<Row>, SocketsError> {
    netlink::dump()
        .or_else(|netlink| proc_net::table().map_err(|proc| SocketsError::Table { netlink, proc }))
}

fn of_this_process(table: Vec<Row>) -> Result<Vec<TcpSocket>, SocketsError> {
    // A socket may have several descriptors, some of them for a moment: each may be gone when it is looked at.
    let mut open = HashMap::<u64, Vec<i32>>::new();
    each_descriptor("/proc/self", |name, link, _| {
        let number = name.to_str().ok().and_then(|name| name.parse::<i32>().ok());
        if let (Some(inode), Some(number)) = (socket_inode(link), number) {
            open.entry(inode).or_default().push(number);
        }
        true
    })
    .map_err(|errno| SocketsError::Descriptors {
        pid: std::process::id(),
        error: io::Error::from(errno).into(),
    })?;
    let mut sockets = Vec::new();
    let mut waiting = Vec::new();
    for socket in table.into_iter().filter_map(Row::into_socket) {
        if socket.inode == 0 && socket.state.may_be_unaccepted() {
            waiting.push(socket);
        } else if open.remove(&socket.inode).is_some() {
            sockets.push(socket);
        }
    }
    let listening = sockets.iter().filter(|socket| socket.state == TcpState::Listen);
    let listening: HashSet<_> = listening.filter_map(|socket| socket.local).collect();
    sockets.extend(waiting.into_iter().filter(|socket| {
        socket.local.is_some_and(|local| {
            let any = |listener: &SocketAddr| listener.ip().is_unspecified();
            listening.contains(&local)
                || listening.iter().any(|at| at.port() == local.port() && any(at))
        })
    }));
    let mut looks = Looks::default();
    sockets.extend(open.into_iter().filter_map(|(inode, numbers)| {
        numbers.into_iter().find_map(|number| looks.look(inode, number))
    }));
    Ok(sockets)
}

/// Looks at sockets that the kernel's table does not have.
#[derive(Default)]
struct Looks {
    myself: Option<OwnedFd>,
}

impl Looks {
    /// `None` if it is no TCP socket, or no longer there.
    fn look(&mut self, inode: u64, number: i32) -> Option<TcpSocket> {
        let unlisted = TcpSocket {
            local: None,
            remote: None,
            state: TcpState::Unlisted,
            unread: None,
            unsent: None,
            inode,
        };
        let mut protocol = [0; 16];
        let path = format!("/proc/self/fd/{number}");
        match getxattr(path, "system.sockprotoname", &mut protocol[..]) {
            Ok(len) if is_tcp(&protocol[..len]) => {}
            Ok(_) | Err(Errno::NOENT) => return None,
            // A kernel that does not report it.
            Err(_) => {}
        }
        match self.duplicate(number) {
            Ok(socket) => looked(&socket, unlisted),
            Err(Errno::BADF) => None,
            Err(_) => Some(unlisted),
        }
    }

    fn duplicate(&mut self, number: i32) -> rustix::io::Result<OwnedFd> {
        let myself = match self.myself.take() {
            Some(myself) => myself,
            None => pidfd_open(getpid(), PidfdFlags::empty())?,
        };
        let myself = self.myself.insert(myself);
        pidfd_getfd(&*myself, number, PidfdGetfdFlags::empty())
    }
}

/// MPTCP's too, whose parts are the kernel's own.
fn is_tcp(protocol: &[u8]) -> bool {
    let name = protocol.split(|byte| *byte == 0).next().unwrap_or_default();
    matches!(name, b"TCP" | b"TCPv6" | b"MPTCP" | b"MPTCPv6")
}

/// `None` if the number has got another meaning.
fn looked(socket: &OwnedFd, unlisted: TcpSocket) -> Option<TcpSocket> {
    use rustix::net::{getpeername, getsockname, sockopt};
    if !fstat(socket).is_ok_and(|stat| stat.st_ino == unlisted.inode) {
        return None;
    }
    // Where the kernel did not say it by name.
    let tcp = Some(rustix::net::ipproto::TCP);
    if !sockopt::socket_protocol(socket).is_ok_and(|protocol| protocol == tcp) {
        let multipath = Some(rustix::net::ipproto::MPTCP);
        let unknown = sockopt::socket_protocol(socket).is_ok_and(|protocol| protocol == multipath);
        return unknown.then_some(unlisted);
    }
    let mut ready = [PollFd::new(socket, PollFlags::empty())];
    let now = Timespec { tv_sec: 0, tv_nsec: 0 };
    let hung_up = poll(&mut ready, Some(&now)).is_ok_and(|ready| ready > 0)
        && ready[0].revents().contains(PollFlags::HUP);
    let address = |address: rustix::net::SocketAddrAny| {
        let address = SocketAddr::try_from(address).ok()?;
        Some(SocketAddr::new(address.ip().to_canonical(), address.port()))
    };
    let local = getsockname(socket).ok().and_then(address);
    match getpeername(socket) {
        // Never listed with a peer: connected since, or of another network namespace.
        Ok(remote) => Some(TcpSocket { local, remote: remote.and_then(address), ..unlisted }),
        Err(Errno::NOTCONN) if hung_up => {
            let unread = ioctl_fionread(socket).ok();
            Some(TcpSocket { local, state: TcpState::Closed, unread, ..unlisted })
        }
        Err(_) => Some(TcpSocket { local, ..unlisted }),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use std::net::{Shutdown, TcpListener, TcpStream};

    use super::*;

    #[test]
    fn both_tables_say_the_same() {
        for host in ["127.0.0.1:0", "[::1]:0"] {
            let Ok(listener) = TcpListener::bind(host) else { continue };
            let at = listener.local_addr().unwrap();
            let ours = TcpStream::connect(at).unwrap();
            let theirs = listener.accept().unwrap().0;
            let _waiting = TcpStream::connect(at).unwrap();
            io::Write::write_all(&mut &theirs, &[0; 1_000]).unwrap();
            theirs.shutdown(Shutdown::Write).unwrap();
            let expected = ours.local_addr().unwrap();
            // The end of stream counts as a byte once it is there. It is acknowledged later.
            loop {
                let row = netlink::find(expected, at).unwrap().unwrap();
                let sender = netlink::find(at, expected).unwrap().unwrap();
                if (row.state, row.receive_queue, sender.state) == (8, 1_001, 5) {
                    break;
                }
                std::thread::yield_now();
            }
            let sorted = |rows: Result<Vec<Row>, String>| {
                let mut rows = rows.unwrap();
                // The port may be another socket's at another address.
                rows.retain(|row| row.local == at || row.remote == at);
                // Of an earlier connection to the port, which one of both tables leaves out.
                rows.retain(|row| row.state != 6);
                rows.sort_by_key(|row| (row.local, row.remote));
                // Of what listens, only one says how many connections may wait.
                rows.iter_mut().filter(|row| row.state == 10).for_each(|row| row.send_queue = 0);
                rows
            };
            let rows = sorted(netlink::dump());
            assert_eq!(rows.len(), 5, "{rows:?}");
            assert_eq!(rows, sorted(proc_net::table()));
            let mut open: Vec<_> = of_this_process(rows).unwrap();
            open.retain(|socket| socket.local == Some(at));
            assert_eq!(open.len(), 3, "it listens, is accepted, and waits: {open:?}");
            assert!(netlink::find(expected, expected).unwrap().is_none());
            assert!(netlink::find(at, expected).unwrap().is_some());
            assert!(netlink::find(at, at).unwrap().is_none(), "what listens is no connection");
        }
    }

    #[test]
    fn only_the_ends_that_the_kernel_counts_are_taken_off() {
        let socket = |state, receive_queue| {
            let address = "127.0.0.1:1".parse().unwrap();
            let row = Row {
                local: address,
                remote: address,
                state,
                receive_queue,
                send_queue: 0,
                inode: 1,
            };
            row.into_socket().unwrap()
        };
        for (kernel, queue, unread, past) in [
            (1, 0, 0, false),
            (1, 1, 1, false),
            (2, 0, 0, false),
            (3, 0, 0, false),
            (4, 0, 0, false),
            (5, 0, 0, false),
            (7, 0, 0, true),
            (7, 1, 1, false),
            (8, 0, 0, true),
            (8, 1, 0, true),
            (8, 2, 1, false),
            (9, 1, 0, true),
            (9, 2, 1, false),
            (10, 0, 0, false),
            (11, 1, 0, true),
            (11, 2, 1, false),
            (13, 0, 0, false),
        ] {
            let socket = socket(kernel, queue);
            assert_eq!(socket.unread, Some(unread), "{socket:?} {queue}");
            assert_eq!(socket.is_past_end_of_stream(), past, "{socket:?} {queue}");
        }
    }
}
