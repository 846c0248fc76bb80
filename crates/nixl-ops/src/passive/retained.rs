//! Retained memory of readable offers that have ended.

use std::fmt;
use std::mem;
use std::sync::Arc;
use std::time::Duration;

use nixl_descriptor::{DescriptorList, LeaseMode, Leased, Leases, Registration};
use nixl_metadata::NotificationKey;

use super::telemetry::{HeldGauges, OfferMetrics};
use crate::contained::contained;

/// Memory that its owner may overwrite, and that stays allocated since a read may be under way: the engine's progress thread
/// would answer it from memory that is gone.
#[derive(Debug)]
pub(super) struct Retained {
    key: NotificationKey,
    until: Duration,
    /// Readers that have not said that they are done.
    readers: u32,
    bytes: u64,
    /// `None` once it is freed.
    held: Option<(Vec<Registration>, Arc<DescriptorList>)>,
    freed: Option<Freed>,
    _gauges: HeldGauges,
}

/// What is done once memory is free.
pub(crate) struct Freed(Box<dyn FnOnce() + Send>);

impl Freed {
    pub(crate) fn new(tell: impl FnOnce() + Send + 'static) -> Self {
        Self(Box::new(tell))
    }
}

impl fmt::Debug for Freed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Freed")
    }
}

impl Retained {
    pub(super) fn new(
        key: NotificationKey,
        until: Duration,
        readers: u32,
        held: (Vec<Registration>, Arc<DescriptorList>),
        metrics: &OfferMetrics,
    ) -> Self {
        let bytes = held.1.total_bytes();
        let gauges = metrics.retained(bytes);
        Self { key, until, readers, bytes, held: Some(held), freed: None, _gauges: gauges }
    }

    /// Memory of an export that is closed: no notification of a reader ends it sooner.
    pub(super) fn of_export(
        until: Duration,
        held: (Vec<Registration>, Arc<DescriptorList>),
        freed: Freed,
        metrics: &OfferMetrics,
    ) -> Self {
        let mut retained = Self::new(NotificationKey::random(), until, u32::MAX, held, metrics);
        retained.freed = Some(freed);
        retained
    }

    pub(super) fn until(&self) -> Duration {
        self.until
    }

    /// Whether addresses of it may be without memory once it is freed: a read that is still under way would end the process.
    pub(super) fn may_vanish(&self) -> bool {
        let memory = self.held.as_ref().map(|(_, memory)| memory);
        memory.is_some_and(|memory| memory.iter().any(|d| !d.region().is_pooled()))
    }

    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    pub(super) fn is_of(&self, key: &[u8]) -> bool {
        self.key.as_bytes() == key
    }

    /// A reader is done. Returns whether all are.
    pub(super) fn read(&mut self) -> bool {
        self.readers = self.readers.saturating_sub(1);
        self.readers == 0
    }

    /// No read is under way, nor will be.
    pub(super) fn free(mut self) {
        // The registrations go before the memory.
        if let Some((registrations, memory)) = self.held.take() {
            drop(registrations);
            drop(memory);
        }
        if let Some(Freed(tell)) = self.freed.take() {
            let _ = contained("the end of an export", tell);
        }
    }
}

impl Drop for Retained {
    fn drop(&mut self) {
        // The connection ends before the offer's life time, and a read may be under way.
        let Some((registrations, memory)) = self.held.take() else { return };
        // The memory stays; the engine need not.
        drop(registrations);
        match Leases::acquire(memory.as_slice(), LeaseMode::Read) {
            Ok(leases) => Leased::from(leases).leak(),
            // In use by the application, which goes on with it.
            Err(_) => mem::forget(memory),
        }
    }
}
