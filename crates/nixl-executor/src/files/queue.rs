//! The queue of a device: operations that wait, by class, and the calls that are in flight.

use std::collections::VecDeque;
use std::fmt;
use std::sync::{Arc, Mutex};

use nixl_device::locks::lock;
use nixl_ops::Clock;

use super::class::FileClass;
use super::error::FileTransferError;
use super::operation::{CallCounter, FileEngine, FileOp, Operation};
use super::schedule::Schedule;

/// The operations of one device.
pub(crate) struct DeviceQueue {
    waiting: Mutex<Waiting>,
    clock: Arc<dyn Clock>,
    /// Bytes of each class but demand that may wait.
    limit: u64,
}

#[derive(Default)]
struct Waiting {
    /// With pieces left to be taken.
    classes: [VecDeque<Arc<Operation>>; FileClass::ALL.len()],
    bytes: [u64; FileClass::ALL.len()],
    schedule: Schedule,
}

impl DeviceQueue {
    pub(crate) fn new(clock: Arc<dyn Clock>, limit: u64) -> Arc<Self> {
        Arc::new(Self { waiting: Mutex::default(), clock, limit })
    }

    /// Whether there is room for so many bytes of a class: always for demand.
    pub(crate) fn check(&self, class: FileClass, bytes: u64) -> Result<(), FileTransferError> {
        let waiting = lock(&self.waiting).bytes[class.index()];
        let (queued, limit) = (waiting.saturating_add(bytes), self.limit);
        // One operation alone may be longer than the bound.
        match class == FileClass::Demand || queued <= limit || waiting == 0 {
            true => Ok(()),
            false => Err(FileTransferError::Busy { class, queued, limit }),
        }
    }

    /// Adds an operation, and begins what may begin.
    pub(crate) fn add(self: &Arc<Self>, operation: &Arc<Operation>) {
        let class = operation.class();
        let mut waiting = lock(&self.waiting);
        waiting.classes[class.index()].push_back(Arc::clone(operation));
        waiting.bytes[class.index()] += operation.bytes();
        drop(waiting);
        self.pump();
    }

    /// Removes an operation that was stopped.
    pub(crate) fn remove(&self, operation: &Arc<Operation>) {
        lock(&self.waiting).remove(operation);
    }

    /// Moves an operation that waits to another class, behind those that are there. What is in flight stays what it was.
    pub(crate) fn promote(self: &Arc<Self>, operation: &Arc<Operation>, class: FileClass) {
        let mut waiting = lock(&self.waiting);
        if waiting.remove(operation) {
            waiting.classes[class.index()].push_back(Arc::clone(operation));
            waiting.bytes[class.index()] += operation.bytes();
        }
        drop(waiting);
        self.pump();
    }

    /// Begins what may begin.
    fn pump(self: &Arc<Self>) {
        let now = self.clock.now();
        let mut batches: Vec<(Arc<dyn FileEngine>, Vec<FileOp>)> = Vec::new();
        let mut waiting = lock(&self.waiting);
        while let Some((op, engine)) = waiting.take(self, now) {
            match batches.iter_mut().find(|(known, _)| Arc::ptr_eq(known, &engine)) {
                Some((_, ops)) => ops.push(op),
                None => batches.push((engine, vec![op])),
            }
        }
        drop(waiting);
        for (engine, ops) in batches {
            engine.submit(ops);
        }
    }

    /// Bytes of operations that wait, by class.
    pub(crate) fn queued(&self, class: FileClass) -> u64 {
        lock(&self.waiting).bytes[class.index()]
    }
}

impl CallCounter for DeviceQueue {
    fn note_end(&self, class: FileClass, bytes: u64) {
        let now = self.clock.now();
        lock(&self.waiting).schedule.ended(class, bytes, now);
    }

    fn begin_more(self: Arc<Self>) {
        self.pump();
    }
}

impl Waiting {
    /// The next call.
    fn take(
        &mut self,
        queue: &Arc<DeviceQueue>,
        now: std::time::Duration,
    ) -> Option<(FileOp, Arc<dyn FileEngine>)> {
        loop {
            let classes = &self.classes;
            let class = self.schedule.next(|class| !classes[class.index()].is_empty(), now)?;
            let operation = Arc::clone(self.classes[class.index()].front()?);
            let len = operation.next_len();
            let taken = len.and_then(|len| {
                Some((operation.take(Some((Arc::clone(queue) as _, class)))?, len))
            });
            if operation.next_len().is_none() {
                self.remove(&operation);
            }
            // One that was stopped in the meantime has none.
            if let Some((op, len)) = taken {
                self.schedule.begun(class, len);
                return Some((op, Arc::clone(operation.engine())));
            }
        }
    }

    fn remove(&mut self, operation: &Arc<Operation>) -> bool {
        for (operations, bytes) in self.classes.iter_mut().zip(&mut self.bytes) {
            if let Some(at) = operations.iter().position(|other| Arc::ptr_eq(other, operation)) {
                operations.remove(at);
                *bytes -= operation.bytes();
                return true;
            }
        }
        false
    }
}

impl fmt::Debug for DeviceQueue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let waiting = lock(&self.waiting);
        f.debug_struct("DeviceQueue")
            .field("waiting", &waiting.bytes)
            .field("schedule", &waiting.schedule)
            .finish_non_exhaustive()
    }
}
