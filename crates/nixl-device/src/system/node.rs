//! Device nodes: the files below `/dev` through which programs reach a driver.

use rustix::fs::{Access, access};
use rustix::io::Errno;
use serde::Serialize;

use super::tree::Tree;

/// Whether this process can open a device node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum NodeAccess {
    /// There is no such node. Containers see only those they were given.
    Missing,
    /// It is there, but this process may not read and write it.
    Denied,
    /// This process may read and write it.
    Granted,
}

/// Queries the kernel instead of opening the node, which could wake the device.
pub(crate) fn node_access(tree: &Tree, path: &str) -> NodeAccess {
    match access(tree.real_path(path), Access::READ_OK | Access::WRITE_OK) {
        Ok(()) => NodeAccess::Granted,
        Err(Errno::NOENT | Errno::NOTDIR) => NodeAccess::Missing,
        Err(_) => NodeAccess::Denied,
    }
}
