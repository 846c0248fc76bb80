//! The receiver of an export's notifications.

use std::fmt;
use std::future::poll_fn;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use nixl_device::LeakInChild;

use super::inbox::NotificationInbox;
use super::sender::ExportNotification;

/// Receives the notifications of one export.
///
/// The drop discards unreceived ones: a later receiver counts them as lost. In a forked child nothing is received or discarded.
pub struct NotificationReceiver {
    inbox: LeakInChild<Arc<NotificationInbox>>,
}

impl NotificationReceiver {
    pub(super) fn new(inbox: Arc<NotificationInbox>) -> Self {
        Self { inbox: LeakInChild::new(inbox) }
    }

    /// The next notification, senders taking turns; `None` once the table is closed and all are received, and in a forked child.
    ///
    /// Cancel safe: nothing is lost if the future is dropped.
    pub async fn recv(&mut self) -> Option<ExportNotification> {
        let wait = Wait(&self.inbox);
        poll_fn(|cx| poll(wait.0, cx)).await
    }

    /// As [`recv`](Self::recv), for streams. The waker of the latest call is woken, and counts as a waiting task until then.
    pub fn poll_recv(&mut self, cx: &mut Context<'_>) -> Poll<Option<ExportNotification>> {
        poll(&self.inbox, cx)
    }

    /// The next notification, if one has arrived.
    pub fn try_recv(&mut self) -> Option<ExportNotification> {
        if self.inbox.is_inherited() {
            return None;
        }
        match self.inbox.poll(Waker::noop()) {
            Poll::Ready(next) => next,
            Poll::Pending => {
                self.inbox.forget_waker();
                None
            }
        }
    }
}

fn poll(
    inbox: &LeakInChild<Arc<NotificationInbox>>,
    cx: &mut Context<'_>,
) -> Poll<Option<ExportNotification>> {
    match inbox.is_inherited() {
        true => Poll::Ready(None),
        false => inbox.poll(cx.waker()),
    }
}

impl Drop for NotificationReceiver {
    fn drop(&mut self) {
        if !self.inbox.is_inherited() {
            self.inbox.unsubscribe();
        }
    }
}

/// A waiting task.
struct Wait<'a>(&'a LeakInChild<Arc<NotificationInbox>>);

impl Drop for Wait<'_> {
    fn drop(&mut self) {
        if !self.0.is_inherited() {
            self.0.forget_waker();
        }
    }
}

impl fmt::Debug for NotificationReceiver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut out = f.debug_struct("NotificationReceiver");
        if !self.inbox.is_inherited() {
            let held = self.inbox.held();
            out.field("senders", &held.senders)
                .field("unreceived", &held.all.messages)
                .field("unreceived_bytes", &held.all.bytes);
        }
        out.finish_non_exhaustive()
    }
}
