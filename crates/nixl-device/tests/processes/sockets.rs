//! TCP connections to a process that lives, ends, or is killed.

use std::io::Read;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, Shutdown, SocketAddr, TcpListener, TcpStream};

use nixl_device::{Holders, SocketsError, TcpSocket, TcpState, is_this_host};
use rustix::fs::fstat;

use crate::support::{LIMIT, Other, until};

/// A connection from another process, which has sent bytes.
struct Pair {
    other: Other,
    stream: TcpStream,
    remote: SocketAddr,
    inode: u64,
}

impl Pair {
    fn new(host: IpAddr, bytes: usize) -> Self {
        let listener = TcpListener::bind((host, 0)).unwrap();
        let at = listener.local_addr().unwrap();
        let mut other = Other::with_task(&format!("connect {at} {bytes}"));
        let remote = other.hear().parse().unwrap();
        let stream = listener.accept().unwrap().0;
        assert_eq!(stream.peer_addr().unwrap(), remote);
        let inode = fstat(&stream).unwrap().st_ino;
        Self { other, stream, remote, inode }
    }

    fn look(&self) -> TcpSocket {
        find(self.inode)
    }

    /// Waits until the socket is in a state.
    fn until(&self, state: TcpState) -> TcpSocket {
        until(&format!("{state:?}: {:?}", self.look()), || {
            Some(self.look()).filter(|socket| socket.state() == state)
        })
    }

    /// Takes exactly so many bytes, and does not look whether there are more.
    fn read(&mut self, bytes: usize) {
        self.stream.read_exact(&mut vec![0; bytes]).unwrap();
    }
}

fn find(inode: u64) -> TcpSocket {
    let mut sockets = TcpSocket::all_of_this_process().unwrap();
    sockets.retain(|socket| socket.inode() == inode);
    assert_eq!(sockets.len(), 1, "{sockets:?}");
    sockets.remove(0)
}

/// The addresses of this host that the tests use.
fn hosts() -> Vec<IpAddr> {
    let six = IpAddr::from(Ipv6Addr::LOCALHOST);
    let with_six = TcpListener::bind((six, 0)).is_ok();
    [IpAddr::from(Ipv4Addr::LOCALHOST)].into_iter().chain(with_six.then_some(six)).collect()
}

#[test]
fn bytes_of_a_peer_that_was_killed_wait_in_the_socket() {
    for host in hosts() {
        let mut pair = Pair::new(host, 10_000);
        let socket = until("all bytes", || {
            Some(pair.look()).filter(|socket| socket.unread() == Some(10_000))
        });
        assert_eq!(socket.state(), TcpState::Established);
        assert_eq!(socket.local(), Some(pair.stream.local_addr().unwrap()));
        assert_eq!(socket.remote(), Some(pair.remote));
        assert!(!socket.is_past_end_of_stream());
        let Pair { other, stream, remote, inode } = pair;
        other.kill();
        pair = Pair { other: Other::with_task("namespace"), stream, remote, inode };
        let socket = pair.until(TcpState::CloseWait);
        assert_eq!((socket.unread(), socket.remote()), (Some(10_000), Some(pair.remote)));
        assert!(!socket.is_past_end_of_stream());
        pair.read(9_999);
        assert_eq!(pair.look().unread(), Some(1), "the end of stream is no byte");
        assert!(!pair.look().is_past_end_of_stream());
        // The end of stream has not been met, and the kernel counts it.
        pair.read(1);
        assert_eq!(pair.look().unread(), Some(0));
        assert!(pair.look().is_past_end_of_stream());
        // It has been met.
        assert_eq!(pair.stream.read(&mut [0]).unwrap(), 0);
        assert_eq!((pair.look().state(), pair.look().unread()), (TcpState::CloseWait, Some(0)));
        assert!(pair.look().is_past_end_of_stream());
    }
}

#[test]
fn a_peer_that_lives_may_have_finished_its_stream() {
    for host in hosts() {
        let mut pair = Pair::new(host, 0);
        assert!(!pair.look().is_past_end_of_stream());
        pair.other.tell("finish");
        let socket = pair.until(TcpState::CloseWait);
        assert!(socket.is_past_end_of_stream(), "{socket:?}");
    }
}

#[test]
fn own_end_of_stream_is_not_the_peers() {
    for host in hosts() {
        let mut pair = Pair::new(host, 3);
        pair.stream.shutdown(Shutdown::Write).unwrap();
        let socket = pair.until(TcpState::FinWait2);
        assert_eq!(socket.unread(), Some(3));
        pair.read(3);
        assert!(!pair.look().is_past_end_of_stream(), "it may still send");
    }
}

#[test]
fn bytes_before_both_ends_of_stream_still_wait() {
    for host in hosts() {
        for peer_first in [true, false] {
            let mut pair = Pair::new(host, 3);
            if peer_first {
                pair.other.tell("finish");
                pair.until(TcpState::CloseWait);
                pair.stream.shutdown(Shutdown::Write).unwrap();
            } else {
                pair.stream.shutdown(Shutdown::Write).unwrap();
                pair.until(TcpState::FinWait2);
                pair.other.tell("finish");
            }
            // The kernel's table no longer has it.
            let socket = pair.until(TcpState::Closed);
            assert_eq!((socket.unread(), socket.remote()), (Some(3), None));
            assert!(!socket.is_past_end_of_stream());
            pair.read(3);
            assert!(pair.look().is_past_end_of_stream());
        }
    }
}

