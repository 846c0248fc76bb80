//! Messages between processes of one host, through memory that they share.
//!
//! The engine carries messages over the kernel's sockets, even between two processes of one host, and wakes no thread for them.
//! A connection's page of offer slots therefore has a mailbox ([`SlotAddress`](nixl_metadata::SlotAddress) has the layout): one lane
//! for each sender, so the end of a sender during a message blocks no other, and a doorbell that wakes the owner.
//!
//! A sender finds the mailbox by an offer of the owner, and writes the name of its own page next to its messages, for the
//! owner's answers. If a mailbox cannot be reached or has no free lane, or a message is too long for it, the engine carries the
//! whole conversation: messages of one lane arrive in order, but nothing orders them with the engine's.
//!
//! A process needs the right to trace the owner to open the page. It can lose messages of others, delay the owner by bounded
//! work in each turn, and write messages in the name of another agent, as through the engine. Receivers trust these messages no
//! further than notifications.

mod lane;
mod mailboxes;
mod open;
mod ring;
#[cfg(all(test, not(loom)))]
mod tests;

pub(crate) use lane::{Inbox, Lane, MailboxMessage, free_lanes_of, free_lanes_of_ended_foreign};
pub use mailboxes::Mailboxes;
pub use open::Mailbox;
pub(crate) use open::Reached;
