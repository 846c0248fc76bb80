//! GPU memory of other processes of this machine, reached by this process's own GPUs.

mod imports;
mod share;

pub(crate) use imports::Imports;
pub(crate) use share::shares;
