//! The queue of a device: operations that wait, by class, and the calls that are in flight.

use std::collections::BTreeMap;
use std::fmt;
use std::mem;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use nixl_device::locks::lock;
use nixl_ops::{Clock, contained};

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
    /// With pieces left to be taken, by ticket.
    classes: [BTreeMap<u64, Arc<Operation>>; FileClass::ALL.len()],
    last_ticket: u64,
    bytes: [u64; FileClass::ALL.len()],
    schedule: Schedule,
    /// A thread begins calls, and looks again if this was asked for meanwhile.
    pumping: bool,
    again: bool,
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
        lock(&self.waiting).push(operation, operation.class());
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
            waiting.push(operation, class);
        }
        drop(waiting);
        self.pump();
    }

    /// Begins what may begin. An engine that refuses a call comes back here, by which the first of these calls looks again.
    fn pump(self: &Arc<Self>) {
        let mut waiting = lock(&self.waiting);
        waiting.again = true;
        if waiting.pumping {
            return;
        }
        waiting.pumping = true;
        drop(waiting);
        // Also after a panic of an engine.
        let pumping = Pumping(self);
        while pumping.goes_on() {
            self.submit_next();
        }
        mem::forget(pumping);
    }

    fn submit_next(self: &Arc<Self>) {
        let now = self.now();
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

    /// A clock that panics takes neither a call's end nor a thread of an engine with it.
    fn now(&self) -> Duration {
        contained("the clock of a device's queue", || self.clock.now()).unwrap_or_default()
    }

    /// Bytes of operations that wait, by class.
    pub(crate) fn queued(&self, class: FileClass) -> u64 {
        lock(&self.waiting).bytes[class.index()]
    }
}

impl CallCounter for DeviceQueue {
    fn note_end(&self, class: FileClass, bytes: u64) {
        let now = self.now();
        lock(&self.waiting).schedule.ended(class, bytes, now);
    }

    fn begin_more(self: Arc<Self>) {
        self.pump();
    }
}

struct Pumping<'a>(&'a DeviceQueue);

impl Pumping<'_> {
    /// Whether to look again. Else the next call of `pump` begins.
    fn goes_on(&self) -> bool {
        let mut waiting = lock(&self.0.waiting);
        waiting.pumping = mem::take(&mut waiting.again);
        waiting.pumping
    }
}

impl Drop for Pumping<'_> {
    fn drop(&mut self) {
        lock(&self.0.waiting).pumping = false;
    }
}

impl Waiting {
    fn push(&mut self, operation: &Arc<Operation>, class: FileClass) {
        self.last_ticket += 1;
        operation.ticket.store(self.last_ticket, Relaxed);
        self.classes[class.index()].insert(self.last_ticket, Arc::clone(operation));
        self.bytes[class.index()] += operation.bytes();
    }

    /// The next call.
    fn take(
        &mut self,
        queue: &Arc<DeviceQueue>,
        now: Duration,
    ) -> Option<(FileOp, Arc<dyn FileEngine>)> {
        loop {
            let classes = &self.classes;
            let class = self.schedule.next(|class| !classes[class.index()].is_empty(), now)?;
            let operation = Arc::clone(self.classes[class.index()].first_key_value()?.1);
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
        let ticket = operation.ticket.swap(0, Relaxed);
        if ticket == 0 {
            return false;
        }
        for (operations, bytes) in self.classes.iter_mut().zip(&mut self.bytes) {
            if operations.remove(&ticket).is_some() {
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
