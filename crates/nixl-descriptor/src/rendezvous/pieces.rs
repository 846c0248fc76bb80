//! Memory that other processes of the host open piece by piece.

use std::collections::HashMap;
use std::fmt;
use std::num::NonZeroU64;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, MutexGuard};

use nixl_device::locks::lock;
use nixl_device::{
    Advice, ExitWatch, PerProcess, ProcessError, ProcessExits, SharedError, fill_random,
};
use rustix::io::Errno;

use super::link::LinkError;
use super::server::Server;
use super::wire::{Message, Name};
use super::{ForeignProcess, RendezvousError, table};
use crate::disposal::contained;

/// Memory that others open piece by piece, such as allocations of a GPU's VMM API.
pub trait MemoryPieces: Send + Sync + 'static {
    /// *Blocking.* The piece that begins at an offset of the memory. A peer chooses the offset.
    ///
    /// # Errors
    ///
    /// No piece begins there, or it is there no more.
    fn piece(&self, offset: u64) -> Result<MemoryPiece, SharedError>;
}

/// A piece of memory on its way to another process.
#[derive(Debug)]
pub struct MemoryPiece {
    len: u64,
    descriptor: Option<OwnedFd>,
    content: Box<[u8]>,
}

impl MemoryPiece {
    /// A piece of `len` bytes that is opened by a descriptor, by `content` of 128 bytes at most, or by both.
    #[must_use]
    pub fn new(len: u64, descriptor: Option<OwnedFd>, content: impl Into<Box<[u8]>>) -> Self {
        Self { len, descriptor, content: content.into() }
    }

    /// The number of its bytes, and what it is opened by.
    #[must_use]
    pub fn into_parts(self) -> (u64, Option<OwnedFd>, Box<[u8]>) {
        (self.len, self.descriptor, self.content)
    }
}

/// Memory of this process that others with its [handle](Self::handle) get piece by piece, until this is dropped.
pub struct SharedPieces {
    handle: PiecesHandle,
}

/// The name of memory in pieces for other processes of the host: where its process is met, and a random name, by which alone that
/// gives the memory away.
#[derive(Clone, Copy, Eq, Hash, PartialEq)]
pub struct PiecesHandle {
    namespace: NonZeroU64,
    pid: u32,
    name: Name,
    len: u64,
}

/// Why a piece of memory of another process does not come.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum PiecesError {
    /// The process cannot be met.
    #[error(transparent)]
    Rendezvous(#[from] RendezvousError),
    /// The process does not have the memory, or no such piece of it.
    #[error("the process does not have the memory any more, or gives none of it away at {offset}")]
    Absent {
        /// The offset in the memory.
        offset: u64,
    },
    /// The process has ended, or does not answer.
    #[error("the process that has the memory has ended or does not answer")]
    Lost,
}

impl PiecesError {
    /// The remedy.
    #[must_use]
    pub fn advice(&self) -> Advice {
        match self {
            Self::Rendezvous(error) => error.advice(),
            Self::Absent { .. } => Advice::AskAgain,
            Self::Lost => Advice::Retry,
        }
    }
}

/// A child of a fork does not give away what it inherits.
static OWN: PerProcess<Mutex<HashMap<Name, Arc<dyn MemoryPieces>>>> =
    PerProcess::new(Mutex::default);

fn own() -> MutexGuard<'static, HashMap<Name, Arc<dyn MemoryPieces>>> {
    lock(OWN.get())
}

/// *Blocking.* A piece of memory that this process shares. Of memory that panics there is none: one thread serves all peers.
pub(super) fn own_piece(name: &Name, offset: u64) -> Option<MemoryPiece> {
    let pieces = own().get(name).cloned()?;
    let piece = contained(|| pieces.piece(offset))?.ok();
    contained(|| drop(pieces));
    piece
}

impl SharedPieces {
    /// Shares `len` bytes. Listens for processes of this PID namespace from now on; those of others meet this one in a
    /// [folder](super::Rendezvous).
    ///
    /// # Errors
    ///
    /// [`RendezvousError`]: this process cannot listen, or its PID namespace is not known.
    pub fn new(len: u64, pieces: Arc<dyn MemoryPieces>) -> Result<Self, RendezvousError> {
        table::serve_neighbours()?;
        let system = |error: std::io::Error| RendezvousError::System {
            call: "make a random name",
            error: error.into(),
        };
        let mut name = [0; 16];
        fill_random(&mut name).map_err(system)?;
        let namespace = table::namespace().ok_or(RendezvousError::NotThere)?;
        own().insert(name, pieces);
        Ok(Self { handle: PiecesHandle { namespace, pid: std::process::id(), name, len } })
    }

    /// The name for other processes.
    #[must_use]
    pub fn handle(&self) -> PiecesHandle {
        self.handle
    }
}

impl Drop for SharedPieces {
    fn drop(&mut self) {
        let shared = own().remove(&self.handle.name);
        // A child of a fork has not shared it.
        if shared.is_some() {
            super::released(&self.handle.name);
        }
    }
}

