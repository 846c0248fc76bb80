//! The sending of notifications to an export's owner.

use std::future::poll_fn;
use std::pin::pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::Poll;

use nixl_metadata::MessageVersions;
use nixl_ops::{
    Completion, Driver, ExportNotification, NotificationSender, OperationError, OperationOptions,
};
use tokio::sync::{Mutex, MutexGuard};

use super::RemoteExport;
use super::check::Words;
use crate::ConnectorError;
use crate::grants::error::BlockReadError;

/// The numbers of an import's notifications, and the turns of their senders.
#[derive(Default)]
pub(super) struct NotificationNumbers {
    /// The last one.
    last: Mutex<u64>,
    /// Notifications that were given up before they had one.
    given_up: AtomicU64,
}

impl NotificationNumbers {
    /// The turn of a notification, which keeps later ones back, with its number in it; and the options with the remaining time.
    /// Its place is that of the first poll. One that is given up counts as lost.
    async fn next(
        &self,
        driver: &Driver,
        options: OperationOptions,
    ) -> Result<(MutexGuard<'_, u64>, OperationOptions), OperationError> {
        let waiting = GivenUp(&self.given_up);
        let mut turn = pin!(self.last.lock());
        let (mut last, options) = match poll_fn(|cx| Poll::Ready(turn.as_mut().poll(cx))).await {
            Poll::Ready(last) => (last, options),
            Poll::Pending => driver.with_timeout(options, turn).await?,
        };
        std::mem::forget(waiting);
        *last += 1 + self.given_up.swap(0, Ordering::Relaxed);
        Ok((last, options))
    }
}

/// Counts a notification that is given up.
struct GivenUp<'a>(&'a AtomicU64);

impl Drop for GivenUp<'_> {
    fn drop(&mut self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

impl RemoteExport {
    /// The longest payload of a notification, in bytes.
    pub const MAX_NOTIFICATION_BYTES: usize = ExportNotification::MAX_BYTES;

    /// Sends the owner of the export a message, which its [receiver](crate::Export::notifications) finds in the order in which this
    /// import and its clones have begun to send. It may be lost: with the owner, without a receiver, or if more arrive than the
    /// owner keeps; the receiver gets their number with the next one.
    ///
    /// Its place among the notifications is that of the first poll. Cancel safe: if the future is dropped before it ends, the
    /// message is sent or it is not, and in the second case it counts as lost.
    ///
    /// # Errors
    ///
    /// [`ConnectorError::NotificationTooLarge`] beyond 4 KiB, and [`ConnectorError::NoNotifications`] if the owner runs a release
    /// without them: nothing is sent. Or the owner cannot be reached, or takes no message from a mailbox of this host that is full
    /// for the [default time](crate::ConnectorBuilder::timeout), which includes the wait for earlier ones: the message counts as lost.
    pub async fn notify(&self, payload: &[u8]) -> Result<(), ConnectorError> {
        self.refuse_notification(payload)?;
        let import = &*self.0;
        let (export, peer) = (import.metadata.export().value(), &import.peer);
        let driver = import.connector.connection().driver();
        let options = import.connector.default_options();
        // Held until it is sent: a later one must not overtake it.
        let (last, options) = import.notified.next(driver, options).await?;
        match (&import.words, peer) {
            (Words::Own(own), _) => {
                let sender = NotificationSender::new(import.connector.name(), import.reader);
                self.own(own)?.table().notify(sender, *last, payload);
                Ok(())
            }
            (_, None) => Ok(()),
            (_, Some(peer)) => {
                let (message, to) = ((*last, payload), (peer, import.mailbox.clone()));
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

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::Duration;

    use nixl_ops::{DriverConfig, SystemClock};

    use super::*;

    /// As behind an owner that takes nothing, while the first one waits for it.
    #[tokio::test]
    async fn each_notification_waits_for_those_before_it_until_its_own_deadline() {
        const AFTER: Duration = Duration::from_millis(2);
        let clock = Arc::new(SystemClock::new());
        let driver = Driver::spawn_local(clock, DriverConfig::default()).unwrap();
        let numbers = NotificationNumbers::default();
        let (first, _) = numbers.next(&driver, OperationOptions::new()).await.unwrap();
        assert_eq!(*first, 1);
        let options = OperationOptions::new().timeout(AFTER);
        for _ in 0..8 {
            let waiting = tokio::time::timeout(AFTER * 5000, numbers.next(&driver, options));
            let waited = waiting.await.expect("it ends").map(drop);
            assert_eq!(waited, Err(OperationError::TimedOut { after: AFTER }));
        }
        drop(first);
        let (next, _) = numbers.next(&driver, options).await.unwrap();
        assert_eq!(*next, 10, "the receiver finds that eight are lost");
    }
}
