//! The thread of a rendezvous that gives files away.

use std::collections::HashSet;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use nixl_device::locks::lock;
use nixl_device::{ProcessWatch, named_thread};

use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};
use rustix::net::{SocketFlags, accept_with};

use super::RendezvousError;
use super::pieces::own_piece;
use super::wire::{self, Incoming, Kind, Message, Name};
use crate::shared::own_file;

/// Before a call that the system refused is repeated.
const PAUSE: Duration = Duration::from_millis(10);

/// Within which a process introduces itself: its first message is sent with the connection.
const GREETING: Duration = Duration::from_secs(1);

/// Gives files of this process to peers. Stops at [`stop`](Self::stop).
#[derive(Debug)]
pub(super) struct Server {
    shared: Arc<Shared>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

#[derive(Debug)]
struct Shared {
    listener: OwnedFd,
    wake: OwnedFd,
    stops: AtomicBool,
    clients: Mutex<Vec<Client>>,
}

/// A process that is or was connected.
#[derive(Debug)]
struct Client {
    /// `None` once the connection has ended.
    socket: Option<Arc<OwnedFd>>,
    connected: Instant,
    /// Its number when it connected, if it is of this PID namespace.
    pid: Option<u32>,
    /// After its first message.
    process: Option<ProcessWatch>,
    given: HashSet<Name>,
}

impl Client {
    fn is_at(&self, socket: &Arc<OwnedFd>) -> bool {
        self.socket.as_ref().is_some_and(|known| Arc::ptr_eq(known, socket))
    }

    /// It keeps a connection without a word.
    fn is_late(&self) -> bool {
        self.socket.is_some() && self.process.is_none() && self.connected.elapsed() >= GREETING
    }

    /// It may have files mapped that it got, also after the end of its connection.
    fn may_hold(&self) -> bool {
        !self.given.is_empty() && self.process.as_ref().is_none_or(|process| !process.has_ended())
    }
}

impl Server {
    /// Connections, and processes that were connected and got files.
    const MOST: usize = 1024;
    /// Connections of one process of this PID namespace: one, and those of its threads that meet this process at the same time.
    const OF_PROCESS: usize = 16;
    /// Files of one connection.
    pub(super) const FILES: usize = 4096;

    pub(super) fn start(listener: OwnedFd) -> Result<Self, RendezvousError> {
        let wake = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK);
        let wake = wake.map_err(RendezvousError::of("make a wake-up"))?;
        let clients = Mutex::default();
        let shared = Arc::new(Shared { listener, wake, stops: AtomicBool::new(false), clients });
        let serving = Arc::clone(&shared);
        let thread =
            named_thread("nixl-rendezvous").spawn(move || serving.serve()).map_err(|error| {
                RendezvousError::System { call: "start a thread", error: error.into() }
            })?;
        Ok(Self { shared, thread: Mutex::new(Some(thread)) })
    }

    /// Ends the connections and the thread.
    pub(super) fn stop(&self) {
        self.shared.stops.store(true, Ordering::Release);
        let _ = rustix::io::write(&self.shared.wake, &1u64.to_ne_bytes());
        let thread = lock(&self.thread).take();
        if let Some(thread) = thread {
            let _ = thread.join();
        }
    }

    /// This process withdraws the file: a message goes at once to those that got it, before its pages are freed.
    pub(super) fn released(&self, name: &Name) {
        for client in self.shared.lock().iter_mut() {
            if client.given.remove(name)
                && let Some(socket) = &client.socket
                && !wire::send(socket, Kind::Released, *name, None)
            {
                // It does not read: it learns by the end of the connection.
                let _ = rustix::net::shutdown(socket, rustix::net::Shutdown::Both);
                client.socket = None;
            }
        }
    }

    /// The connections, past ones whose process may hold files included, and the files that they were given.
    pub(super) fn given(&self) -> (usize, usize) {
        let clients = self.shared.lock();
        (clients.len(), clients.iter().map(|client| client.given.len()).sum())
    }

