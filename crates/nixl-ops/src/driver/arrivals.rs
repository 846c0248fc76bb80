//! Receipt of peers' messages, by the driver's thread or by another thread that waits for one.

use super::Shared;
use crate::Received;
use crate::contained::contained;
use crate::control::ControlMessage;
use crate::wakes::WakeBatch;

impl Shared {
    /// Receives a message of a peer. A panic affects no other message.
    pub(super) fn receive(&self, from: &str, payload: &[u8]) -> Received {
        let taken = contained("the receipt of a message", || {
            if ControlMessage::is_one(payload) {
                return match self.receive_control(from, payload) {
                    true => Received::Taken,
                    false => Received::Ignored,
                };
            }
            match self.passive.deliver(payload) {
                true => Received::Taken,
                false => match self.peer_service() {
                    Some(service) => service.receive(from, payload),
                    None => Received::Ignored,
                },
            }
        });
        let taken = taken.unwrap_or(Received::Ignored);
        if matches!(taken, Received::Ignored) {
            // A recorder or subscriber may panic, too.
            let _ = contained("the count of a message", || {
                self.unexpected.note(payload.len());
                tracing::debug!(from, bytes = payload.len(), "notification for no operation");
            });
        }
        taken
    }

    /// Passes the messages of the mailbox to `receive`. Returns whether there was any, or may be more.
    pub(super) fn take_messages(&self, receive: &mut dyn FnMut(&str, &[u8])) -> bool {
        // The mailbox is locked while it is read.
        let _wakes = WakeBatch::begin();
        self.passive.page.take_messages(&mut |message| {
            if let (Some(reply), Some(mailboxes)) = (message.reply, self.mailboxes.get()) {
                mailboxes.note(message.from, reply);
            }
            receive(message.from, message.payload);
        })
    }

    /// Receives the messages of the mailbox on a thread other than the driver's.
    pub(super) fn poll_mailbox(&self) -> bool {
        self.take_messages(&mut |from, payload| {
            if let Received::Serve(execution) = self.receive(from, payload) {
                self.add(&self.serve(execution));
            }
        })
    }
}