impl fmt::Debug for SharedPieces {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SharedPieces").field("handle", &self.handle).finish()
    }
}

impl PiecesHandle {
    /// By which its bytes differ from CUDA's handles, which are as long.
    const TAG: [u8; 16] = *b"\x9enixl pieces v1\x01";

    /// The number of bytes of the memory, as its process states it.
    #[must_use]
    #[expect(clippy::len_without_is_empty, reason = "a claim of a peer")]
    pub const fn len(&self) -> u64 {
        self.len
    }

    /// 64 bytes that name the memory, in the place of CUDA's handle, and the number of its bytes in little endian.
    #[must_use]
    pub fn to_bytes(&self) -> [u8; 72] {
        let mut bytes = [0; 72];
        bytes[..16].copy_from_slice(&Self::TAG);
        bytes[16..32].copy_from_slice(&self.name);
        bytes[32..40].copy_from_slice(&self.namespace.get().to_le_bytes());
        bytes[40..44].copy_from_slice(&self.pid.to_le_bytes());
        bytes[64..].copy_from_slice(&self.len.to_le_bytes());
        bytes
    }

    /// The handle that these bytes are. `None` if they are CUDA's or no handle.
    #[must_use]
    pub fn from_bytes(bytes: &[u8; 72]) -> Option<Self> {
        let (tag, rest) = bytes.split_first_chunk::<16>()?;
        let (name, rest) = rest.split_first_chunk()?;
        let (namespace, rest) = rest.split_first_chunk()?;
        let (pid, rest) = rest.split_first_chunk()?;
        let (zeros, len) = rest.split_first_chunk::<20>()?;
        let namespace = NonZeroU64::new(u64::from_le_bytes(*namespace))?;
        let (pid, len) = (u32::from_le_bytes(*pid), u64::from_le_bytes(*len.first_chunk()?));
        let is_one = *tag == Self::TAG && *zeros == [0; 20] && pid != 0;
        is_one.then_some(Self { namespace, pid, name: *name, len })
    }

    /// Whether this process shares the memory.
    #[must_use]
    pub fn is_own(&self) -> bool {
        own().contains_key(&self.name)
    }

    /// *Blocking*, for a quarter of a second at most. The piece that begins at an offset, as the other process chose to send it.
    ///
    /// # Errors
    ///
    /// [`PiecesError`]
    pub fn piece(&self, offset: u64) -> Result<MemoryPiece, PiecesError> {
        let link = table::link(self.process())?;
        let answer = link.piece(&self.name, offset).map_err(|error| match error {
            LinkError::Absent => PiecesError::Absent { offset },
            LinkError::Lost => PiecesError::Lost,
            LinkError::Full => RendezvousError::TooManyFiles { most: Server::FILES }.into(),
            LinkError::NoDescriptor => no_descriptor(),
        })?;
        let Message { number: len, descriptor, content, .. } = answer;
        if descriptor.is_none() && content.is_empty() {
            return Err(no_descriptor());
        }
        Ok(MemoryPiece { len, descriptor, content })
    }

    /// Whether the process has the memory as when a [piece](Self::piece) of it came. Does not block.
    #[must_use]
    pub fn is_there(&self) -> bool {
        table::known_link(self.process()).is_some_and(|link| link.has(&self.name))
    }

    /// Whether the process certainly has it no more.
    #[must_use]
    pub fn is_gone(&self) -> bool {
        match table::known_link(self.process()) {
            Some(link) => link.has_let_go(&self.name),
            None => table::has_ended(self.process()),
        }
    }

    /// *Blocking*, for half a second at most. Calls `on_exit` once, when the process that has the memory has ended, as
    /// [`ProcessExits::watch`] does: also one in another PID namespace.
    ///
    /// # Errors
    ///
    /// As there; [`ProcessError::NotThere`] for a process that cannot be met.
    pub fn watch_owner(
        &self,
        on_exit: impl FnOnce() + Send + 'static,
    ) -> Result<ExitWatch, ProcessError> {
        let link = table::link(self.process());
        let link = link.map_err(|_| ProcessError::NotThere { pid: self.pid })?;
        ProcessExits::global().watch_process(link.process(), on_exit)
    }

    fn process(&self) -> ForeignProcess {
        ForeignProcess::any(self.namespace, self.pid)
    }
}

/// Shows nothing that opens the memory.
impl fmt::Debug for PiecesHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PiecesHandle").field("len", &self.len).finish_non_exhaustive()
    }
}

