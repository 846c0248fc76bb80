//! The path executor that the connectors of a process share by default.

use std::sync::{Arc, Mutex, Weak};

use nixl_device::locks::{lock, try_lock};
use nixl_device::{LeakInChild, PerProcess};

use super::common::Common;
use super::path_executor::{Connections, PathExecutor};
use crate::local::{BlockError, on_a_thread, thread_error};

/// The parts of the executor, for as long as a handle or a connection holds them. The lock is held while it is made, so that
/// two callers do not make two.
static COMMON: PerProcess<Mutex<Parts>> = PerProcess::new(Mutex::default);

#[derive(Default)]
struct Parts {
    shared: Weak<Common>,
    connections: Weak<Connections>,
}

impl Parts {
    fn executor(&self) -> Option<PathExecutor> {
        let (shared, connections) = (self.shared.upgrade()?, self.connections.upgrade()?);
        Some(PathExecutor { shared: LeakInChild::new(shared), connections })
    }
}

impl PathExecutor {
    /// The executor of this process, made by the first call, as by [`new`](Self::new), on a thread of its own. Later calls
    /// return handles to the same one for as long as a handle or a connection that uses it is there: its GPUs, threads and
    /// staging memory are shared.
    ///
    /// Never blocks the caller's thread. Cancel safe: dropping the future loses nothing.
    ///
    /// # Errors
    ///
    /// [`BlockError`]: a GPU is there and fails, or the operating system refuses a thread. The next call tries again. A
    /// machine without GPUs, or without CUDA, is no error.
    pub async fn shared() -> Result<Self, BlockError> {
        if let Some(parts) = try_lock(COMMON.get())
            && let Some(executor) = parts.executor()
        {
            return Ok(executor);
        }
        on_a_thread(common).await.map_err(thread_error)?
    }
}

/// **Blocks** while it is made, by this thread or another.
fn common() -> Result<PathExecutor, BlockError> {
    let mut parts = lock(COMMON.get());
    if let Some(executor) = parts.executor() {
        return Ok(executor);
    }
    let made = PathExecutor::new()?;
    *parts = Parts {
        shared: Arc::downgrade(&made.shared),
        connections: Arc::downgrade(&made.connections),
    };
    Ok(made)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// One test, since the executor is of the process.
    #[tokio::test]
    async fn it_is_one_for_all_and_ends_with_its_last_user() {
        let (first, second) = tokio::join!(PathExecutor::shared(), PathExecutor::shared());
        let (first, second) = (first.unwrap(), second.unwrap());
        assert!(Arc::ptr_eq(&first.shared, &second.shared));
        let third = PathExecutor::shared().await.unwrap();
        assert!(Arc::ptr_eq(&first.shared, &third.shared));

        // Settings of a handle are its own.
        let other = third.staging(crate::StagingConfig::default());
        assert!(!Arc::ptr_eq(&first.shared, &other.shared));

        let weak = Arc::downgrade(&first.shared);
        drop((first, second, other));
        assert_eq!(weak.strong_count(), 0);
        PathExecutor::shared().await.unwrap();
    }
}
