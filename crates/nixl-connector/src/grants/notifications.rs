//! Messages of an export's importers to its owner.

use std::fmt;
use std::future::poll_fn;
use std::pin::pin;
use std::sync::{Arc, Weak};

use nixl_metadata::MessageVersions;
use nixl_ops::{Completion, Driver, ExportNotification, NotificationReceiver, NotificationSender};

use super::error::BlockReadError;
use super::export::{Export, ExportShared};
use super::remote::{RemoteExport, Words};
use crate::ConnectorError;

/// Receives what importers of an export [notify](RemoteExport::notify) its owner of.
///
/// Notifications of one import come in the order in which it sent them, and each at most once. One does not wait for an earlier
/// one that is late: [`ExportNotification::lost`] counts those of its sender that are left out, which are not received later. The
/// transport may lose some, and this side drops what arrives beyond its bounds: 256 notifications and 256 KiB of a sender,
/// 8,192 and 8 MiB of all.
///
/// 1,024 imports are told apart. A further one takes the place of that which has been silent the longest; should that one go on,
/// it counts as a new import, of which nothing was received.
///
/// Dropping it drops what it has not received. A later receiver of the export is told of that as lost.
pub struct ExportNotifications {
    receiver: NotificationReceiver,
    export: Weak<ExportShared>,
}

impl Export {
    /// Receives what importers [notify](RemoteExport::notify) this side of, from now on; `None` while there is another receiver.
    /// What arrives while there is none is dropped, and counted as lost.
    #[must_use]
    pub fn notifications(&self) -> Option<ExportNotifications> {
        let receiver = self.shared().table().subscribe()?;
        Some(ExportNotifications { receiver, export: Arc::downgrade(self.shared()) })
    }
}

impl ExportNotifications {
    /// The next notification; importers take turns. `None` once the export is closed and all that had arrived are received.
    ///
    /// While a task waits here, the connection looks for messages all the time, in pauses of up to about 1.2 ms; importers of this
    /// host wake it.
    ///
    /// Cancel safe: no notification is lost if the future is dropped.
    pub async fn recv(&mut self) -> Option<ExportNotification> {
        let Self { receiver, export } = self;
        let mut next = pin!(receiver.recv());
        let mut is_awaited = false;
        let next = poll_fn(|cx| {
            let poll = next.as_mut().poll(cx);
            // The driver looks for messages once it finds that a task waits.
            if poll.is_pending()
                && !std::mem::replace(&mut is_awaited, true)
                && let Some(export) = export.upgrade()
            {
                export.connector().connection().driver().await_grants();
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

impl RemoteExport {
    /// The longest payload of a notification, in bytes.
    pub const MAX_NOTIFICATION_BYTES: usize = ExportNotification::MAX_BYTES;

    /// Sends the owner of the export a message, which its [receiver](Export::notifications) finds in the order in which this
    /// import and its clones have begun to send. It may be lost: with the owner, without a receiver, or if more arrive than the
    /// owner keeps; the receiver is then told with the next one.
    ///
    /// Its place among the notifications is that of the first poll. Cancel safe: if the future is dropped before it ends, the
    /// message is sent or it is not, and in the second case it counts as lost.
    ///
    /// # Errors
    ///
    /// [`ConnectorError::NotificationTooLarge`] beyond 4 KiB, and [`ConnectorError::NoNotifications`] if the owner runs a release
    /// without them: nothing is sent. Or the owner cannot be reached, or takes no message from a mailbox of this host that is full
    /// for the [default time](crate::ConnectorBuilder::timeout): the message counts as lost.
    pub async fn notify(&self, payload: &[u8]) -> Result<(), ConnectorError> {
        self.refuse_notification(payload)?;
        let import = self.imported();
        let (export, peer) = (import.metadata.export().value(), &import.peer);
        // Until it is sent: a later one must not overtake it.
        let mut last = import.notified.lock().await;
        *last += 1;
        match (&import.words, peer) {
            (Words::Own(own), _) => {
                let sender = NotificationSender::new(import.connector.name(), import.reader);
                own.table().notify(sender, *last, payload);
                Ok(())
            }
            (_, None) => Ok(()),
            (_, Some(peer)) => {
                let (connector, message) = (&import.connector, (*last, payload));
                let to = (peer, import.mailbox().await?);
                let driver = connector.connection().driver();
                let options = connector.default_options();
                Ok(driver.notify_export(export, import.reader, message, to, options).await?)
            }
        }
    }

    /// Awaits a read and, once its bytes have arrived and are checked, [notifies](Self::notify) the owner. The first result is
    /// that of the read. The second is that of the notification: the bytes are good also if it fails.
    ///
    /// ```
    /// # use nixl_connector::{BlockReadError, ConnectorError, RemoteExport};
    /// # use nixl_descriptor::layout::Layout;
    /// # use nixl_metadata::Ticket;
    /// # async fn pull(remote: &RemoteExport, ticket: &Ticket, local: &Layout) -> Result<(), Box<dyn std::error::Error>> {
    /// let read = remote.read_blocks(ticket, local, &[0, 1]);
    /// let (completion, notified) = remote.notify_after(read, b"request 17").await?;
    /// # let _ = completion;
    /// notified?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// Cancel safe as the read and the notification are.
    ///
    /// # Errors
    ///
    /// Those of the read; then nothing is sent.
    pub async fn notify_after(
        &self,
        read: impl Future<Output = Result<Completion, BlockReadError>>,
        payload: &[u8],
    ) -> Result<(Completion, Result<(), ConnectorError>), BlockReadError> {
        let completion = read.await?;
        Ok((completion, self.notify(payload).await))
    }

    fn refuse_notification(&self, payload: &[u8]) -> Result<(), ConnectorError> {
        let (bytes, limit) = (payload.len(), Self::MAX_NOTIFICATION_BYTES);
        if bytes > limit {
            return Err(ConnectorError::NotificationTooLarge { bytes, limit });
        }
        let owner = self.metadata().peer();
        if !knows_notifications(owner.versions()) {
            let owner = owner.agent_name().to_owned();
            return Err(ConnectorError::NoNotifications { owner });
        }
        Ok(())
    }
}

fn knows_notifications(versions: MessageVersions) -> bool {
    versions.claims() >= Driver::NOTIFICATIONS_SINCE
}

impl fmt::Debug for ExportNotifications {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ExportNotifications").finish_non_exhaustive()
    }
}
