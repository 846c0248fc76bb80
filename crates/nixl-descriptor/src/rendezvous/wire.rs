//! Messages of a rendezvous: 32 bytes, content behind them in one kind, and at most one descriptor, over a socket that keeps their
//! boundaries.
//!
//! | bytes | content |
//! |---|---|
//! | 0 to 3 | `nxrv` |
//! | 4 to 5 | version, 1 |
//! | 6 to 7 | kind |
//! | 8 to 23 | the random name of a file or of memory in pieces; zeros in `Hello` |
//! | 24 to 31 | a number; zeros if the kind has none |
//!
//! | kind | from | descriptor | meaning |
//! |---|---|---|---|
//! | 1, `Hello` | both, first | of the sender's process (`pidfd`) | |
//! | 2, `Open` | the client | | requests the file |
//! | 3, `File` | the server | the file | answers `Open` |
//! | 4, `Absent` | the server | | answers `Open` and `OpenPiece`: it has no such file, or does not give it |
//! | 5, `Released` | the server, at any time | | it has the file or the memory no more |
//! | 6, `OpenPiece` | the client | | requests the piece of the memory that begins at the number |
//! | 7, `Piece` | the server | the piece, unless its content opens it | answers `OpenPiece`: it has as many bytes as the number says. Up to 128 bytes of content |
//! | 8, `Full` | the server | | answers `Open` and `OpenPiece`: it has that, and gives no more to this connection |

use std::io::{IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use nix::sys::socket::getsockopt;
use nix::sys::socket::sockopt::{PeerCredentials, PeerPidfd};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags,
    SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketAddrUnix, SocketFlags, SocketType,
    connect, recvmsg, sendmsg, socket_with,
};
use rustix::process::{PidfdFlags, geteuid, getpid, pidfd_open};

use super::RendezvousError;

const MAGIC: [u8; 4] = *b"nxrv";
const VERSION: u16 = 1;
const LEN: usize = 32;
/// Bytes behind the others.
pub(super) const CONTENT: usize = 128;

/// The random part of a file's name, or the name of memory in pieces.
pub(super) type Name = [u8; 16];

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Kind {
    Hello = 1,
    Open,
    File,
    Absent,
    Released,
    OpenPiece,
    Piece,
    /// The process has the file, and has given as many to this connection as it does.
    Full,
}

#[derive(Debug)]
pub(super) struct Message {
    pub(super) kind: Kind,
    pub(super) name: Name,
    pub(super) number: u64,
    pub(super) content: Box<[u8]>,
    pub(super) descriptor: Option<OwnedFd>,
}

/// The next input of a non-blocking socket.
#[derive(Debug)]
pub(super) enum Incoming {
    Message(Message),
    Nothing,
    /// The other side has closed it, or sends something else.
    End,
}

/// A socket that does not block.
pub(super) fn socket() -> Result<OwnedFd, RendezvousError> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let made = socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None);
    made.map_err(RendezvousError::of("make a socket"))
}

/// The socket at a path.
pub(super) fn at(path: &Path) -> Result<SocketAddrUnix, RendezvousError> {
    SocketAddrUnix::new(path).map_err(RendezvousError::of("name a socket"))
}

/// A connection to the process that listens there, which is of this process's user.
pub(super) fn connect_to(address: &SocketAddrUnix) -> Result<OwnedFd, RendezvousError> {
    let socket = socket()?;
    match connect(&socket, address) {
        Ok(()) => {}
        Err(Errno::NOENT | Errno::CONNREFUSED) => return Err(RendezvousError::NotThere),
        // Too many wait to be accepted.
        Err(Errno::AGAIN) => return Err(RendezvousError::Silent),
        Err(errno) => return Err(RendezvousError::of("connect")(errno)),
    }
    check_user(&socket)?;
    Ok(socket)
}

/// Whether no process listens on the socket at this path.
pub(super) fn is_dead(path: &Path) -> bool {
    let (Ok(socket), Ok(address)) = (socket(), SocketAddrUnix::new(path)) else { return false };
    connect(&socket, &address) == Err(Errno::CONNREFUSED)
}

