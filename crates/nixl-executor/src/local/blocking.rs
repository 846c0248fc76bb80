//! Blocking constructors on a thread of their own, for callers on async threads.

use nixl_connector::{ConnectorError, ControlThread};
use nixl_descriptor::Region;
use nixl_device::cuda::Context;
use nixl_ops::OperationError;

use super::BlockError;

/// The result of a function that blocks, on a thread that ends with it. Never blocks the caller's thread.
///
/// Cancel safe: dropping the future lets the function run to its end and drops its result.
///
/// # Errors
///
/// [`ConnectorError`]: the operating system refuses the thread, or the function panicked.
pub(crate) async fn on_a_thread<T: Send + 'static>(
    make: impl FnOnce() -> T + Send + 'static,
) -> Result<T, ConnectorError> {
    let thread = ControlThread::spawn()?;
    Ok(thread.run(make).await?)
}

/// An error of [`on_a_thread`], as one of executors.
pub(crate) fn thread_error(error: ConnectorError) -> BlockError {
    match error {
        ConnectorError::Thread { error } => BlockError::Thread { error },
        ConnectorError::Transport(error) => OperationError::Transport(error).into(),
        other => BlockError::Thread { error: other.into() },
    }
}

/// As [`Region::shared_pinned`], on a thread of its own, since pinning takes about 100 us for each MiB.
///
/// Never blocks the caller's thread. Cancel safe: dropping the future gives the memory back.
///
/// # Errors
///
/// [`ConnectorError::Memory`] as `Region::shared_pinned`; [`ConnectorError::Thread`] if the operating system refuses a thread.
pub async fn shared_pinned(context: &Context, len: usize) -> Result<Region, ConnectorError> {
    let context = *context;
    Ok(on_a_thread(move || Region::shared_pinned(&context, len)).await??)
}

#[cfg(test)]
mod tests {
    use std::thread;

    use super::*;

    #[tokio::test]
    async fn the_function_runs_on_another_thread() {
        let here = thread::current().id();
        let there = on_a_thread(|| thread::current().id()).await.unwrap();
        assert_ne!(here, there);
    }

    #[tokio::test]
    async fn a_panic_is_an_error_of_the_operation() {
        let error = on_a_thread(|| panic!("on purpose")).await.unwrap_err();
        assert!(matches!(thread_error(error), BlockError::Operation(_)));
    }
}
