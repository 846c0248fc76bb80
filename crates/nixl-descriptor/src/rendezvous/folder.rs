//! The folder of a rendezvous and the sockets in it.

use std::num::NonZeroU64;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use nixl_device::MachineIdentity;
use rustix::io::Errno;
use rustix::net::{SocketAddrUnix, bind, listen};
use rustix::process::geteuid;

use super::{RendezvousError, table, wire};

/// A folder in which this process may make a socket.
#[derive(Clone, Debug)]
pub(super) struct Folder {
    path: PathBuf,
    /// The names of all sockets of this boot of this host begin so. Those of other hosts, with which a folder may be shared, are left
    /// alone.
    boot: String,
}

impl Folder {
    /// The most entries that are looked at for sockets of processes that have ended.
    const MOST: usize = 4096;
    /// Bytes of a socket's path, without the zero at its end.
    const LONGEST: usize = 107;
    const BACKLOG: i32 = 64;

    pub(super) fn open(path: &Path) -> Result<Self, RendezvousError> {
        let missing = |error: std::io::Error| RendezvousError::NoFolder {
            folder: path.to_owned(),
            error: error.into(),
        };
        let found = path.canonicalize().map_err(missing)?;
        let metadata = found.metadata().map_err(missing)?;
        if !metadata.is_dir() {
            return Err(missing(Errno::NOTDIR.into()));
        }
        let (owner, user) = (metadata.uid(), geteuid().as_raw());
        if owner != user && owner != 0 {
            return Err(RendezvousError::ForeignFolder { folder: found, owner, user });
        }
        let boot = MachineIdentity::discover().boot_id().unwrap_or_default().to_owned();
        let boot = boot.get(..8).unwrap_or("unknown").to_owned();
        let folder = Self { path: found, boot };
        let len = folder.own().as_os_str().as_bytes().len();
        match len <= Self::LONGEST {
            true => Ok(folder),
            false => {
                Err(RendezvousError::TooLong { folder: folder.path, len, most: Self::LONGEST })
            }
        }
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// The socket of a process.
    pub(super) fn socket_of(&self, namespace: NonZeroU64, pid: u32) -> PathBuf {
        self.path.join(format!("{}-{namespace:x}-{pid}", self.boot))
    }

    fn own(&self) -> PathBuf {
        self.socket_of(table::namespace().unwrap_or(NonZeroU64::MIN), std::process::id())
    }

    /// The socket of this process, which listens.
    pub(super) fn listen(&self) -> Result<OwnedFd, RendezvousError> {
        self.sweep();
        let failed = |errno| RendezvousError::of_folder(&self.path, errno);
        let (path, socket) = (self.own(), wire::socket()?);
        let address = SocketAddrUnix::new(&*path).map_err(failed)?;
        match bind(&socket, &address) {
            // What has ended and had the same numbers left it.
            Err(Errno::ADDRINUSE) if wire::is_dead(&path) => {
                rustix::fs::unlink(&*path).map_err(failed)?;
                bind(&socket, &address).map_err(failed)?;
            }
            Err(Errno::ADDRINUSE) => return Err(RendezvousError::InUse { socket: path }),
            bound => bound.map_err(failed)?,
        }
        listen(&socket, Self::BACKLOG).map_err(failed)?;
        Ok(socket)
    }

    /// Removes the sockets of processes that have ended.
    fn sweep(&self) {
        let Ok(entries) = std::fs::read_dir(&self.path) else { return };
        let begins = format!("{}-", self.boot);
        for entry in entries.take(Self::MOST).flatten() {
            let is_ours = entry.file_name().as_bytes().starts_with(begins.as_bytes());
            if is_ours && wire::is_dead(&entry.path()) {
                // A process that replaces it at this moment has other numbers, or the entry is gone already.
                let _ = rustix::fs::unlink(entry.path());
            }
        }
    }

    /// Removes the socket of this process.
    pub(super) fn leave(&self) {
        let _ = rustix::fs::unlink(self.own());
    }
}
