//! Grants of blocks: leases that peers use without a message, and that the owner ends without asking.
//!
//! A grant covers blocks of one layout of an export and has a slot, which is four published [words](words): peers read them and
//! only the owner writes them. A read is checked as by a sequence lock. The owner ends a grant by raising its word, by a full
//! fence, and only then uses the blocks for something else; the reader copies the bytes, and then looks whether the word is
//! still the one of its ticket ([`WordCheck`]). Values of words are never used twice, so a reader that is late finds another
//! value, also if the slot is in use again by then. A grant to read therefore ends at once.
//!
//! A write cannot be called back, so a writer [claims](claims) its grant before the first byte. A grant that was not claimed
//! ends at once. A claimed one ends when the writer says that it is done, or when the owner has proof that the writer is quiet;
//! until then its blocks stay granted, in quarantine.
//!
//! The [table](table) costs the same however many grants are alive.

mod check;
mod claims;
mod error;
mod expiry;
mod message;
mod served;
mod table;
mod terms;
#[cfg(all(test, not(loom)))]
mod tests;
mod tokens;
mod waiters;
mod words;

pub use check::{StaleRead, WordCheck};
pub use claims::{ClaimError, Claims};
pub use error::GrantError;
pub(crate) use served::ServedGrants;
pub use table::{DoneOutcome, GrantEnd, GrantStats, GrantTable};
pub use terms::{GrantTableOptions, GrantTerms, Granted};
pub use waiters::FreeBlocks;
pub use words::GrantWords;
