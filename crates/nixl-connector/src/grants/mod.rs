//! Exports: memory that is registered once, and whose blocks peers read by tickets.
//!
//! The owner [exports](Connector::export) layouts and sends the metadata to any number of peers, which
//! [import](Connector::import) it. For each request it [grants](Export::grant) some blocks and sends the ticket, a few hundred
//! bytes; the reader [reads](RemoteExport::read_blocks) them at any time, without a message to the owner, and checks afterwards that
//! the grant was still valid. So the owner reuses blocks as soon as it has ended their grant, and a read that comes too late is an
//! error.
//!
//! Blocks are [granted for writing](Export::grant_write) to one peer at a time, which claims the grant before its first byte; the
//! rules for writable offers hold.
//!
//! An importer [notifies](RemoteExport::notify) the owner with messages of its own, which the owner
//! [receives](Export::notifications) in order.
//!
//! The check protects readers that make it. A holder of an export's metadata can read any of its blocks at any time, and over
//! paths on which the engine checks no rights (shared memory, CMA, UCX over TCP) write them; Python peers and programs of plain
//! NIXL make no check. Work that the owner queued on a GPU before it ended a grant is not ordered by it: it ends those grants
//! [in the order of the stream](Grant::end_on).

mod described;
mod error;
mod export;
mod grant;
mod metrics;
#[cfg(test)]
mod model;
mod notifications;
mod own;
mod own_copy;
mod progress;
mod read;
mod registering;
mod remote;
mod table;
#[cfg(test)]
mod tests;
mod words;
mod write;
mod writers;

pub use described::ExportedLayoutError;
pub use error::{BlockReadError, BlockWriteError, TicketError};
pub use export::{Export, ExportOptions};
pub use grant::{Grant, GrantOptions};
pub use notifications::ExportNotifications;
pub use progress::ExportProgress;
pub use remote::{BlockTransferOptions, ImportOptions, RemoteExport};
pub use write::{WriteGrant, WriteGrantOptions};

#[cfg(doc)]
use crate::Connector;
