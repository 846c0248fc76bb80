//! Notifications: messages of an export's importers to its owner.
//!
//! Each import numbers its notifications from 1. The owner sorts unreceived ones by number, and delivers only rising numbers of
//! an import: so they arrive in order and at most once, and skipped numbers are lost. No notification waits for an earlier one.
//! An overtaken one is delivered in its place if the later one is still unreceived; otherwise it is dropped, and was counted as
//! lost.
//!
//! A notification is a [control message](crate::control). Its key is the import (16 random bytes), its token the number of the
//! export, known to holders of the metadata alone. The rest is 8 bytes for its number, little-endian, and the payload.

mod inbox;
mod receiver;
mod send;
mod sender;
#[cfg(all(test, not(loom)))]
mod tests;

pub(super) use inbox::NotificationInbox;
pub use receiver::NotificationReceiver;
pub use sender::{ExportNotification, NotificationSender};
