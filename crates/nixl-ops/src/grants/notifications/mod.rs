//! Notifications: messages of an export's importers to its owner.
//!
//! Each import numbers its notifications from 1 on. The owner keeps those that wait to be received sorted by these numbers, and
//! what it gives out has a higher number than all that it gave out of that import before: so they come in order and at most
//! once, and the numbers that are left out are those that were lost. No notification waits for an earlier one. An earlier one that
//! arrives before the later one is received comes in its place; after that it is dropped, and was counted as lost.
//!
//! One is a [control message](crate::control) whose key is the import, 16 bytes at random, and whose token is the number of the
//! export, which only holders of the metadata know. The rest is 8 bytes for its number, little-endian, and the payload.

mod inbox;
mod receiver;
mod send;
mod sender;
#[cfg(all(test, not(loom)))]
mod tests;

pub(super) use inbox::NotificationInbox;
pub use receiver::NotificationReceiver;
pub use sender::{ExportNotification, NotificationSender};
