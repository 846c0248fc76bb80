//! The connection to another process, and what is known of its files.

use std::collections::HashMap;
use std::fmt;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use nixl_device::ProcessWatch;
use nixl_device::locks::{lock, try_lock};
use rustix::io::Errno;
use rustix::net::SocketAddrUnix;

use super::RendezvousError;
use super::server::Server;
use super::wire::{self, Incoming, Kind, Message, Name};
use crate::shared::{Presence, Unprovable};

/// A connection to a process that gives its files to this one.
pub(crate) struct Link {
    socket: OwnedFd,
    process: Arc<ProcessWatch>,
    ended: AtomicBool,
    /// Whether the process has the requested files.
    files: Mutex<HashMap<Name, bool>>,
    /// Held by the one that reads the socket.
    reading: Mutex<()>,
}

/// Why a file does not come.
pub(crate) enum LinkError {
    /// The process does not have it.
    Absent,
    /// The connection has ended, or the process does not answer.
    Lost,
    /// The process gives no further files to this one.
    Full,
    /// This process can open no further file.
    NoDescriptor,
}

impl Link {
    /// For which an answer is waited for.
    const PATIENCE: Duration = Duration::from_millis(250);
    /// Messages of one look: more than a socket holds, and as many as there are files to release.
    const MOST: usize = Server::FILES;

    /// *Blocking.* To the process that listens there, which has this number if one is given.
    pub(super) fn to(
        address: &SocketAddrUnix,
        number: Option<u32>,
    ) -> Result<Self, RendezvousError> {
        let socket = wire::connect_to(address)?;
        if number.is_some() && wire::process_of(&socket) != number {
            return Err(RendezvousError::NotThere);
        }
        let own = wire::this_process()?;
        if !wire::send(&socket, Kind::Hello, [0; 16], Some(own.as_fd())) {
            return Err(RendezvousError::Silent);
        }
        let process = match next(&socket, Instant::now()) {
            Next::Message(Message { kind: Kind::Hello, descriptor: Some(process), .. })
                if wire::is_process(&process) =>
            {
                process
            }
            Next::Message(Message { kind: Kind::Hello, descriptor: None, .. }) => {
                return Err(RendezvousError::of("receive a descriptor")(Errno::MFILE));
            }
            // A process with too many connections ends this one.
            Next::End | Next::Late => return Err(RendezvousError::Silent),
            Next::Message(_) => return Err(RendezvousError::Protocol),
        };
        Ok(Self::of(socket, process))
    }

    fn of(socket: OwnedFd, process: OwnedFd) -> Self {
        Self {
            socket,
            process: Arc::new(ProcessWatch::of_descriptor(process)),
            ended: AtomicBool::new(false),
            files: Mutex::default(),
            reading: Mutex::default(),
        }
    }

    /// *Blocking.* The file of this name, as its process opened it.
    pub(crate) fn file(&self, name: &Name) -> Result<OwnedFd, LinkError> {
        let answer = self.request(Kind::Open, (*name, 0), Kind::File)?;
        // The system cuts off a descriptor for which this process has no room.
        answer.descriptor.ok_or(LinkError::NoDescriptor)
    }

    /// *Blocking.* The piece of memory that begins at an offset, as the process sends it.
    pub(super) fn piece(&self, name: &Name, offset: u64) -> Result<Message, LinkError> {
        self.request(Kind::OpenPiece, (*name, offset), Kind::Piece)
    }

    fn request(
        &self,
        kind: Kind,
        (name, number): (Name, u64),
        answer: Kind,
    ) -> Result<Message, LinkError> {
        let _reading = lock(&self.reading);
        if self.ended.load(Ordering::Acquire)
            || !wire::send_with(&self.socket, kind, (name, number, &[]), None)
        {
            return self.lost();
        }
        // Known from now on, for the message that it is released.
        self.lock().insert(name, true);
        let began = Instant::now();
        self.await_answer(&name, answer, began, || next(&self.socket, began))
    }

    fn await_answer(
        &self,
        name: &Name,
        answer: Kind,
        began: Instant,
        mut next: impl FnMut() -> Next,
    ) -> Result<Message, LinkError> {
        loop {
            let Next::Message(message) = next() else { return self.lost() };
            match (message.kind, &message.descriptor) {
                (kind, _) if kind == answer && message.name == *name => return Ok(message),
                (Kind::Full, None) if message.name == *name => return Err(LinkError::Full),
                (Kind::Absent, None) if message.name == *name => {
                    self.note_released(name);
                    return Err(LinkError::Absent);
                }
                // Others in the place of the answer do not prolong the wait.
                (Kind::Released, None) if began.elapsed() < Self::PATIENCE => {
                    self.note_released(&message.name);
                }
                _ => return self.lost(),
            }
        }
    }

    fn lost<T>(&self) -> Result<T, LinkError> {
        self.ended.store(true, Ordering::Release);
        Err(LinkError::Lost)
    }

