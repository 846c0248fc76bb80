//! Waits for layers: an owner's messages to readers with the number of ready layers of a grant.
//!
//! A reader that waits sends one request for each grant. The owner then sends it the number of ready layers whenever that rises, and the
//! grant's end: only the latest number, if several are on their way. The number is a hint to look at the words of the grant, which
//! alone decide. Both messages may be lost, so a waiting reader reads the words and repeats its request once a second.
//!
//! | control message | from | key | token | rest |
//! |---|---|---|---|---|
//! | watch | reader | a [message about the grant](crate::GrantMessage), without a kind | 0 | the reader's agent metadata as it travels; nothing if its mailbox takes the answer |
//! | layers ready | owner | the reader, at random | the generation | 8 bytes: the number, little-endian; [`ENDED`] once the grant has ended |

mod hints;
mod send;
#[cfg(all(test, not(loom)))]
mod tests;
mod watchers;

pub(crate) use hints::LayerHints;
pub use hints::LayerWatch;
pub(super) use send::WatchRequest;
pub(crate) use watchers::Watcher;
pub(super) use watchers::{Told, Watchers};

/// In place of a number of layers: the grant has ended.
pub(crate) const ENDED: u64 = u64::MAX;
