//! Memory of other processes of this machine, reached by this process's own GPUs and processors.

mod imports;
mod peer_copy;
mod refused;
mod share;

#[cfg(test)]
pub(crate) use imports::Now;
pub(crate) use imports::{Foreign, Found, ImportError, Imports, OwnedBy};
pub(crate) use peer_copy::{PeerCopy, copier, is_not_open, owner_gone};
pub(crate) use share::{foreign, shares};
