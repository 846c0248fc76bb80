//! Executors that are measured.

use std::sync::Arc;

use anyhow::Result;
use nixl_executor::PathExecutor;
use nixl_ops::Executor;

/// The executor of both processes, which chooses the path.
pub(crate) fn executor() -> Result<Arc<dyn Executor>> {
    Ok(Arc::new(PathExecutor::new()?))
}
