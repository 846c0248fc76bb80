//! The name of shared memory, and whether its process still has the memory open.

use std::fmt;
use std::hash::{Hash, Hasher};

use nixl_device::{
    ExitWatch, FileIdentity, ProcessError, ProcessExits, ProcessWatch, SharedError,
    proc_is_of_this_namespace,
};

use super::own;
use crate::memfd::{self, link, linked};
use crate::rendezvous::{self, FileOwner, ForeignProcess, RendezvousError};

/// The name of shared memory for other processes of the machine.
///
/// A process that has it and may look into the owner has access to all of the memory, so `Debug` does not show it.
#[derive(Clone, Copy, Eq, PartialEq)]
#[allow(clippy::exhaustive_structs, reason = "it is what peers send")]
pub struct SharedName {
    /// The process that has it open, in its PID namespace.
    pub pid: u32,
    /// Its file descriptor there.
    pub fd: u32,
    /// Random, and part of the file's own name.
    pub name: [u8; 16],
    /// Bytes of the file.
    pub len: u64,
}

/// Whether the process that a [`SharedName`] gives has the memory open, in this PID namespace.
#[derive(Clone, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub enum Presence {
    /// It has: the number means the process that made the memory, for this process too.
    Here,
    /// It has not: the process has released the memory or has ended, or the number means another process here.
    Absent,
    /// This process may not know.
    Unknown(Unprovable),
}

/// Why it is not known whether a process has memory open.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum Unprovable {
    /// The process may not be looked into.
    #[error(
        "the process may not be looked into: {error}. Both need one user, or this one the right to trace the other \
         (CAP_SYS_PTRACE)"
    )]
    NotAllowed {
        /// The error of the system.
        #[source]
        error: SharedError,
    },
    /// `/proc` does not show the process, which may be there.
    #[error(
        "/proc may hide the process: mount it without hidepid, or give this process the group that its option gid names"
    )]
    Hidden,
    /// `/proc` cannot be used.
    #[error("/proc is missing or of another PID namespace: mount this one's")]
    NoProc,
    /// The process has left the rendezvous folder, or does not answer there.
    #[error(
        "the process runs in another PID namespace and has left the rendezvous folder, or does not answer there"
    )]
    NotMet,
}

/// The random part distinguishes names; maps of them are bounded against invented names.
impl Hash for SharedName {
    fn hash<H: Hasher>(&self, state: &mut H) {
        state.write_u128(u128::from_ne_bytes(self.name));
    }
}

impl SharedName {
    /// Whether this process made the memory.
    #[must_use]
    pub fn is_own(&self) -> bool {
        own().contains_key(&self.name)
    }

    /// Whether the process that is named still has the memory open. `false` if this process may not know. Takes some
    /// microseconds.
    #[must_use]
    pub fn is_there(&self) -> bool {
        match rendezvous::owner_of(&self.name) {
            Some(FileOwner::Met(link)) => link.has(&self.name),
            Some(FileOwner::Ended) => false,
            None => memfd::leads_to(self.pid, self.fd, &self.name),
        }
    }

    /// Whether the process that is named has closed the memory, for certain: not where `/proc` is lost or hides it. Takes as long as
    /// [`is_there`](Self::is_there) where it is, and as [`presence`](Self::presence) where not.
    #[must_use]
    pub fn is_gone(&self) -> bool {
        !self.is_there() && self.presence() == Presence::Absent
    }

    /// Whether the process that is named has the memory open, and if that cannot be known, why. Takes some tens of
    /// microseconds.
    #[must_use]
    pub fn presence(&self) -> Presence {
        match rendezvous::owner_of(&self.name) {
            Some(FileOwner::Met(link)) => return link.presence(&self.name),
            Some(FileOwner::Ended) => return Presence::Absent,
            None => {}
        }
        if !proc_is_of_this_namespace() {
            return Presence::Unknown(Unprovable::NoProc);
        }
        let folder = format!("/proc/{}", self.pid);
        let error = match linked(&format!("{folder}/fd/{}", self.fd)) {
            Ok(found) if found == link(&self.name) => return Presence::Here,
            Ok(_) => return Presence::Absent,
            Err(error) => error,
        };
        let not_found = error.kind() == std::io::ErrorKind::NotFound;
        if not_found && std::fs::metadata(&folder).is_ok() {
            return Presence::Absent;
        }
        // What `/proc` hides looks as if it were not there; and what has ended is its own user's no more.
        match ProcessWatch::open(self.pid) {
            Err(ProcessError::NotThere { .. }) => Presence::Absent,
            Ok(process) if process.has_ended() => Presence::Absent,
            _ if not_found => Presence::Unknown(Unprovable::Hidden),
            _ => Presence::Unknown(Unprovable::NotAllowed { error: error.into() }),
        }
    }

    /// *Blocking*, for half a second at most. Notes that the file is of a process in another PID namespace: from now on it is looked for in
    /// the [rendezvous](crate::Rendezvous) with that process, not under the number, which means another process here.
    ///
    /// # Errors
    ///
    /// [`RendezvousError`]
    pub fn note_owner(&self, process: ForeignProcess) -> Result<(), RendezvousError> {
        match self.is_own() {
            true => Ok(()),
            false => rendezvous::note(self.name, process),
        }
    }

    /// Whether the file [is of a process](Self::note_owner) in another PID namespace.
    #[must_use]
    pub fn is_by_rendezvous(&self) -> bool {
        rendezvous::owner_of(&self.name).is_some()
    }

    /// Calls `on_exit` once, when the process that is named has ended, as [`ProcessExits::watch`] does: also one in another PID
    /// namespace.
    ///
    /// # Errors
    ///
    /// As there.
    pub fn watch_owner(
        &self,
        on_exit: impl FnOnce() + Send + 'static,
    ) -> Result<ExitWatch, ProcessError> {
        match rendezvous::owner_of(&self.name) {
            Some(FileOwner::Met(link)) => {
                ProcessExits::global().watch_process(link.process(), on_exit)
            }
            Some(FileOwner::Ended) => Err(ProcessError::NotThere { pid: self.pid }),
            None => ProcessExits::global().watch(self.pid, None, on_exit),
        }
    }

    /// Whether a process in another PID namespace that got this process's file by a rendezvous may have it mapped: it runs.
    /// [`Holders`](nixl_device::Holders) cannot see it.
    #[must_use]
    pub fn is_held_elsewhere(&self) -> bool {
        rendezvous::held_elsewhere(&self.name)
    }

    /// Which file the memory is, to find who else [holds](nixl_device::Holders) it. `None` if it is not
    /// [here](Presence::Here).
    #[must_use]
    pub fn file(&self) -> Option<FileIdentity> {
        use std::os::unix::fs::MetadataExt;
        let path = format!("/proc/{}/fd/{}", self.pid, self.fd);
        let is_it = || linked(&path).is_ok_and(|found| found == link(&self.name));
        let found = is_it().then(|| std::fs::metadata(&path).ok())??;
        // The number may have got another meaning meanwhile.
        is_it().then_some(FileIdentity::new(found.dev(), found.ino()))
    }
}

/// Shows nothing that opens the memory.
impl fmt::Debug for SharedName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SharedName").field("len", &self.len).finish_non_exhaustive()
    }
}
