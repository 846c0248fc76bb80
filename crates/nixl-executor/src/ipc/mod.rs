//! Memory of other processes of this machine, reached by this process's own GPUs and processors.

mod import_cache;
mod open_failures;
mod peer_copy;
mod prefault;
mod share;

#[cfg(test)]
pub(crate) use import_cache::Now;
pub(crate) use import_cache::{Found, ImportCache, ImportError, OwnerId, RemoteMemoryKey};
pub(crate) use peer_copy::{PeerCopy, copier, is_not_open, owner_gone};
pub(crate) use prefault::prefaults;
pub(crate) use share::{memory_key, shares};