/// The system names the user of the other side, as this process's user namespace sees it.
pub(super) fn check_user(socket: &OwnedFd) -> Result<(), RendezvousError> {
    // Not rustix's: a process that this PID namespace cannot see has the number 0, which its type does not have.
    let other = getsockopt(socket, PeerCredentials).map_err(|errno| RendezvousError::System {
        call: "ask for a peer's user",
        error: std::io::Error::from(errno).into(),
    })?;
    let (theirs, ours) = (other.uid(), geteuid().as_raw());
    match theirs == ours {
        true => Ok(()),
        false => Err(RendezvousError::OtherUser { theirs, ours }),
    }
}

/// The number of the process on the other side when that began to listen or connected, in this process's PID namespace.
pub(super) fn process_of(socket: &OwnedFd) -> Option<u32> {
    let other = getsockopt(socket, PeerCredentials).ok()?;
    u32::try_from(other.pid()).ok().filter(|pid| *pid != 0)
}

/// A descriptor of the process on the other side when that connected, as the kernel names it: also one of another PID namespace. `claimed`,
/// which that process has sent, where the kernel names none (before 6.5).
pub(super) fn process_at(socket: &OwnedFd, claimed: OwnedFd) -> Option<OwnedFd> {
    match getsockopt(socket, PeerPidfd) {
        Ok(process) => Some(process),
        Err(nix::errno::Errno::ENOPROTOOPT) => Some(claimed),
        // Such as of a process that has ended.
        Err(_) => None,
    }
}

/// A descriptor of this process, by which others see its end, in whichever PID namespace they are.
pub(super) fn this_process() -> Result<OwnedFd, RendezvousError> {
    pidfd_open(getpid(), PidfdFlags::empty()).map_err(RendezvousError::of("watch a process"))
}

/// Whether this is a descriptor of a process.
pub(super) fn is_process(descriptor: &OwnedFd) -> bool {
    use std::os::fd::AsRawFd as _;
    let link = std::fs::read_link(format!("/proc/self/fd/{}", descriptor.as_raw_fd()));
    let link = link.unwrap_or_default();
    link.as_os_str() == "anon_inode:[pidfd]" || link.to_string_lossy().starts_with("pidfd:")
}

/// Sends without waiting. `false` if the other side is gone or does not read.
pub(super) fn send(
    socket: &OwnedFd,
    kind: Kind,
    name: Name,
    descriptor: Option<BorrowedFd<'_>>,
) -> bool {
    send_with(socket, kind, (name, 0, &[]), descriptor)
}

/// The same with a number and content.
pub(super) fn send_with(
    socket: &OwnedFd,
    kind: Kind,
    (name, number, content): (Name, u64, &[u8]),
    descriptor: Option<BorrowedFd<'_>>,
) -> bool {
    let mut bytes = [0; LEN];
    bytes[..4].copy_from_slice(&MAGIC);
    bytes[4..6].copy_from_slice(&VERSION.to_le_bytes());
    bytes[6..8].copy_from_slice(&(kind as u16).to_le_bytes());
    bytes[8..24].copy_from_slice(&name);
    bytes[24..].copy_from_slice(&number.to_le_bytes());
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut with = SendAncillaryBuffer::new(&mut space);
    let descriptors = descriptor.map(|descriptor| [descriptor]);
    if let Some(descriptors) = &descriptors
        && !with.push(SendAncillaryMessage::ScmRights(descriptors))
    {
        return false;
    }
    let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
    let parts = [IoSlice::new(&bytes), IoSlice::new(content)];
    let mut sent = || sendmsg(socket, &parts, &mut with, flags);
    content.len() <= CONTENT && sent() == Ok(LEN + content.len())
}

/// Receives without waiting.
pub(super) fn receive(socket: &OwnedFd) -> Incoming {
    let mut bytes = [0; LEN + CONTENT + 1];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut with = RecvAncillaryBuffer::new(&mut space);
    let flags = RecvFlags::DONTWAIT | RecvFlags::CMSG_CLOEXEC;
    let received = loop {
        match recvmsg(socket, &mut [IoSliceMut::new(&mut bytes)], &mut with, flags) {
            Err(Errno::INTR) => {}
            Err(Errno::AGAIN) => return Incoming::Nothing,
            Err(_) => return Incoming::End,
            Ok(received) => break received,
        }
    };
    // Further descriptors than there is room for are closed by the system.
    let descriptor = with.drain().find_map(|message| match message {
        RecvAncillaryMessage::ScmRights(mut descriptors) => descriptors.next(),
        _ => None,
    });
    // A descriptor that this process has no room for is missing, and the message is whole.
    let cut = received.flags.contains(ReturnFlags::TRUNC);
    let Some(message) = bytes.get(..received.bytes).filter(|_| !cut) else { return Incoming::End };
    match parse(message) {
        Some((kind, name, number, content)) => {
            let content = content.into();
            Incoming::Message(Message { kind, name, number, content, descriptor })
        }
        None => Incoming::End,
    }
}

