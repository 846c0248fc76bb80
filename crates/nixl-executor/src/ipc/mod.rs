//! Memory of other processes of this machine, reached by this process's own GPUs and processors.

mod imports;
mod peer_copy;
mod share;

pub(crate) use imports::{Foreign, Found, ImportError, Imports};
pub(crate) use peer_copy::{PeerCopy, copier, owner_gone};
pub(crate) use share::{foreign, shares};
