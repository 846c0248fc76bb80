//! The future of an awaited operation.

use std::future::{Future, IntoFuture};
use std::pin::Pin;
use std::task::{Context, Poll};

use super::{CopyOperation, ReadOperation, ReadableOperation, WritableOperation, WriteOperation};
use crate::{Completion, OperationError};

/// The future of `operation.await`. Dropping it cancels the operation; `wait_for_completion` waits without consuming the
/// operation.
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

        /// As `wait_for_completion`; the operation is dropped at its end. After an error the memory stays with the library
        /// until the engine is quiet: `reclaim` waits for that, too.
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
