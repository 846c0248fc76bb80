//! The sending of notifications to an export's owner.

use nixl_metadata::MessageVersions;
use nixl_ops::{Completion, Driver, ExportNotification, NotificationSender};

use super::RemoteExport;
use super::check::Words;
use crate::ConnectorError;
use crate::grants::error::BlockReadError;

impl RemoteExport {
    /// The longest payload of a notification, in bytes.
    pub const MAX_NOTIFICATION_BYTES: usize = ExportNotification::MAX_BYTES;

    /// Sends the owner of the export a message, which its [receiver](crate::Export::notifications) finds in the order in which this
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
        let import = &*self.0;
        let (export, peer) = (import.metadata.export().value(), &import.peer);
        // Until it is sent: a later one must not overtake it.
        let mut last = import.notified.lock().await;
        *last += 1;
        match (&import.words, peer) {
            (Words::Own(own), _) => {
                let sender = NotificationSender::new(import.connector.name(), import.reader);
                self.own(own)?.table().notify(sender, *last, payload);
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
        self.0.connector.check_process()?;
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
