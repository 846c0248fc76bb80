//! Memory of other processes of this machine, as this process opens it: the cache of what is open, and what offers share.

mod import_cache;
mod key;
mod limits;
mod open_failures;
mod open_marks;
mod opened;
mod permit;
mod prefault;
mod share;

#[cfg(test)]
pub(crate) use import_cache::Now;
pub(crate) use import_cache::{Found, ImportCache, ImportError};
pub(crate) use key::{OwnerId, RemoteMemoryKey};
pub use limits::ImportLimits;
pub(crate) use prefault::prefault;
pub(crate) use share::{export, memory_key, shares};
