//! Operations that wait for a peer: found by the key in the notification, not by a scan.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use nixl_descriptor::{DescriptorList, LeaseSet, Registration};
use nixl_metadata::{NotificationKey, OperationKind, RdmaMetadata};

use crate::deadline::Deadline;
use crate::outcome::{Completion, Outcome};
use crate::sync::{Mutex, lock};
use crate::{Clock, CompletionCell, OperationError, OperationOptions, OperationStatus};

/// What a passive operation is made of.
#[derive(Debug)]
#[non_exhaustive]
pub struct OfferSpec {
    /// What the peer will get. Its key is the one the peer's notification must carry.
    pub metadata: RdmaMetadata,
    /// The memory offered.
    pub descriptors: DescriptorList,
    /// Its leases: `Read` for a readable operation, `Write` for a writable one.
    pub leases: LeaseSet,
    /// Its registrations.
    pub registrations: Vec<Registration>,
}

impl OfferSpec {
    /// An offer of `descriptors`, described by `metadata`.
    pub fn new(
        metadata: RdmaMetadata,
        descriptors: DescriptorList,
        leases: LeaseSet,
        registrations: Vec<Registration>,
    ) -> Self {
        Self { metadata, descriptors, leases, registrations }
    }
}

/// One passive operation.
#[derive(Debug)]
pub(crate) struct PassiveEntry {
    kind: OperationKind,
    key: NotificationKey,
    descriptors: DescriptorList,
    pub(crate) cell: Arc<CompletionCell<Outcome>>,
    begun: Duration,
    table: Weak<PassiveTable>,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    /// Gone once the peer is known to be done with the memory.
    hold: Option<Hold>,
    deadline: Option<Deadline>,
    /// Set once nobody waits any more but a peer may still use the memory: when to give up.
    drain_by: Option<Duration>,
    /// Somebody may have the metadata, and use it at any time.
    exported: bool,
    /// A copy inside this process is using the memory.
    claimed: bool,
}

#[derive(Debug)]
struct Hold {
    registrations: Vec<Registration>,
    leases: LeaseSet,
}

impl PassiveEntry {
    pub(crate) fn kind(&self) -> OperationKind {
        self.kind
    }

    pub(crate) fn key(&self) -> &NotificationKey {
        &self.key
    }

    pub(crate) fn descriptors(&self) -> &DescriptorList {
        &self.descriptors
    }

    pub(crate) fn set_exported(&self) {
        lock(&self.state).exported = true;
    }

    pub(crate) fn claim(&self) -> bool {
        let mut state = lock(&self.state);
        let free = state.hold.is_some() && !state.claimed && !self.cell.status().is_terminal();
        state.claimed |= free;
        free
    }

    pub(crate) fn unclaim(&self) {
        lock(&self.state).claimed = false;
    }

    /// The peer is done: gives the memory back and wakes the waiter.
    pub(crate) fn complete(self: Arc<Self>) {
        if let Some(table) = self.table.upgrade() {
            table.remove(self.key.as_bytes());
        }
        let hold = lock(&self.state).hold.take();
        let Some(hold) = hold else { return };
        drop(hold.leases);
        drop(hold.registrations);
        // A claim may outlive the driver, and with it the table.
        let elapsed = self
            .table
            .upgrade()
            .map_or(Duration::ZERO, |table| table.clock.now().saturating_sub(self.begun));
        let completion = Completion::new(self.descriptors.total_bytes(), elapsed, None);
        let cell = Arc::clone(&self.cell);
        // The waiter may take its memory back as soon as it wakes, so this must not hold a descriptor of it.
        drop(self);
        cell.finish_quiet(OperationStatus::Complete, Ok(completion));
    }

    /// Nobody waits any more. The memory comes back at once if no peer can know of it, else when the peer
    /// is done, or never.
    pub(crate) fn abandon(&self, error: OperationError) -> bool {
        let status = match error {
            OperationError::Cancelled => OperationStatus::Cancelled,
            _ => OperationStatus::Errored,
        };
        let ended = self.cell.finish(status, Err(error));
        let Some(table) = self.table.upgrade() else { return ended };
        let mut state = lock(&self.state);
        if state.exported || state.claimed {
            if state.hold.is_some() && state.drain_by.is_none() {
                let drain_by = table.clock.now().saturating_add(table.drain);
                state.drain_by = Some(drain_by);
                table.wake_by(drain_by);
            }
            return ended;
        }
        let hold = state.hold.take();
        drop(state);
        table.remove(self.key.as_bytes());
        drop(hold);
        self.cell.set_quiet();
        ended
    }