    /// Whether the process has the file. Reads its messages that have arrived: about a microsecond.
    pub(crate) fn has(&self, name: &Name) -> bool {
        self.look();
        self.is_live() && self.lock().get(name) == Some(&true)
    }

    /// Whether the process certainly has the file no more, which it had.
    pub(crate) fn has_let_go(&self, name: &Name) -> bool {
        self.look();
        self.lock().get(name) == Some(&false) || self.process.has_ended()
    }

    /// *Blocking* for a file that was not requested before.
    pub(crate) fn presence(&self, name: &Name) -> Presence {
        self.look();
        let known = self.lock().get(name).copied();
        let known = match known {
            None => match self.file(name) {
                Ok(_) | Err(LinkError::Full | LinkError::NoDescriptor) => Some(true),
                Err(LinkError::Absent) => Some(false),
                Err(LinkError::Lost) => None,
            },
            known => known,
        };
        match known {
            Some(false) => Presence::Absent,
            _ if self.process.has_ended() => Presence::Absent,
            Some(true) if self.is_live() => Presence::Here,
            _ => Presence::Unknown(Unprovable::NotMet),
        }
    }

    /// The process on the other side.
    pub(crate) fn process(&self) -> &Arc<ProcessWatch> {
        &self.process
    }

    /// Whether the connection lasts, as far as is known.
    pub(super) fn is_live(&self) -> bool {
        !self.ended.load(Ordering::Acquire)
    }

    /// Whether the connection lasts. Reads its messages that have arrived.
    pub(super) fn is_still_live(&self) -> bool {
        self.look();
        self.is_live() && !self.process.has_ended()
    }

    /// Whether the process has the file, as far as is known.
    pub(super) fn knows(&self, name: &Name) -> bool {
        self.is_live() && self.lock().get(name) != Some(&false)
    }

    /// Reads what has come, unless another thread does. A process that writes as fast as this one reads is given up.
    pub(super) fn look(&self) {
        let Some(_reading) = try_lock(&self.reading) else { return };
        self.read_all(|| wire::receive(&self.socket));
    }

    fn read_all(&self, mut receive: impl FnMut() -> Incoming) {
        for _ in 0..=Self::MOST {
            if !self.is_live() {
                return;
            }
            match receive() {
                Incoming::Nothing => return,
                Incoming::Message(Message { kind: Kind::Released, name, .. }) => {
                    self.note_released(&name);
                }
                Incoming::Message(_) | Incoming::End => self.ended.store(true, Ordering::Release),
            }
        }
        self.ended.store(true, Ordering::Release);
    }

    /// Names that were never requested are not kept.
    fn note_released(&self, name: &Name) {
        if let Some(is_there) = self.lock().get_mut(name) {
            *is_there = false;
        }
    }

    /// The name is not requested any more.
    pub(super) fn forget(&self, name: &Name) {
        self.lock().remove(name);
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Name, bool>> {
        lock(&self.files)
    }
}

impl fmt::Debug for Link {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Link").field("live", &self.is_live()).finish_non_exhaustive()
    }
}

enum Next {
    Message(Message),
    End,
    Late,
}

/// The next message.
fn next(socket: &OwnedFd, began: Instant) -> Next {
    loop {
        match wire::receive(socket) {
            Incoming::Message(message) => return Next::Message(message),
            Incoming::End => return Next::End,
            Incoming::Nothing => {}
        }
        let left = Link::PATIENCE.saturating_sub(began.elapsed());
        if left.is_zero() {
            return Next::Late;
        }
        wire::wait(socket, i64::try_from(left.as_millis()).unwrap_or(1).max(1));
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};

    use super::*;

    const NAME: Name = [7; 16];

    fn link() -> (Link, OwnedFd) {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let (own, other) =
            socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None).unwrap();
        (Link::of(own, wire::this_process().unwrap()), other)
    }

    fn released() -> Message {
        Message {
            kind: Kind::Released,
            name: [1; 16],
            number: 0,
            content: [].into(),
            descriptor: None,
        }
    }

    #[test]
    #[cfg_attr(miri, ignore = "uses sockets")]
    fn messages_without_end_do_not_hold_a_look_up() {
        let (link, _other) = link();
        let mut left = Link::MOST;
        link.read_all(|| match left.checked_sub(1) {
            Some(fewer) => {
                left = fewer;
                Incoming::Message(released())
            }
            None => Incoming::Nothing,
        });
        assert!(link.is_live(), "all files of a connection may be released at once");
        link.read_all(|| Incoming::Message(released()));
        assert!(!link.is_live());
    }

    #[test]
    #[cfg_attr(miri, ignore = "uses sockets")]
    fn messages_without_end_do_not_prolong_the_wait_for_an_answer() {
        let (link, _other) = link();
        let began = Instant::now();
        let answer = link.await_answer(&NAME, Kind::File, began, || Next::Message(released()));
        assert!(matches!(answer, Err(LinkError::Lost)) && !link.is_live());
    }
}
