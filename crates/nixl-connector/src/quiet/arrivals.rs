//! The arrival of all bytes that peers had sent, and of this side's answers to them.

use std::collections::HashMap;
use std::net::SocketAddr;

use nixl_device::{TcpSocket, TcpState, is_this_host};

/// Sockets that were open at the first look and may hold bytes from before, with the number of looks since that found each empty.
#[derive(Debug, Default)]
pub(super) struct Arrivals {
    waits: Option<HashMap<Ends, u32>>,
}

/// The identity of a socket, also before it is accepted: both addresses, or its inode if the kernel does not report them.
type Ends = (Option<SocketAddr>, Option<SocketAddr>, u64);

/// Which connections may still bring bytes from before though nothing waits in their sockets.
#[derive(Clone, Copy, Debug)]
pub(super) struct MayBring {
    /// Those to other hosts, and to hosts that are not known.
    pub(super) far: bool,
    /// Those whose sockets the kernel does not report.
    pub(super) unknown: bool,
}

/// What of a socket has to be empty.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Wanted {
    /// What has arrived is read.
    Received,
    /// And what was sent is acknowledged: the engine reads the memory of a long answer again whenever the socket has room.
    ReceivedAndSent,
}

impl Arrivals {
    /// Counts a look at the open sockets. Returns whether each that was open at the first look has been empty at two looks, or is past
    /// its end of stream.
    pub(super) fn note(
        &mut self,
        sockets: &[TcpSocket],
        (may_bring, wanted): (MayBring, Wanted),
    ) -> bool {
        let counts = |socket: &&TcpSocket| {
            let listens = socket.state() == TcpState::Listen;
            !listens && !socket.is_past_end_of_stream()
        };
        let open: HashMap<_, _> = sockets.iter().filter(counts).map(|s| (ends(s), s)).collect();
        let waits = self.waits.get_or_insert_with(|| open.keys().map(|ends| (*ends, 0)).collect());
        waits.retain(|ends, seen| {
            let Some(socket) = open.get(ends) else { return false };
            if may_bring.far
                && socket.remote().map(|remote| remote.ip()).and_then(is_this_host) != Some(true)
            {
                return true;
            }
            let is_empty =
                |bytes: Option<u64>| bytes.map_or(!may_bring.unknown, |bytes| bytes == 0);
            let are_sent = wanted == Wanted::Received || is_empty(socket.unsent());
            *seen += u32::from(is_empty(socket.unread()) && are_sent);
            *seen < 2
        });
        waits.is_empty()
    }
}

fn ends(socket: &TcpSocket) -> Ends {
    let inode = if socket.remote().is_some() { 0 } else { socket.inode() };
    (socket.local(), socket.remote(), inode)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use std::io::{Read, Write};
    use std::net::{TcpListener, TcpStream};

    use super::*;

    const NEAR: (MayBring, Wanted) = (MayBring { far: false, unknown: true }, Wanted::Received);

    /// The socket of this process with these ends; other tests have others.
    fn of(stream: &TcpStream) -> Vec<TcpSocket> {
        let (local, remote) = (stream.local_addr().ok(), stream.peer_addr().ok());
        let mut all = TcpSocket::all_of_this_process().unwrap();
        all.retain(|socket| socket.local() == local && socket.remote() == remote);
        all
    }

    #[test]
    fn bytes_that_wait_are_not_there_though_their_sender_lives() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut sender = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (mut receiver, _) = listener.accept().unwrap();
        sender.write_all(b"late").unwrap();
        let mut arrivals = Arrivals::default();
        for _ in 0..5 {
            assert!(!arrivals.note(&of(&receiver), NEAR));
        }
        receiver.read_exact(&mut [0; 4]).unwrap();
        assert!(!arrivals.note(&of(&receiver), NEAR), "the reader may still use the bytes");
        assert!(arrivals.note(&of(&receiver), NEAR));
    }

    #[test]
    fn an_answer_that_its_reader_does_not_take_is_under_way() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut reader = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (mut owner, _) = listener.accept().unwrap();
        owner.set_nonblocking(true).unwrap();
        let mut sent = 0;
        // As much as fits: the rest of the answer waits in the engine.
        while let Ok(bytes) = owner.write(&[0; 1 << 16]) {
            sent += bytes;
        }
        let answers = (NEAR.0, Wanted::ReceivedAndSent);
        let mut arrivals = Arrivals::default();
        for _ in 0..5 {
            assert!(!arrivals.note(&of(&owner), answers));
        }
        reader.read_exact(&mut vec![0; sent]).unwrap();
        // Acknowledgements may be delayed.
        while of(&owner).iter().any(|socket| socket.unsent() != Some(0)) {
            std::thread::yield_now();
        }
        assert!(!arrivals.note(&of(&owner), answers));
        assert!(arrivals.note(&of(&owner), answers));
    }

    #[test]
    fn sockets_that_close_or_open_later_bring_nothing() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let connect = || {
            let sender = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
            (sender, listener.accept().unwrap().0)
        };
        let (mut first, receiver) = connect();
        first.write_all(b"late").unwrap();
        let mut arrivals = Arrivals::default();
        assert!(!arrivals.note(&of(&receiver), NEAR));
        let (mut second, later) = connect();
        second.write_all(b"new").unwrap();
        assert!(arrivals.note(&of(&later), NEAR), "the first one is closed, the second came later");
    }
}
