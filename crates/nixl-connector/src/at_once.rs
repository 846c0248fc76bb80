//! One-call transfers: begin, wait and take the bytes.

use nixl_descriptor::DescriptorList;
use nixl_metadata::RdmaMetadata;
use nixl_ops::{Completion, OperationOptions};

use crate::tensors::parts;
use crate::{Connector, ConnectorError};

impl Connector {
    /// Reads a peer's offer into local memory, and waits for completion: [`begin_read`](Self::begin_read) and its completion.
    ///
    /// Cancel safe: if the future is dropped, nothing is transferred or the transfer is cancelled. Then, and after an error,
    /// the memory may stay leased until the engine is quiet; [`ReadOperation::reclaim`] of an operation that was begun
    /// separately waits for that.
    ///
    /// # Errors
    ///
    /// As [`begin_read`](Self::begin_read), and [`ConnectorError::Operation`] if the transfer fails or its deadline passes.
    ///
    /// [`ReadOperation::reclaim`]: crate::ReadOperation::reclaim
    pub async fn read<L>(
        &self,
        remote: &RdmaMetadata,
        local: L,
    ) -> Result<Completion, ConnectorError>
    where
        L: TryInto<DescriptorList>,
        ConnectorError: From<L::Error>,
    {
        Ok(self.begin_read(remote, local).await?.await?)
    }

    /// As [`read`](Self::read), with options instead of the connector's timeout.
    ///
    /// # Errors
    ///
    /// As there.
    pub async fn read_with<L>(
        &self,
        remote: &RdmaMetadata,
        local: L,
        options: OperationOptions,
    ) -> Result<Completion, ConnectorError>
    where
        L: TryInto<DescriptorList>,
        ConnectorError: From<L::Error>,
    {
        Ok(self.begin_read_with(remote, local, options).await?.await?)
    }

    /// Writes local memory into a peer's offer, and waits for completion: [`begin_write`](Self::begin_write) and its
    /// completion.
    ///
    /// Cancel safe: if the future is dropped, nothing is transferred or the transfer is cancelled. Then, and after an error,
    /// the memory may stay leased until the engine is quiet; [`WriteOperation::reclaim`] of an operation that was begun
    /// separately waits for that.
    ///
    /// # Errors
    ///
    /// As [`begin_write`](Self::begin_write), and [`ConnectorError::Operation`] if the transfer fails or its deadline
    /// passes.
    ///
    /// [`WriteOperation::reclaim`]: crate::WriteOperation::reclaim
    pub async fn write<L>(
        &self,
        local: L,
        remote: &RdmaMetadata,
    ) -> Result<Completion, ConnectorError>
    where
        L: TryInto<DescriptorList>,
        ConnectorError: From<L::Error>,
    {
        Ok(self.begin_write(local, remote).await?.await?)
    }

    /// As [`write`](Self::write), with options instead of the connector's timeout.
    ///
    /// # Errors
    ///
    /// As there.
    pub async fn write_with<L>(
        &self,
        local: L,
        remote: &RdmaMetadata,
        options: OperationOptions,
    ) -> Result<Completion, ConnectorError>
    where
        L: TryInto<DescriptorList>,
        ConnectorError: From<L::Error>,
    {
        Ok(self.begin_write_with(local, remote, options).await?.await?)
    }

    /// Reads a peer's offer into a [buffer](Self::buffer) of the pool, and returns a copy of the bytes: its descriptors
    /// concatenated.
    ///
    /// The peer chooses the length, so more than `limit` bytes are refused before any allocation. Programs with large or
    /// repeated reads avoid the copy by [`read`](Self::read) into memory of their own.
    ///
    /// Cancel safe: if the future is dropped, nothing is transferred or the transfer is cancelled.
    ///
    /// # Errors
    ///
    /// [`ConnectorError::OverLimit`], [`ConnectorError::Memory`] or [`ConnectorError::Access`] without memory, and the errors
    /// of [`read`](Self::read).
    pub async fn read_to_vec(
        &self,
        remote: &RdmaMetadata,
        limit: usize,
    ) -> Result<Vec<u8>, ConnectorError> {
        let bytes = remote.total_bytes();
        let refused = ConnectorError::OverLimit { bytes, limit };
        let len = usize::try_from(bytes).ok().filter(|len| *len <= limit).ok_or(refused)?;
        let buffer = self.buffer(len)?;
        self.read(remote, parts(&buffer.whole(), remote)?).await?;
        Ok(buffer.to_vec()?)
    }
}
