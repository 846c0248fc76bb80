//! What is measured.

use std::sync::Arc;

use nixl_executor::DirectExecutor;
use nixl_ops::Executor;

/// The executor of both processes, which chooses the path.
pub(crate) fn executor() -> Arc<dyn Executor> {
    Arc::new(DirectExecutor::new())
}
