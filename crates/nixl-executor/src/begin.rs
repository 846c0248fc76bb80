//! The default connector, with the process's path executor.

use std::sync::Arc;

use nixl_connector::{Connector, ConnectorBuilder};

use crate::{BlockError, PathExecutor};

/// Starts to configure a connector that takes the fastest path to each peer: [`Connector::builder`] with the [executor of the
/// process](PathExecutor::shared).
///
/// The first call of a process takes some hundred milliseconds on a machine with GPUs, off the caller's thread. For an executor
/// with other settings: `Connector::builder().executor(Arc::new(executor))`.
///
/// Cancel safe: dropping the future loses nothing.
///
/// # Errors
///
/// As [`PathExecutor::shared`]. A machine without GPUs, or without CUDA, is no error.
pub async fn connector() -> Result<ConnectorBuilder, BlockError> {
    let executor = PathExecutor::shared().await?;
    Ok(Connector::builder().executor(Arc::new(executor)))
}
