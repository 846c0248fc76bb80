//! The grants of a connection's exports, served by its driver.

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use bytes::Bytes;
use nixl_descriptor::{DescriptorList, Registration};

use super::layers::{WatchRequest, Watcher};
use super::message::GrantMessage;
use super::notifications::NotificationSender;
use super::outstanding::OutstandingTickets;
use super::table::GrantTable;
use crate::control::{ControlMessage, ControlVerb, Message};
use crate::passive::{ExportReaders, Freed};
use crate::sync::{Mutex, lock};
use crate::{Driver, Mailbox, OperationError, OperationOptions, PeerId, TransportError};

/// The tables of the exports that are open, by the numbers of the exports, and the tickets of closed ones.
#[derive(Debug, Default)]
pub(crate) struct ServedGrants {
    tables: Mutex<HashMap<u64, Served>>,
    /// How many there are, so that a connection without exports pays a load.
    count: AtomicUsize,
}

/// What is served of an export.
#[derive(Debug)]
struct Served {
    table: Weak<GrantTable>,
    /// Outlive the table while the memory of the export is retained.
    tickets: Weak<OutstandingTickets>,
}

impl Served {
    fn is_over(&self) -> bool {
        self.table.strong_count() == 0 && self.tickets.strong_count() == 0
    }
}

impl ServedGrants {
    fn add(&self, export: u64, table: &Arc<GrantTable>) {
        let mut tables = lock(&self.tables);
        tables.retain(|_, served| !served.is_over());
        let tickets = Arc::downgrade(table.tickets());
        tables.insert(export, Served { table: Arc::downgrade(table), tickets });
        self.count.store(tables.len(), Ordering::Release);
    }

    fn table(&self, export: u64) -> Option<Arc<GrantTable>> {
        lock(&self.tables).get(&export)?.table.upgrade()
    }

    /// Ends the grants whose time is over. Returns when the next one's is.
    pub(crate) fn expire(&self, now: Duration) -> Option<Duration> {
        let next = |table: Arc<GrantTable>| {
            table.expire(now);
            table.next_expiry()
        };
        self.alive().into_iter().filter_map(next).min()
    }

    /// Whether a reader may say that it is done.
    pub(crate) fn are_alive(&self) -> bool {
        self.any(GrantTable::is_used)
    }

    /// Whether a task waits for blocks that a reader's message may free, or for notifications.
    pub(crate) fn are_awaited(&self) -> bool {
        self.any(GrantTable::is_awaited)
    }

    fn any(&self, is_so: impl Fn(&GrantTable) -> bool) -> bool {
        // Called several times in each turn of the driver: without a list of the tables.
        if self.count.load(Ordering::Acquire) == 0 {
            return false;
        }
        let mut last = Vec::new();
        let tables = lock(&self.tables);
        let is_any = tables.values().filter_map(|served| served.table.upgrade()).any(|table| {
            let is_it = is_so(&table);
            last.extend(Arc::into_inner(table));
            is_it
        });
        // The end of a table whose export is gone wakes tasks: outside the lock.
        drop(tables);
        drop(last);
        is_any
    }

    /// A reader's message. Returns whether it is about an export here.
    pub(crate) fn receive(&self, message: &[u8]) -> bool {
        let Some(message) = GrantMessage::decode(message) else { return false };
        let Some(table) = self.table(message.export) else { return self.is_done(&message) };
        match table.receive(&message) {
            Ok(()) => true,
            Err(error) => {
                tracing::debug!(%error, "a message about a grant is not taken");
                false
            }
        }
    }

    /// A reader's message about a grant of a closed export. Returns whether that ends the wait for its readers.
    fn is_done(&self, message: &GrantMessage) -> bool {
        let tickets = {
            let tables = lock(&self.tables);
            tables.get(&message.export).and_then(|served| served.tickets.upgrade())
        };
        tickets.is_some_and(|tickets| message.is_done_with(&tickets))
    }

