//! The rendezvous of processes of one host in separate containers: descriptors through a Unix socket in a folder that all see.
//!
//! Processes of one PID namespace open each other's files through `/proc`. Others cannot, and a number of a process there means
//! another one here. With a [`Rendezvous`] each process listens on a socket in the folder, under the numbers of its PID namespace
//! and of itself. A peer with a file's random name receives its descriptor (`SCM_RIGHTS`).
//!
//! | file | content |
//! |---|---|
//! | `folder.rs` | the folder: checks, names of sockets, sockets of processes that have ended |
//! | `wire.rs` | messages with descriptors; the check of the other side's user |
//! | `server.rs` | the thread that gives files away, and what it has given to which process |
//! | `link.rs` | the connection to another process, and what is known of its files |
//! | `table.rs` | links and names of this process |
//! | `neighbours.rs` | the socket for processes of this PID namespace, which need no folder |
//! | `pieces.rs` | memory that is opened piece by piece, such as a GPU's of the VMM API |

mod error;
mod folder;
mod link;
mod neighbours;
mod pieces;
mod server;
mod table;
mod wire;

use std::fmt;
use std::num::NonZeroU64;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Weak};

use nixl_device::{ExitWatch, LeakInChild, ProcessExits};

pub use error::RendezvousError;
use folder::Folder;
pub(crate) use link::LinkError;
pub use pieces::{MemoryPiece, MemoryPieces, PiecesError, PiecesHandle, SharedPieces};
use server::Server;
pub(crate) use table::{FileOwner, held_elsewhere, note, owner_of, released};

/// A folder in which this process meets others of the same host and user, as long as this lives.
///
/// A peer needs the random name of a file, which travels in metadata, to get the file. The system names the user on the other
/// side of a socket (`SO_PEERCRED`): processes of other users get nothing and are believed nothing.
pub struct Rendezvous {
    server: LeakInChild<Server>,
    folder: Folder,
}

/// A process of this host in another PID namespace.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub struct ForeignProcess {
    namespace: NonZeroU64,
    pid: u32,
}

/// The state of the rendezvous with a process of another PID namespace.
#[derive(Clone, Copy, Debug, Default, Eq, Hash, PartialEq)]
#[non_exhaustive]
pub enum RendezvousState {
    /// This process has no rendezvous folder.
    #[default]
    NoFolder,
    /// The peer is not there: it has none, or another, or is of another user.
    Absent,
    /// Its files can be opened here.
    Connected,
}

impl Rendezvous {
    /// Listens in `folder`, which has to be there: of this user or of root, and writable. A volume that both containers mount, such as an
    /// `emptyDir` or a `hostPath`, at any place. The sockets of processes that have ended are removed from it. Of two calls with one
    /// folder both get the same. Starts a thread, which sleeps until a peer comes.
    ///
    /// *Blocking*, for some hundred microseconds.
    ///
    /// # Errors
    ///
    /// [`RendezvousError`]
    pub fn open(folder: impl AsRef<Path>) -> Result<Arc<Self>, RendezvousError> {
        let folder = Folder::open(folder.as_ref())?;
        table::entered(folder.path(), || {
            let server = LeakInChild::new(Server::start(folder.listen()?)?);
            Ok(Arc::new(Self { server, folder: folder.clone() }))
        })
    }

    /// The folder.
    #[must_use]
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    fn server(&self) -> &Server {
        &self.server
    }

    fn path_of(&self, process: ForeignProcess) -> PathBuf {
        self.folder.socket_of(process.namespace, process.pid)
    }
}

impl Drop for Rendezvous {
    fn drop(&mut self) {
        // A child of a fork has another number, and the socket is its parent's.
        if !self.server.is_inherited() {
            self.server.stop();
            self.folder.leave();
        }
    }
}

impl ForeignProcess {
    /// A process of this host by the numbers of its PID namespace and itself.
    fn any(namespace: NonZeroU64, pid: u32) -> Self {
        Self { namespace, pid }
    }

    /// The process of this number in the PID namespace of this inode. `None` if that is this process's own namespace, or is not known.
    #[must_use]
    pub fn new(namespace: Option<NonZeroU64>, pid: u32) -> Option<Self> {
        let namespace = namespace.filter(|namespace| Some(*namespace) != table::namespace())?;
        (pid != 0).then_some(Self { namespace, pid })
    }

    /// The state of the rendezvous. Does not block.
    #[must_use]
    pub fn rendezvous_state(self) -> RendezvousState {
        table::state(self)
    }

    /// Whether [`meet`](Self::meet) would try: the process is not met, and the last failure is more than a second ago. Does not block.
    #[must_use]
    pub fn may_be_met(self) -> bool {
        table::is_due(self)
    }

    /// Calls `on_exit` once, when the process has ended, as [`ProcessExits::watch_process`] does. `None` if it is not met.
    #[must_use]
    pub fn watch(self, on_exit: impl FnOnce() + Send + 'static) -> Option<ExitWatch> {
        let process = table::process_of(self)?;
        ProcessExits::global().watch_process(&process, on_exit).ok()
    }

    /// *Blocking*, for a quarter of a second at most. Meets the process, unless it was met. A failure is remembered for a second.
    ///
    /// # Errors
    ///
    /// [`RendezvousError`]
    pub fn meet(self) -> Result<(), RendezvousError> {
        table::link(self).map(drop)
    }
}

impl fmt::Debug for Rendezvous {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut out = f.debug_struct("Rendezvous");
        out.field("folder", &self.folder.path());
        if !self.server.is_inherited() {
            let (connections, files) = self.server.given();
            let (processes, names) = table::counts();
            out.field("connections", &connections)
                .field("files_given", &files)
                .field("processes_met", &processes)
                .field("files_noted", &names);
        }
        out.finish_non_exhaustive()
    }
}

type Folders = Vec<Weak<Rendezvous>>;