    /// Whether a process that got the file may still have it mapped.
    pub(super) fn is_held(&self, name: &Name) -> bool {
        self.shared.lock().iter().any(|client| client.given.contains(name) && client.may_hold())
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Vec<Client>> {
        lock(&self.clients)
    }

    fn serve(&self) {
        while !self.stops.load(Ordering::Acquire) {
            let (sockets, awaits) = self.sockets();
            let own = [self.listener.as_fd(), self.wake.as_fd()];
            let all = own.into_iter().chain(sockets.iter().map(|socket| socket.as_fd()));
            let mut handles: Vec<_> =
                all.map(|fd| PollFd::from_borrowed_fd(fd, PollFlags::IN)).collect();
            let greeting = Timespec { tv_sec: 1, tv_nsec: 0 };
            if poll(&mut handles, awaits.then_some(&greeting)).is_err() {
                // Such as without memory: not at the cost of a processor.
                std::thread::sleep(PAUSE);
                continue;
            }
            let is_ready = |handle: &PollFd<'_>| !handle.revents().is_empty();
            let accepts = handles.first().is_some_and(is_ready);
            let clients = handles.iter().skip(own.len()).zip(&sockets);
            for (_, socket) in clients.filter(|(handle, _)| is_ready(handle)) {
                self.answer(socket);
            }
            if accepts {
                self.accept();
            }
        }
        for client in &mut *self.lock() {
            client.socket = None;
        }
    }

    /// The connections, and whether one of them has yet to introduce itself.
    fn sockets(&self) -> (Vec<Arc<OwnedFd>>, bool) {
        let mut clients = self.lock();
        clients.retain(|client| !client.is_late());
        let awaits = clients.iter().any(|client| client.process.is_none());
        (clients.iter().filter_map(|client| client.socket.clone()).collect(), awaits)
    }

    fn accept(&self) {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let Ok(socket) = accept_with(&self.listener, flags) else {
            // Without descriptors the connection waits: not at the cost of a processor.
            std::thread::sleep(PAUSE);
            return;
        };
        let mut clients = self.lock();
        clients.retain(|client| client.socket.is_some() || client.may_hold());
        if wire::check_user(&socket).is_err() {
            return;
        }
        let greets = || {
            let own = wire::this_process().ok()?;
            wire::send(&socket, Kind::Hello, [0; 16], Some(own.as_fd())).then_some(())
        };
        let pid = wire::process_of(&socket);
        let of_it = |client: &&Client| client.socket.is_some() && client.pid == pid;
        let may_connect =
            pid.is_none() || clients.iter().filter(of_it).count() < Server::OF_PROCESS;
        if may_connect && clients.len() < Server::MOST && greets().is_some() {
            let (socket, connected) = (Some(Arc::new(socket)), Instant::now());
            clients.push(Client { socket, connected, pid, process: None, given: HashSet::new() });
        }
    }

    /// Whether the process at the other end has introduced itself.
    fn is_known(&self, socket: &Arc<OwnedFd>) -> bool {
        self.lock().iter().any(|client| client.is_at(socket) && client.process.is_some())
    }

    /// Reads one message, and ends a connection that sends anything else.
    fn answer(&self, socket: &Arc<OwnedFd>) {
        let incoming = wire::receive(socket);
        // Calls of a driver: not under the lock.
        let piece = match &incoming {
            Incoming::Message(Message { kind: Kind::OpenPiece, name, number, .. })
                if self.is_known(socket) =>
            {
                own_piece(name, *number)
            }
            _ => None,
        };
        let mut clients = self.lock();
        let is_it = |client: &&mut Client| client.is_at(socket);
        let Some(client) = clients.iter_mut().find(is_it) else { return };
        let goes_on = match incoming {
            Incoming::Nothing => true,
            Incoming::End => false,
            Incoming::Message(message) => match (message.kind, message.descriptor) {
                (Kind::Hello, Some(process)) if client.process.is_none() => {
                    let process = Some(process).filter(wire::is_process);
                    let process = process.and_then(|claimed| wire::process_at(socket, claimed));
                    client.process = process.map(ProcessWatch::of_descriptor);
                    client.process.is_some()
                }
                (Kind::Open, None) if client.process.is_some() => {
                    match own_file(&message.name) {
                        Some(_) if client.given.len() >= Server::FILES => {
                            wire::send(socket, Kind::Full, message.name, None)
                        }
                        // Before it is sent: the client may have it as soon as it is.
                        Some(file) => {
                            client.given.insert(message.name);
                            wire::send(socket, Kind::File, message.name, Some(file.as_fd()))
                        }
                        None => wire::send(socket, Kind::Absent, message.name, None),
                    }
                }
                (Kind::OpenPiece, None) if client.process.is_some() => match piece {
                    Some(_) if client.given.len() >= Server::FILES => {
                        wire::send(socket, Kind::Full, message.name, None)
                    }
                    Some(piece) => {
                        client.given.insert(message.name);
                        let (len, descriptor, content) = piece.into_parts();
                        let about = (message.name, len, &*content);
                        let descriptor = descriptor.as_ref().map(AsFd::as_fd);
                        wire::send_with(socket, Kind::Piece, about, descriptor)
                    }
                    None => wire::send(socket, Kind::Absent, message.name, None),
                },
                _ => false,
            },
        };
        if !goes_on {
            end(&mut clients, socket);
        }
    }
}

/// Of a process with many connections one after the other, what it may hold is remembered once.
fn end(clients: &mut Vec<Client>, socket: &Arc<OwnedFd>) {
    let ended = clients.iter().position(|client| client.is_at(socket));
    let ended = ended.map(|at| clients.swap_remove(at));
    clients.retain(|client| client.socket.is_some() || client.may_hold());
    let Some(ended) = ended.map(|client| Client { socket: None, ..client }) else { return };
    let is_of_it = |client: &&mut Client| {
        ended.pid.is_some() && client.pid == ended.pid && client.socket.is_none()
    };
    match clients.iter_mut().find(is_of_it) {
        Some(before) => before.given.extend(ended.given),
        None if ended.may_hold() => clients.push(ended),
        None => {}
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use rustix::net::{SocketAddrUnix, bind, listen};
    use rustix::process::{Pid, PidfdFlags, pidfd_open};

    use super::super::SharedPieces;
    use super::super::pieces::{MemoryPiece, MemoryPieces};
    use super::*;
    use nixl_device::SharedError;

    struct OnePiece;

    impl MemoryPieces for OnePiece {
        fn piece(&self, offset: u64) -> Result<MemoryPiece, SharedError> {
            match offset {
                0 => Ok(MemoryPiece::new(1, None, [1])),
                _ => panic!("a panic of the memory"),
            }
        }
    }

    fn server() -> (Server, SocketAddrUnix) {
        let mut name = [0; 16];
        nixl_device::fill_random(&mut name).unwrap();
        let address = SocketAddrUnix::new_abstract_name(&name).unwrap();
        let socket = wire::socket().unwrap();
        bind(&socket, &address).unwrap();
        listen(&socket, 64).unwrap();
        (Server::start(socket).unwrap(), address)
    }

    fn memory() -> (SharedPieces, Name) {
        let shared = SharedPieces::new(1, Arc::new(OnePiece)).unwrap();
        let name = *shared.handle().to_bytes()[16..].first_chunk().unwrap();
        (shared, name)
    }

    /// The kind of the next message. `None` at the end of the connection.
    fn next(socket: &OwnedFd) -> Option<Kind> {
        assert!(wire::wait(socket, 60_000), "the process does not answer");
        match wire::receive(socket) {
            Incoming::Message(message) => Some(message.kind),
            _ => None,
        }
    }

    fn connect(address: &SocketAddrUnix) -> Option<OwnedFd> {
        let socket = wire::connect_to(address).unwrap();
        (next(&socket) == Some(Kind::Hello)).then_some(socket)
    }

    fn greeted(address: &SocketAddrUnix, process: &OwnedFd) -> Option<OwnedFd> {
        let socket = connect(address)?;
        assert!(wire::send(&socket, Kind::Hello, [0; 16], Some(process.as_fd())));
        Some(socket)
    }

    fn open(socket: &OwnedFd, name: Name, offset: u64) -> Option<Kind> {
        assert!(wire::send_with(socket, Kind::OpenPiece, (name, offset, &[]), None));
        next(socket)
    }

    #[test]
    #[cfg_attr(miri, ignore = "uses sockets")]
    fn a_connection_without_a_word_ends() {
        let (server, address) = server();
        let silent = connect(&address).unwrap();
        let own = wire::this_process().unwrap();
        let other = greeted(&address, &own).unwrap();
        assert_eq!(open(&other, [1; 16], 0), Some(Kind::Absent));
        assert_eq!(next(&silent), None);
        assert_eq!(open(&other, [1; 16], 0), Some(Kind::Absent), "the other one lasts");
        server.stop();
    }

    #[test]
    #[cfg_attr(miri, ignore = "uses sockets")]
    fn one_process_does_not_take_all_connections() {
        let (server, address) = server();
        let own = wire::this_process().unwrap();
        let mut kept: Vec<_> =
            (0..Server::OF_PROCESS).map(|_| greeted(&address, &own).unwrap()).collect();
        assert!(connect(&address).is_none());
        let last = kept.pop().unwrap();
        assert_eq!(open(&last, [1; 16], 0), Some(Kind::Absent));
        // Another kind ends it.
        assert_eq!(wire::send(&last, Kind::Full, [0; 16], None).then(|| next(&last)), Some(None));
        assert!(greeted(&address, &own).is_some());
        server.stop();
    }

    #[test]
    #[cfg_attr(miri, ignore = "uses sockets")]
    fn what_a_process_got_by_many_connections_is_remembered_once() {
        let (server, address) = server();
        let own = wire::this_process().unwrap();
        let (_shared, name) = memory();
        for _ in 0..2 * Server::OF_PROCESS {
            let socket = greeted(&address, &own).unwrap();
            assert_eq!(open(&socket, name, 0), Some(Kind::Piece));
            assert!(wire::send(&socket, Kind::Full, [0; 16], None));
            assert_eq!(next(&socket), None);
        }
        assert_eq!(server.given(), (1, 1));
        assert!(server.is_held(&name));
        server.stop();
    }

    #[test]
    #[cfg_attr(miri, ignore = "uses sockets")]
    fn a_panic_of_the_memory_does_not_end_the_thread() {
        let (server, address) = server();
        let (_shared, name) = memory();
        let socket = greeted(&address, &wire::this_process().unwrap()).unwrap();
        assert_eq!(open(&socket, name, 1), Some(Kind::Absent));
        assert_eq!(open(&socket, name, 0), Some(Kind::Piece));
        server.stop();
    }

    #[test]
    #[cfg_attr(miri, ignore = "uses sockets and starts a process")]
    fn the_kernel_names_the_process_that_holds_a_file() {
        let (server, address) = server();
        let mut child = std::process::Command::new("true").spawn().unwrap();
        let pid = Pid::from_child(&child);
        let ended = pidfd_open(pid, PidfdFlags::empty()).unwrap();
        child.wait().unwrap();
        let (_shared, name) = memory();
        // This process, which lasts, names one that has ended.
        let socket = greeted(&address, &ended).unwrap();
        assert_eq!(open(&socket, name, 0), Some(Kind::Piece));
        let is_named =
            nix::sys::socket::getsockopt(&socket, nix::sys::socket::sockopt::PeerPidfd).is_ok();
        assert_eq!(server.is_held(&name), is_named);
        server.stop();
    }
}
