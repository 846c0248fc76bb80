//! Grants of blocks: leases that peers use without a message, and that the owner ends without asking.
//!
//! A grant covers blocks of one layout of an export and has a slot, which is four published [words](words): peers read them and
//! only the owner writes them. A read is checked as by a sequence lock. The owner ends a grant by raising its word, by a full
//! fence, and only then uses the blocks for something else; the reader copies the bytes, and then looks whether the word is
//! still the one of its ticket ([`WordCheck`]). Values of words are never used twice, so a reader that is late finds another
//! value, also if the slot is in use again by then. A grant therefore ends at once.
//!
//! Grants are for reading. A write cannot be called back, so it is granted by a writable offer
//! ([`WritableOperation`](crate::WritableOperation)), which its writer claims.
//!
//! The [table](table) costs the same however many grants are alive.

mod check;
mod error;
mod expiry;
mod message;
mod notifications;
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
pub use message::{GrantMessage, GrantMessageKind};
pub use notifications::{ExportNotification, NotificationReceiver, NotificationSender};
pub(crate) use served::ServedGrants;
pub use table::{DoneOutcome, GrantStats, GrantTable};
pub use terms::{GrantTableOptions, GrantTerms, Granted};
pub use waiters::FreeBlocks;
pub use words::GrantWords;
