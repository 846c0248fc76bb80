//! Other processes of this PID namespace: identity, end and open files; and detection of forks.

mod descriptors;
mod exits;
mod forks;
mod holders;
mod identity;
mod libraries;
mod memfd;
mod watch;

pub use exits::{ExitWatch, ProcessExits};
pub use forks::{ForkGeneration, LeakInChild, PerProcess};
pub use holders::{FileIdentity, Holders};
pub use identity::{ProcessIdentity, proc_is_of_this_namespace};
pub use libraries::{AtWork, enter_libraries, is_in_libraries, was_forked_amid_libraries};
pub use memfd::{memfd_holders, memfds_of};
pub use watch::{ProcessError, ProcessWatch};

pub(crate) use descriptors::{each_descriptor, socket_inode};
pub(crate) use holders::holders_of_sockets;
