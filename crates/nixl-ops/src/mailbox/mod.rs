//! Messages between processes of one host, through memory that they share.
//!
//! The engine carries messages over the kernel's sockets, also between two processes of one host, and nothing wakes a thread
//! for them. A connection's page of offer slots therefore has a mailbox ([`Doorbell`](nixl_metadata::Doorbell) says how it is
//! laid out): lanes for one sender each, so that the end of a sender in the middle of a letter blocks no other, and a bell that
//! wakes the owner.
//!
//! A sender finds the mailbox by an offer of the owner's, and writes the name of its own page beside its letters, by which the
//! owner answers. Where a mailbox cannot be reached or has no free lane, or a message is too long for it, the engine carries the
//! whole conversation: letters of one lane arrive in order, but nothing orders them with the engine's messages.
//!
//! A process that has the page open needs the right to trace the owner. It can lose letters of others, delay the owner by work
//! that is bounded for each turn, and write letters in the name of another agent, as it can through the engine; receivers trust
//! letters no further than notifications.

mod lane;
mod mailboxes;
mod open;
mod ring;
#[cfg(all(test, not(loom)))]
mod tests;

pub(crate) use lane::{Inbox, Lane, MailboxMessage};
pub use mailboxes::Mailboxes;
pub use open::Mailbox;
pub(crate) use open::Reached;
