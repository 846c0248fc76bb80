//! GPU memory of other processes of this machine, reached by this process's own GPUs.

mod copy;
mod imports;
mod share;

pub(crate) use copy::{IpcCopy, copier};
pub(crate) use imports::Imports;
pub(crate) use share::shares;
