//! The execution of an operation on a file, for the driver of operations.

use std::sync::Arc;
use std::task::{Context, Poll};

use nixl_ops::{CompletionMode, Execution, PathKind, PathReport, TransportError};

use super::choice::CachedReads;
use super::io_kind::IoKind;
use super::operation::Operation;
use super::queue::DeviceQueue;
use super::vectored;

/// An operation on a file as the driver sees it. The operation owns its memory, so a drop of this gives up the result alone.
pub(crate) struct FileExecution {
    operation: Arc<Operation>,
    queue: Arc<DeviceQueue>,
    cached: CachedReads,
    is_begun: bool,
}

impl FileExecution {
    /// Reads up to this long are tried in the page cache by the first poll: a copy of some microseconds.
    pub(super) const SMALL: u64 = 64 * 1024;

    pub(crate) fn new(
        operation: Arc<Operation>,
        queue: Arc<DeviceQueue>,
        cached: CachedReads,
    ) -> Self {
        Self { operation, queue, cached, is_begun: false }
    }

    fn begin(&mut self) {
        self.is_begun = true;
        let operation = &self.operation;
        let is_small = operation.bytes() <= Self::SMALL && operation.pieces() == 1;
        if is_small && self.cached.may_be_tried(operation) {
            // Not through the queue: the device has no part in it.
            let Some(op) = operation.take(None) else { return };
            let result = match self.cached {
                CachedReads::AreCopies => vectored::call(&op),
                _ => vectored::read_cached(&op),
            };
            match result {
                Ok(count) if count as u64 == op.left() => drop(op.answer(Ok(count))),
                // Not all of it is there.
                _ => operation.engine().submit(vec![op]),
            }
            return;
        }
        self.queue.add(operation);
    }
}

impl Execution for FileExecution {
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), TransportError>> {
        if !self.is_begun {
            self.begin();
        }
        self.operation.poll(cx.waker()).map_err(|error| TransportError::Engine {
            engine: self.operation.engine().kind().name(),
            call: match self.operation.kind() {
                IoKind::Read => "read",
                IoKind::Write => "write",
                IoKind::Sync => "sync",
            },
            reason: error.into(),
        })
    }

    fn completion_mode(&self) -> CompletionMode {
        CompletionMode::Wakes
    }

    fn abandon(&mut self) -> bool {
        let is_quiet = self.operation.stop();
        self.queue.remove(&self.operation);
        is_quiet
    }

    fn report(&self) -> PathReport {
        let engine = self.operation.engine().kind().name();
        PathReport::new(
            PathKind::Local("file"),
            engine,
            self.operation.bytes(),
            self.operation.pieces(),
        )
    }

    /// Longer ones are begun by threads of the engine.
    fn posts_quickly(&self) -> bool {
        true
    }
}

impl Drop for FileExecution {
    fn drop(&mut self) {
        self.abandon();
    }
}
