//! The future that awaiting an operation makes.

use std::future::{Future, IntoFuture};
use std::pin::Pin;
use std::task::{Context, Poll};

use super::{CopyOperation, ReadOperation, ReadableOperation, WritableOperation, WriteOperation};
use crate::{Completion, OperationError};

/// The end of an operation, as `operation.await` waits for it. Dropping it cancels the operation; to wait without giving the
/// operation away, use its `wait_for_completion`.
#[derive(Debug)]
#[must_use = "dropping it cancels the operation"]
pub struct OperationFuture<O>(O);

macro_rules! awaited {
    ($($name:ident),*) => {$(
        impl Future for OperationFuture<$name> {
            type Output = Result<Completion, OperationError>;

            fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
                self.get_mut().0.0.poll_wait(cx)
            }
        }

        /// As `wait_for_completion`, and the operation is dropped with its end. Memory with which the engine is not done after
        /// an error is the library's until then: `reclaim` waits for that, too.
        ///
        /// **Not** cancel safe: dropping the future cancels the operation.
        impl IntoFuture for $name {
            type Output = Result<Completion, OperationError>;
            type IntoFuture = OperationFuture<Self>;

            fn into_future(self) -> OperationFuture<Self> {
                OperationFuture(self)
            }
        }
    )*};
}

awaited!(ReadOperation, WriteOperation, CopyOperation, ReadableOperation, WritableOperation);
