//! Files of peers, as their metadata names them.

use nixl_descriptor::{ForeignProcess, SharedName};
use nixl_metadata::SharedFile;

/// The name of a file in metadata.
pub(crate) fn page_of_file(file: &SharedFile) -> SharedName {
    SharedName { pid: file.pid(), fd: file.fd(), name: file.name(), len: file.length() }
}

/// *Blocking.* Whether the file can be looked for: in this PID namespace, or with a process of another one that is met.
pub(crate) fn notes_owner(name: &SharedName, foreign: Option<ForeignProcess>) -> bool {
    let Some(process) = foreign else { return true };
    let noted = name.note_owner(process);
    noted.inspect_err(|error| tracing::debug!(%error, "a peer of this host is not met")).is_ok()
}
