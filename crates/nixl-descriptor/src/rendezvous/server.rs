//! The thread of a rendezvous that gives files away.

use std::collections::HashSet;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread::JoinHandle;
use std::time::Duration;

use nixl_device::locks::lock;
use nixl_device::{ProcessWatch, named_thread};

use rustix::event::{EventfdFlags, PollFd, PollFlags, eventfd, poll};
use rustix::net::{SocketFlags, accept_with};

use super::RendezvousError;
use super::pieces::own_piece;
use super::wire::{self, Incoming, Kind, Message, Name};
use crate::shared::own_file;

/// Before a call that the system refused is repeated.
const PAUSE: Duration = Duration::from_millis(10);

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
    /// After its first message.
    process: Option<ProcessWatch>,
    given: HashSet<Name>,
}

impl Client {
    fn is_at(&self, socket: &Arc<OwnedFd>) -> bool {
        self.socket.as_ref().is_some_and(|known| Arc::ptr_eq(known, socket))
    }

    /// It may have files mapped that it got, also after the end of its connection.
    fn may_hold(&self) -> bool {
        !self.given.is_empty() && self.process.as_ref().is_none_or(|process| !process.has_ended())
    }
}

impl Server {
    /// Connections, and processes that were connected and got files.
    const MOST: usize = 1024;
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
            let sockets: Vec<_> =
                self.lock().iter().filter_map(|client| client.socket.clone()).collect();
            let own = [self.listener.as_fd(), self.wake.as_fd()];
            let all = own.into_iter().chain(sockets.iter().map(|socket| socket.as_fd()));
            let mut handles: Vec<_> =
                all.map(|fd| PollFd::from_borrowed_fd(fd, PollFlags::IN)).collect();
            if poll(&mut handles, None).is_err() {
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
        if clients.len() < Server::MOST && greets().is_some() {
            let socket = Some(Arc::new(socket));
            clients.push(Client { socket, process: None, given: HashSet::new() });
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
                    let is_process = wire::is_process(&process);
                    client.process = is_process.then(|| ProcessWatch::of_descriptor(process));
                    is_process
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
            client.socket = None;
            clients.retain(|client| client.socket.is_some() || client.may_hold());
        }
    }
}
