//! Grants of blocks: leases that peers use without a message, and that the owner ends without their consent.
//!
//! A grant covers blocks of one layout of an export and has a slot, which is four published [words]: peers read them and
//! only the owner writes them. A read is checked as by a sequence lock. The owner ends a grant by raising its word, then a full
//! fence, and only then reuses the blocks. The reader copies the bytes, then compares the word with its ticket ([`WordCheck`]).
//! Values of words are never used twice, so a late reader finds a different value, even in a reused slot. A grant therefore
//! ends at once.
//!
//! Grants are for reading. A write cannot be revoked, so a writable offer ([`WritableOperation`](crate::WritableOperation))
//! grants it, and its writer claims that.
//!
//! The cost of the [table] does not depend on the number of live grants.

mod check;
mod error;
mod expiry;
mod layers;
mod message;
mod metrics;
mod notifications;
mod outstanding;
mod served;
mod table;
mod terms;
#[cfg(all(test, not(loom)))]
mod tests;
mod tokens;
mod waiters;
mod words;

pub use check::{StaleRead, WordCheck};
pub use error::GrantError;
pub use layers::LayerWatch;
pub(crate) use layers::{LayerHints, Watcher};
pub use message::{GrantMessage, GrantMessageKind};
pub use notifications::{ExportNotification, NotificationReceiver, NotificationSender};
pub use outstanding::OutstandingTickets;
pub(crate) use served::ServedGrants;
pub use table::{DoneOutcome, GrantStats, GrantTable, GrantedCopy, SpentWords};
pub use terms::{GrantTableOptions, GrantTerms, Granted, TicketEnd};
pub use waiters::{FreeBlocks, WrittenBlocks};
pub use words::GrantWords;
