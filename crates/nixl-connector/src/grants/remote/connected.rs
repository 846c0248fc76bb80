//! The connection of reads whose words are read through the engine.
//!
//! The owner of an export that is closed frees its memory once each of its sockets has ended, but not the words. So on a new
//! connection the words are read first, and a read is bound to the connection by which they were.

use std::num::NonZeroU64;
use std::sync::atomic::{AtomicU64, Ordering};

use nixl_ops::{OperationOptions, StaleRead, TransportError, WordCheck};

use super::check::{Words, refused};
use super::{Imported, RemoteExport};
use crate::ConnectorError;

/// How often a read begins again since its peer was connected anew.
pub(super) const RECONNECTS: u32 = 8;

/// Whether a read was refused since its peer was connected anew.
pub(super) fn is_reconnected(error: &ConnectorError) -> bool {
    matches!(error.as_transport(), Some(TransportError::Reconnected { .. }))
}

/// The latest connection by which the words were found to stand, or that the export is open.
#[derive(Default)]
pub(super) struct LastConnection(AtomicU64);

impl LastConnection {
    pub(super) fn note(&self, connection: Option<NonZeroU64>) {
        self.0.store(connection.map_or(0, NonZeroU64::get), Ordering::Release);
    }

    fn is(&self, connection: NonZeroU64) -> bool {
        self.0.load(Ordering::Acquire) == connection.get()
    }
}

impl RemoteExport {
    /// The connection for a read, and the options with the time that is left. `None` where the words are mapped, or the engine has
    /// no numbers of connections: then they are read before each read.
    pub(super) async fn connection_of_read(
        &self,
        check: &WordCheck,
        options: OperationOptions,
    ) -> Result<(Option<NonZeroU64>, OperationOptions), ConnectorError> {
        let Imported { connector, words, peer, looked, .. } = &*self.0;
        let (Words::Engine(_), Some(peer)) = (words, peer) else { return Ok((None, options)) };
        let current = connector.connection().transport().connection_to(peer);
        if current.is_some_and(|current| looked.is(current)) {
            return Ok((current, options));
        }
        // Seldom, and larger than the rest of a read.
        Box::pin(self.look_on_connection(check, options)).await
    }

    async fn look_on_connection(
        &self,
        check: &WordCheck,
        options: OperationOptions,
    ) -> Result<(Option<NonZeroU64>, OperationOptions), ConnectorError> {
        let Imported { connector, metadata, looked, .. } = &*self.0;
        let clock = connector.connection().clock();
        let begun = clock.now();
        let look = async || {
            let words = connector.read_words(metadata, check.slot(), options).await?;
            let ([word, digest, ready, _], connection) = words;
            Ok::<_, ConnectorError>(check.compare([word, digest, ready]).map(|()| connection))
        };
        let looked_at = match look().await? {
            // The words may have been read while the slot was granted anew.
            Err(StaleRead::NotGranted) => look().await?,
            looked_at => looked_at,
        };
        let connection = looked_at.map_err(refused)?;
        looked.note(connection);
        Ok((connection, options.spending(clock.now().saturating_sub(begun))))
    }
}
