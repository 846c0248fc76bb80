//! The receiver of an export's notifications.

use std::future::poll_fn;
use std::sync::Arc;
use std::task::{Poll, Waker};

use super::inbox::NotificationInbox;
use super::sender::ExportNotification;

/// Receives the notifications of one export.
///
/// The drop discards unreceived ones: a later receiver counts them as lost.
#[derive(Debug)]
pub struct NotificationReceiver {
    inbox: Arc<NotificationInbox>,
}

impl NotificationReceiver {
    pub(super) fn new(inbox: Arc<NotificationInbox>) -> Self {
        Self { inbox }
    }

    /// The next notification, senders taking turns; `None` once the table is closed and all are received.
    ///
    /// Cancel safe: nothing is lost if the future is dropped.
    pub async fn recv(&mut self) -> Option<ExportNotification> {
        let wait = Wait(&self.inbox);
        poll_fn(|cx| wait.0.poll(cx.waker())).await
    }

    /// The next notification, if one has arrived.
    pub fn try_recv(&mut self) -> Option<ExportNotification> {
        match self.inbox.poll(Waker::noop()) {
            Poll::Ready(next) => next,
            Poll::Pending => {
                self.inbox.forget_waker();
                None
            }
        }
    }
}

impl Drop for NotificationReceiver {
    fn drop(&mut self) {
        self.inbox.unsubscribe();
    }
}

/// A waiting task.
struct Wait<'a>(&'a NotificationInbox);

impl Drop for Wait<'_> {
    fn drop(&mut self) {
        self.0.forget_waker();
    }
}
