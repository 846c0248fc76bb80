//! Imports between connectors of one process.

use nixl_metadata::ExportMetadata;

use crate::{Connector, ConnectorError, ImportOptions, RemoteExport};

/// Imports an export of another connector of this process as one of another process: its words and its blocks are reached as a
/// peer's, where [`Connector::import`] copies inside the process.
///
/// # Errors
///
/// As [`Connector::import`].
pub async fn import_from_peer(
    connector: &Connector,
    metadata: &ExportMetadata,
) -> Result<RemoteExport, ConnectorError> {
    connector.import_unless(metadata, None, ImportOptions::new()).await
}
