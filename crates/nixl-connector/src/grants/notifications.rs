//! The receipt of notifications: messages of an export's importers to its owner.

use std::fmt;
use std::future::poll_fn;
use std::mem;
use std::pin::{Pin, pin};
use std::sync::{Arc, Weak};
use std::task::{Context, Poll};

use futures_core::Stream;
use nixl_ops::{ExportNotification, NotificationReceiver};

use super::export::{Export, ExportShared};
#[cfg(doc)]
use super::remote::RemoteExport;

/// Receives what importers of an export [notify](RemoteExport::notify) its owner of.
///
/// Notifications of one import come in the order in which it sent them, and each at most once. One does not wait for an earlier
/// one that is late: [`ExportNotification::lost`] counts those of its sender that are left out, which are not received later. The
/// transport may lose some, and this side drops what arrives beyond its bounds: 256 notifications and 256 KiB of a sender,
/// 8,192 and 8 MiB of all.
///
/// 1,024 imports are distinguished. A further one takes the place of that which has been silent the longest; should that one go on,
/// it counts as a new import, of which nothing was received.
///
/// It is a [`Stream`] of them, each with its sender and its payload, that ends once the export is closed. After a poll that found none,
/// the connection looks for messages as for a task that waits, until the next has come or this is dropped.
///
/// Dropping it drops the queued notifications. A later receiver of the export gets their number as lost.
pub struct ExportNotifications {
    receiver: NotificationReceiver,
    export: Weak<ExportShared>,
    /// The stream has found none: the driver looks for messages.
    is_polled: bool,
}

impl Export {
    /// Receives what importers [notify](RemoteExport::notify) this side of, from now on; `None` while there is another receiver, and
    /// in a forked child. What arrives while there is none is dropped, and counted as lost.
    #[must_use]
    pub fn notifications(&self) -> Option<ExportNotifications> {
        self.shared().connector().check_process().ok()?;
        let receiver = self.shared().table().subscribe()?;
        let export = Arc::downgrade(self.shared());
        Some(ExportNotifications { receiver, export, is_polled: false })
    }
}

impl ExportNotifications {
    /// The next notification; importers take turns. `None` once the export is closed and all that had arrived are received, and in a
    /// forked child.
    ///
    /// While a task waits here, the connection looks for messages all the time, in pauses of up to about 1.2 ms; importers of this
    /// host wake it.
    ///
    /// Cancel safe: no notification is lost if the future is dropped.
    pub async fn recv(&mut self) -> Option<ExportNotification> {
        let Self { receiver, export, .. } = self;
        let mut next = pin!(receiver.recv());
        let mut is_awaited = false;
        let next = poll_fn(|cx| {
            let poll = next.as_mut().poll(cx);
            if poll.is_pending() && !mem::replace(&mut is_awaited, true) {
                await_messages(export);
            }
            poll
        });
        next.await
    }

    /// As [`recv`](Self::recv), blocking this thread: for threads outside of async runtimes. An importer of this host wakes the
    /// thread itself, without the connection's thread in between, if no other thread waits so on this connection.
    pub fn recv_blocking(&mut self) -> Option<ExportNotification> {
        let driver =
            |export: Arc<ExportShared>| Arc::clone(export.connector().connection().driver());
        match self.export.upgrade().map(driver) {
            Some(driver) => driver.block_on_messages(self.recv()),
            // What had arrived before the export was closed.
            None => self.receiver.try_recv(),
        }
    }
}

impl Stream for ExportNotifications {
    type Item = ExportNotification;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let Self { receiver, export, is_polled } = &mut *self;
        let poll = receiver.poll_recv(cx);
        let was_polled = mem::replace(is_polled, poll.is_pending());
        if poll.is_pending() && !was_polled {
            await_messages(export);
        }
        poll
    }
}

/// The driver looks for messages once it finds that a task waits.
fn await_messages(export: &Weak<ExportShared>) {
    if let Some(export) = export.upgrade() {
        export.connector().connection().driver().await_grants();
    }
}

impl fmt::Debug for ExportNotifications {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("ExportNotifications").field(&self.receiver).finish()
    }
}