#[test]
fn bytes_before_a_reset_still_wait() {
    for host in hosts() {
        let mut pair = Pair::new(host, 5_000);
        until("all bytes", || (pair.look().unread() == Some(5_000)).then_some(()));
        pair.other.tell("reset");
        let socket = pair.until(TcpState::Closed);
        assert_eq!((socket.unread(), socket.remote()), (Some(5_000), None));
        assert!(!socket.is_past_end_of_stream());
        // It may be any peer's.
        assert!(socket.may_lead_to(host) && socket.may_lead_to(Ipv4Addr::new(192, 0, 2, 1).into()));
        pair.read(5_000);
        let socket = pair.look();
        assert_eq!((socket.state(), socket.unread()), (TcpState::Closed, Some(0)));
        assert!(socket.is_past_end_of_stream());
    }
}

#[test]
fn connections_that_wait_to_be_accepted_count() {
    for (host, any) in hosts().into_iter().flat_map(|host| [(host, false), (host, true)]) {
        let unspecified = if host.is_ipv4() {
            Ipv4Addr::UNSPECIFIED.into()
        } else {
            Ipv6Addr::UNSPECIFIED.into()
        };
        let listener = TcpListener::bind((if any { unspecified } else { host }, 0)).unwrap();
        let at = SocketAddr::new(host, listener.local_addr().unwrap().port());
        let mut other = Other::with_task(&format!("connect {at} 3"));
        let remote: SocketAddr = other.hear().parse().unwrap();
        let waiting = || {
            let mut sockets = TcpSocket::all_of_this_process().unwrap();
            sockets.retain(|socket| socket.remote() == Some(remote) && socket.local() == Some(at));
            sockets
        };
        let socket = until("a connection", || waiting().pop().filter(|it| it.unread() == Some(3)));
        assert_eq!((socket.inode(), socket.is_past_end_of_stream()), (0, false));
        let listening = find(fstat(&listener).unwrap().st_ino);
        assert_eq!((listening.state(), listening.unread()), (TcpState::Listen, Some(1)));
        assert!(!listening.is_past_end_of_stream() && !listening.may_lead_to(host));
        other.kill();
        until("its end", || waiting().pop().filter(|it| it.state() == TcpState::CloseWait));
        let mut stream = listener.accept().unwrap().0;
        let sockets = waiting();
        assert_eq!((sockets.len(), sockets[0].unread()), (1, Some(3)));
        assert_eq!(sockets[0].inode(), fstat(&stream).unwrap().st_ino);
        assert_eq!(stream.read(&mut [0; 10]).unwrap(), 3);
        assert!(waiting()[0].is_past_end_of_stream());
    }
}

#[test]
fn a_connection_is_attributed_to_the_process_at_its_other_end() {
    for host in hosts() {
        let first = Pair::new(host, 0);
        let second = Pair::new(host, 0);
        for (pair, not) in [(&first, &second), (&second, &first)] {
            let mine = |socket: &TcpSocket| socket.inode() == pair.inode;
            let to = TcpSocket::all_to_process(pair.other.pid()).unwrap();
            assert!(to.len() == 1 && to.iter().all(mine), "{to:?}");
            let owners = pair.look().owners_of_remote_end(LIMIT).unwrap().unwrap();
            assert_eq!(owners.pids(), [pair.other.pid()]);
            assert!(!owners.pids().contains(&not.other.pid()));
            assert!(pair.look().may_lead_to(host) && is_this_host(host) == Some(true));
            assert!(!pair.look().may_lead_to(Ipv4Addr::new(192, 0, 2, 1).into()));
        }
        let pid = first.other.pid();
        let Pair { other, stream, inode, .. } = first;
        other.kill();
        let gone = until("its end", || {
            Some(find(inode)).filter(|socket| socket.state() == TcpState::CloseWait)
        });
        let owners = gone.owners_of_remote_end(LIMIT).unwrap();
        assert!(owners.is_none_or(|owners| owners.pids().is_empty()));
        let refused = TcpSocket::all_to_process(pid).unwrap_err();
        assert!(matches!(refused, SocketsError::Descriptors { pid: of, .. } if of == pid));
        drop(stream);
    }
}

#[test]
fn a_connection_within_this_process_is_its_own() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let stream = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let inode = fstat(&stream).unwrap().st_ino;
    let not_accepted = find(inode).owners_of_remote_end(LIMIT).unwrap();
    assert_eq!(not_accepted, Some(Holders::default()));
    let _accepted = listener.accept().unwrap();
    // What another test starts has copies of all descriptors until it runs its program.
    until("this process alone", || {
        let owners = find(inode).owners_of_remote_end(LIMIT).unwrap().unwrap();
        (owners.pids() == [std::process::id()]).then_some(())
    });
    let listening = find(fstat(&listener).unwrap().st_ino);
    assert_eq!(listening.owners_of_remote_end(LIMIT).unwrap(), None);
}

#[test]
fn sockets_without_a_connection_and_of_other_kinds_are_told_apart() {
    use rustix::net::{AddressFamily, SocketType, socket};
    let fresh = socket(AddressFamily::INET, SocketType::STREAM, None).unwrap();
    let datagram = socket(AddressFamily::INET, SocketType::DGRAM, None).unwrap();
    let (unix, _other) = std::os::unix::net::UnixStream::pair().unwrap();
    let fresh = find(fstat(&fresh).unwrap().st_ino);
    assert_eq!((fresh.state(), fresh.unread(), fresh.remote()), (TcpState::Closed, Some(0), None));
    let others = [fstat(&datagram).unwrap().st_ino, fstat(&unix).unwrap().st_ino];
    let all = TcpSocket::all_of_this_process().unwrap();
    assert!(all.iter().all(|socket| !others.contains(&socket.inode())), "{all:?}");
}
