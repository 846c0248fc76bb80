//! The socket at which a process meets others of its PID and network namespaces, without a folder.
//!
//! Its name is in the abstract namespace, which any process may take: the system names the user and the number of the process that
//! listens.

use std::num::NonZeroU64;
use std::os::fd::OwnedFd;

use rustix::net::{SocketAddrUnix, bind, listen as listen_on};

use super::{RendezvousError, wire};

const BACKLOG: i32 = 64;

/// The socket of a process.
pub(super) fn address(namespace: NonZeroU64, pid: u32) -> Result<SocketAddrUnix, RendezvousError> {
    let name = format!("nixl-rendezvous-{namespace:x}-{pid}");
    SocketAddrUnix::new_abstract_name(name.as_bytes()).map_err(RendezvousError::of("name a socket"))
}

/// The socket of this process, which listens.
pub(super) fn listen(namespace: NonZeroU64) -> Result<OwnedFd, RendezvousError> {
    let socket = wire::socket()?;
    bind(&socket, &address(namespace, std::process::id())?)
        .map_err(RendezvousError::of("make a socket"))?;
    listen_on(&socket, BACKLOG).map_err(RendezvousError::of("listen"))?;
    Ok(socket)
}
