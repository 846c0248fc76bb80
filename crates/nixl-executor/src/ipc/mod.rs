//! Memory of other processes of this machine, reached by this process's own GPUs and processors.

mod doorbells;
mod imports;
mod last_word;
mod lately;
mod peer_copy;
mod share;

pub(crate) use doorbells::{Bell, Doorbells, PeerBoards};
pub(crate) use imports::{Foreign, Imports};
pub(crate) use last_word::LastWord;
pub(crate) use peer_copy::{PeerCopy, copier};
pub(crate) use share::{foreign, shares};