    /// Applies whatever deadline has passed; returns the next one.
    fn expire(&self, now: Duration) -> Option<Duration> {
        let timed_out = {
            let mut state = lock(&self.state);
            match state.deadline {
                Some(deadline) if now >= deadline.at => state.deadline.take(),
                _ => None,
            }
        };
        if let Some(deadline) = timed_out {
            self.abandon(OperationError::TimedOut { after: deadline.after });
        }
        let mut state = lock(&self.state);
        match state.drain_by {
            Some(drain_by) if now >= drain_by && !state.claimed => {
                let hold = state.hold.take();
                drop(state);
                if let Some(hold) = hold {
                    tracing::error!(
                        bytes = self.descriptors.total_bytes(),
                        "no word from the peer about an abandoned operation; its memory is leaked"
                    );
                    hold.leases.leak();
                }
                if let Some(table) = self.table.upgrade() {
                    table.remove(self.key.as_bytes());
                }
                self.cell.set_leaked();
                None
            }
            Some(drain_by) => Some(drain_by),
            None => state.deadline.map(|d| d.at),
        }
    }
}

/// All passive operations of a connection.
#[derive(Debug)]
pub(crate) struct PassiveTable {
    entries: Mutex<HashMap<Box<[u8]>, Arc<PassiveEntry>>>,
    /// The earliest moment at which an entry wants [`expire`](Self::expire), in nanoseconds.
    next_expiry: AtomicU64,
    clock: Arc<dyn Clock>,
    drain: Duration,
}

impl PassiveTable {
    pub(crate) fn new(clock: Arc<dyn Clock>, drain: Duration) -> Arc<Self> {
        Arc::new(Self {
            entries: Mutex::new(HashMap::new()),
            next_expiry: AtomicU64::new(u64::MAX),
            clock,
            drain,
        })
    }

    pub(crate) fn insert(
        self: &Arc<Self>,
        spec: OfferSpec,
        options: &OperationOptions,
    ) -> Arc<PassiveEntry> {
        let now = self.clock.now();
        let deadline = Deadline::starting(now, options);
        let entry = Arc::new(PassiveEntry {
            kind: spec.metadata.operation_kind(),
            key: spec.metadata.notification_key().clone(),
            descriptors: spec.descriptors,
            cell: Arc::new(CompletionCell::new()),
            begun: now,
            table: Arc::downgrade(self),
            state: Mutex::new(State {
                hold: Some(Hold { registrations: spec.registrations, leases: spec.leases }),
                deadline,
                drain_by: None,
                exported: false,
                claimed: false,
            }),
        });
        entry.cell.advance(OperationStatus::Initialized);
        lock(&self.entries).insert(entry.key.as_bytes().into(), Arc::clone(&entry));
        if let Some(deadline) = deadline {
            self.wake_by(deadline.at);
        }
        entry
    }

    pub(crate) fn len(&self) -> usize {
        lock(&self.entries).len()
    }

    /// A notification arrived. Returns whether an operation was waiting for it. One that is claimed is ended by whoever
    /// claimed it.
    pub(crate) fn deliver(&self, payload: &[u8]) -> bool {
        let entry = lock(&self.entries).get(payload).cloned();
        match entry {
            Some(entry) if lock(&entry.state).claimed => false,
            Some(entry) => {
                entry.complete();
                true
            }
            None => false,
        }
    }

    /// Applies the deadlines that have passed. Costs one load while none has.
    pub(crate) fn expire(&self, now: Duration) {
        if nanos(now) < self.next_expiry.load(Ordering::Acquire) {
            return;
        }
        self.next_expiry.store(u64::MAX, Ordering::Release);
        let entries: Vec<_> = lock(&self.entries).values().cloned().collect();
        for entry in entries {
            if let Some(next) = entry.expire(now) {
                self.wake_by(next);
            }
        }
    }

    fn wake_by(&self, at: Duration) {
        self.next_expiry.fetch_min(nanos(at), Ordering::AcqRel);
    }

    fn remove(&self, key: &[u8]) {
        lock(&self.entries).remove(key);
    }
}

fn nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}