/// The system has cut off a descriptor for which this process has no room.
fn no_descriptor() -> PiecesError {
    RendezvousError::of("receive a descriptor")(Errno::MFILE).into()
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use std::fs::File;
    use std::io::{Read as _, Seek as _, Write as _};

    use proptest::prelude::*;

    use super::*;

    const PIECE: u64 = 100;

    /// Three pieces, of which the last has no descriptor.
    struct Files;

    impl MemoryPieces for Files {
        fn piece(&self, offset: u64) -> Result<MemoryPiece, SharedError> {
            if !offset.is_multiple_of(PIECE) || offset >= 2 * PIECE {
                return Err(SharedError::text("no piece begins there"));
            }
            let flags = rustix::fs::MemfdFlags::CLOEXEC;
            let mut file = File::from(rustix::fs::memfd_create("piece", flags).unwrap());
            write!(file, "piece at {offset}").unwrap();
            let content = vec![7; (offset / 2) as usize];
            Ok(MemoryPiece::new(PIECE, Some(file.into()), content))
        }
    }

    #[test]
    #[cfg_attr(miri, ignore = "uses sockets")]
    fn pieces_come_by_name_until_they_are_withdrawn() {
        let shared = SharedPieces::new(3 * PIECE, Arc::new(Files)).unwrap();
        let handle = PiecesHandle::from_bytes(&shared.handle().to_bytes()).unwrap();
        assert_eq!((handle, handle.len(), handle.is_own()), (shared.handle(), 300, true));
        assert!(!handle.is_there(), "it was not asked for");
        for offset in [0, PIECE] {
            let piece = handle.piece(offset).unwrap();
            assert_eq!((piece.len, piece.content.len() as u64), (PIECE, offset / 2));
            let (mut file, mut text) = (File::from(piece.descriptor.unwrap()), String::new());
            file.rewind().unwrap();
            file.read_to_string(&mut text).unwrap();
            assert_eq!(text, format!("piece at {offset}"));
        }
        assert!(handle.is_there() && !handle.is_gone());
        assert!(!handle.watch_owner(|| {}).unwrap().process().has_ended());
        for offset in [1, 2 * PIECE, u64::MAX] {
            assert_eq!(handle.piece(offset).unwrap_err(), PiecesError::Absent { offset });
        }
        handle.piece(0).unwrap();
        drop(shared);
        assert!(!handle.is_there() && handle.is_gone() && !handle.is_own());
        assert_eq!(handle.piece(0).unwrap_err(), PiecesError::Absent { offset: 0 });
    }

    #[test]
    #[cfg_attr(miri, ignore = "uses sockets")]
    fn the_name_alone_opens_and_other_processes_are_not_asked() {
        let shared = SharedPieces::new(PIECE, Arc::new(Files)).unwrap();
        let own = shared.handle();
        let other = PiecesHandle { name: [7; 16], ..own };
        assert_eq!(other.piece(0).unwrap_err(), PiecesError::Absent { offset: 0 });
        // No such process listens, in this namespace or another.
        for handle in [
            PiecesHandle { pid: u32::MAX, ..own },
            PiecesHandle { namespace: NonZeroU64::MAX, ..own },
        ] {
            let refused = handle.piece(0).unwrap_err();
            assert!(matches!(refused, PiecesError::Rendezvous(_)), "{refused}");
            let refused = handle.watch_owner(|| {}).unwrap_err();
            assert!(matches!(refused, ProcessError::NotThere { .. }), "{refused}");
            assert!(!handle.is_there() && !handle.is_gone());
        }
    }

    #[test]
    #[cfg_attr(miri, ignore = "uses sockets")]
    fn a_process_that_took_the_name_of_another_is_not_asked() {
        let namespace = table::namespace().unwrap();
        // A number that no process has.
        let taken = super::super::neighbours::address(namespace, u32::MAX - 1).unwrap();
        let socket = super::super::wire::socket().unwrap();
        rustix::net::bind(&socket, &taken).unwrap();
        rustix::net::listen(&socket, 1).unwrap();
        let handle = PiecesHandle { namespace, pid: u32::MAX - 1, name: [1; 16], len: 1 };
        let refused = PiecesError::Rendezvous(RendezvousError::NotThere);
        assert_eq!(handle.piece(0).unwrap_err(), refused);
    }

    #[test]
    fn every_error_is_decided() {
        assert_eq!(PiecesError::Absent { offset: 1 }.advice(), Advice::AskAgain);
        assert_eq!(PiecesError::Lost.advice(), Advice::Retry);
        let refused = PiecesError::Rendezvous(RendezvousError::NotConfigured);
        assert_eq!(refused.advice(), Advice::GiveUp);
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]
        #[test]
        fn handles_round_trip_and_other_bytes_are_none(
            name in any::<[u8; 16]>(),
            namespace in 1u64..,
            pid in 1u32..,
            len in any::<u64>(),
            at in 0..64_usize,
        ) {
            let namespace = NonZeroU64::new(namespace).unwrap();
            let handle = PiecesHandle { namespace, pid, name, len };
            let mut bytes = handle.to_bytes();
            prop_assert_eq!(PiecesHandle::from_bytes(&bytes), Some(handle));
            bytes[at] ^= 0x10;
            prop_assert_ne!(PiecesHandle::from_bytes(&bytes), Some(handle));
            prop_assert_eq!(PiecesHandle::from_bytes(&[0xA5; 72]), None);
        }
    }
}
