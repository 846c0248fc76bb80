//! An offer of the target, for reading or for writing.

use nixl_connector::{
    Connector, ConnectorError, OperationError, OperationOptions, ReadableOperation,
    WritableOperation,
};
use nixl_descriptor::DescriptorList;
use nixl_metadata::RdmaMetadata;

use crate::messages::Kind;

pub(crate) enum Offered {
    Readable(ReadableOperation),
    Writable(WritableOperation),
}

impl Offered {
    /// The offer for an operation of this kind by the initiator.
    pub(crate) async fn create(
        connector: &Connector,
        kind: Kind,
        list: DescriptorList,
        options: OperationOptions,
    ) -> Result<Self, ConnectorError> {
        Ok(match kind {
            Kind::Read => Self::Readable(connector.create_readable_with(list, options).await?),
            Kind::Write => Self::Writable(connector.create_writable_with(list, options).await?),
        })
    }

    pub(crate) fn metadata(&self) -> &RdmaMetadata {
        match self {
            Self::Readable(operation) => operation.metadata(),
            Self::Writable(operation) => operation.metadata(),
        }
    }

    pub(crate) async fn wait_for_completion(&mut self) -> Result<(), OperationError> {
        match self {
            Self::Readable(operation) => operation.wait_for_completion().await.map(drop),
            Self::Writable(operation) => operation.wait_for_completion().await.map(drop),
        }
    }
}