fn parse(bytes: &[u8]) -> Option<(Kind, Name, u64, &[u8])> {
    let (bytes, content) = bytes.split_first_chunk::<LEN>()?;
    let (magic, rest) = bytes.split_first_chunk::<4>()?;
    let (version, rest) = rest.split_first_chunk::<2>()?;
    let (kind, rest) = rest.split_first_chunk::<2>()?;
    if *magic != MAGIC || u16::from_le_bytes(*version) != VERSION {
        return None;
    }
    let kind = match u16::from_le_bytes(*kind) {
        1 => Kind::Hello,
        2 => Kind::Open,
        3 => Kind::File,
        4 => Kind::Absent,
        5 => Kind::Released,
        6 => Kind::OpenPiece,
        7 => Kind::Piece,
        8 => Kind::Full,
        _ => return None,
    };
    let has_room = content.len() <= if kind == Kind::Piece { CONTENT } else { 0 };
    let (name, number) = rest.split_first_chunk()?;
    let number = u64::from_le_bytes(*number.first_chunk()?);
    has_room.then_some((kind, *name, number, content))
}

/// Waits until the socket has something, for `millis` at most.
pub(super) fn wait(socket: &OwnedFd, millis: i64) -> bool {
    let time = Timespec { tv_sec: millis / 1000, tv_nsec: millis % 1000 * 1_000_000 };
    let mut handles = [PollFd::from_borrowed_fd(socket.as_fd(), PollFlags::IN)];
    poll(&mut handles, Some(&time)).is_ok_and(|ready| ready > 0)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use proptest::prelude::*;
    use rustix::net::socketpair;

    use super::*;

    fn pair() -> (OwnedFd, OwnedFd) {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None).unwrap()
    }

    #[test]
    #[cfg_attr(miri, ignore = "uses sockets")]
    fn messages_arrive_with_their_descriptors() {
        let (a, b) = pair();
        assert!(matches!(receive(&b), Incoming::Nothing));
        let process = this_process().unwrap();
        assert!(is_process(&process) && !is_process(&a));
        assert!(send(&a, Kind::Hello, [0; 16], Some(process.as_fd())));
        assert!(send_with(&a, Kind::OpenPiece, ([7; 16], 1 << 40, &[]), None));
        let Incoming::Message(hello) = receive(&b) else { panic!() };
        assert!(hello.kind == Kind::Hello && is_process(&hello.descriptor.unwrap()));
        let Incoming::Message(open) = receive(&b) else { panic!() };
        assert_eq!((open.kind, open.name, open.number), (Kind::OpenPiece, [7; 16], 1 << 40));
        assert!(open.descriptor.is_none());
        assert_eq!(process_of(&b), Some(std::process::id()));
        assert!(!send_with(&a, Kind::Piece, ([8; 16], 3, &[1; CONTENT + 1]), None));
        assert!(send_with(&a, Kind::Piece, ([8; 16], 3, &[1; CONTENT]), None));
        let Incoming::Message(piece) = receive(&b) else { panic!() };
        assert_eq!((piece.number, &*piece.content), (3, &[1; CONTENT][..]));
        // No other kind has content.
        assert!(send_with(&a, Kind::Absent, ([8; 16], 0, &[1]), None));
        assert!(matches!(receive(&b), Incoming::End));
        drop(a);
        assert!(matches!(receive(&b), Incoming::End));
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]
        #[test]
        #[cfg_attr(miri, ignore = "uses sockets")]
        fn other_bytes_end_the_connection(bytes in proptest::collection::vec(any::<u8>(), 0..LEN + CONTENT + 8)) {
            let (a, b) = pair();
            rustix::net::send(&a, &bytes, SendFlags::NOSIGNAL).unwrap();
            prop_assert!(matches!(receive(&b), Incoming::End));
        }
    }
}