    /// Registers a reader for notices of layers, by `tell`. Returns whether it is registered.
    pub(crate) fn watch(
        &self,
        message: &ControlMessage<'_>,
        tell: impl FnOnce([u8; 16], u64, Bytes) -> Option<Arc<Watcher>>,
    ) -> bool {
        let ControlVerb::Watch { metadata } = message.verb else { return false };
        let request = WatchRequest::decode(message.key, metadata);
        let Some(WatchRequest { message, metadata }) = request else { return false };
        let Some(table) = self.table(message.export) else { return false };
        let (_, generation, _) = message.grant();
        let Some(watcher) = tell(*message.reader(), generation, metadata) else { return false };
        match table.watch(&message, watcher) {
            Ok(is_told) => is_told,
            Err(error) => {
                tracing::debug!(%error, "a reader gets no notice of layers");
                false
            }
        }
    }

    /// An importer's notification. Returns whether it is about an export here.
    pub(crate) fn notified(&self, from: &str, message: &ControlMessage<'_>) -> bool {
        let ControlVerb::Notification { sequence, payload } = message.verb else { return false };
        let Ok(import) = message.key.try_into() else { return false };
        let Some(table) = self.table(message.token) else { return false };
        let sender = NotificationSender::new(from, import);
        table.notify(sender, sequence, payload);
        true
    }

    fn alive(&self) -> Vec<Arc<GrantTable>> {
        lock(&self.tables).values().filter_map(|served| served.table.upgrade()).collect()
    }
}

impl Driver {
    /// From now on ends the table's grants when their time is over, and takes readers' messages about them.
    pub fn serve_grants(&self, export: u64, table: &Arc<GrantTable>) {
        self.shared().passive.grants.add(export, table);
    }

    /// A grant of a table that is served ends by itself at this time of the connection's clock.
    pub fn grant_expires(&self, at: Duration) {
        self.shared().passive.wake_by(at);
        self.shared().wake(false);
    }

    /// A task waits for blocks or notifications of a table that is served: from now on peers' messages are taken as they come,
    /// until none waits.
    pub fn await_grants(&self) {
        self.shared().kick();
    }

    /// The memory of a closed export is kept for at least so long, since an importer may have found it open directly before, unless
    /// no process is left that could read.
    pub const IMPORT: Duration = Duration::from_secs(1);

    /// Keeps the memory of a closed export for as long as a read of it may be under way: for at least [`IMPORT`](Self::IMPORT),
    /// and until its tickets have ended and reads that began in time have arrived, or no process is left that could read. Then
    /// `freed` is called, once the registrations and this handle to the memory are gone.
    pub fn retain_export(
        &self,
        table: &GrantTable,
        held: (Vec<Registration>, Arc<DescriptorList>),
        freed: impl FnOnce() + Send + 'static,
    ) {
        let readers = ExportReaders::new(table, held.1.as_slice(), self.shared().clock.now());
        self.shared().passive.retain_export(readers, held, Freed::new(freed));
        self.shared().wake(true);
    }

    /// Sends the owner of an export, a connected peer, a reader's message about a grant.
    ///
    /// Cancel safe: the message is sent or it is not.
    ///
    /// # Errors
    ///
    /// As [`Mailbox::post`] and [`Transport::notify`](crate::Transport::notify), [`OperationError::TimedOut`] if the mailbox stays
    /// full for the time of `options`, or [`OperationError::QueueFull`].
    pub async fn send_grant_message(
        self: &Arc<Self>,
        message: &GrantMessage,
        (peer, mailbox): (&PeerId, Option<Mailbox>),
        options: OperationOptions,
    ) -> Result<(), OperationError> {
        let transport = self.shared().transport().ok_or(TransportError::Closed)?;
        let (key, verb) = (message.encode(), ControlVerb::OfGrant);
        let payload = ControlMessage { key: &key, token: 0, verb }.encode();
        Message::new(transport, peer.clone(), payload).by(mailbox).send(self, options).await
    }
}
