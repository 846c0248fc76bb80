//! The process at the other end of a local TCP connection.

use std::collections::{HashMap, HashSet};
use std::io;
use std::time::Duration;

use super::tcp::{Row, SocketsError, TcpSocket};
use super::{netlink, proc_net};
use crate::system::process::{Holders, each_descriptor, holders_of_sockets, socket_inode};

/// A socket leads to an address and a port. Which peer that is can be found only on this host, by the process that has the
/// other end open, and only while that lives: remember it from then. Of a peer on another host, and of one in another
/// network namespace, the address is all there is, and other peers may have the same.
impl TcpSocket {
    /// The TCP sockets of this process whose other ends are open in that one. Takes as long as
    /// [`all_of_this_process`](Self::all_of_this_process), and ten microseconds more for each socket.
    ///
    /// # Errors
    ///
    /// [`SocketsError`]: also if this process may not know what the other has open.
    pub fn all_to_process(pid: u32) -> Result<Vec<Self>, SocketsError> {
        let mut open = HashSet::new();
        let listed = each_descriptor(&format!("/proc/{pid}"), |_, link, _| {
            open.extend(socket_inode(link));
            true
        });
        listed.map_err(|errno| SocketsError::Descriptors {
            pid,
            error: io::Error::from(errno).into(),
        })?;
        let mut found = Vec::new();
        for socket in Self::all_of_this_process()? {
            if socket.other_end()?.is_some_and(|end| open.contains(&end.inode)) {
                found.push(socket);
            }
        }
        Ok(found)
    }

    /// The processes of this host, this one included, that have the other end open: none if it was closed by its process
    /// and the kernel is still sending, or if nothing has accepted it yet. `None` if the other end is not in this network
    /// namespace: it is gone or on another host. Looks into all processes, as [`Holders::of_file`] does.
    ///
    /// # Errors
    ///
    /// [`SocketsError::Table`]
    pub fn owners_of_remote_end(&self, limit: Duration) -> Result<Option<Holders>, SocketsError> {
        Ok(Self::owners_of_remote_ends(std::slice::from_ref(self), limit)?.pop().flatten())
    }

    /// The same of several sockets, by one look into each process.
    ///
    /// # Errors
    ///
    /// [`SocketsError::Table`]
    pub fn owners_of_remote_ends(
        sockets: &[Self],
        limit: Duration,
    ) -> Result<Vec<Option<Holders>>, SocketsError> {
        let ends = sockets.iter().map(|socket| Ok(socket.other_end()?.map(|end| end.inode)));
        let ends: Vec<_> = ends.collect::<Result<_, SocketsError>>()?;
        let open: HashSet<_> = ends.iter().flatten().copied().filter(|inode| *inode > 0).collect();
        let owners = match open.is_empty() {
            true => HashMap::new(),
            false => holders_of_sockets(&open, limit),
        };
        let of = |inode| owners.get(&inode).cloned().unwrap_or_default();
        Ok(ends.into_iter().map(|end| end.map(of)).collect())
    }

    fn other_end(&self) -> Result<Option<Row>, SocketsError> {
        let (Some(local), Some(remote)) = (self.local, self.remote) else { return Ok(None) };
        netlink::find(remote, local).or_else(|netlink| {
            let table = proc_net::table();
            let mut table =
                table.map_err(|proc| SocketsError::Table { netlink, proc })?.into_iter();
            Ok(table.find(|row| row.local == remote && row.remote == local))
        })
    }
}
