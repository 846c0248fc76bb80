//! Retained memory of readable offers that have ended.

use std::fmt;
use std::mem;
use std::sync::Arc;
use std::time::Duration;

use nixl_descriptor::{DescriptorList, LeaseMode, Leased, Leases, Registration};
use nixl_metadata::NotificationKey;

use super::readers::ExportReaders;
use super::telemetry::{HeldGauges, OfferMetrics};
use crate::contained::contained;

/// Memory that its owner may overwrite, kept allocated since a read may be in flight: the engine's progress thread would answer
/// it from freed memory.
#[derive(Debug)]
pub(super) struct Retained {
    key: NotificationKey,
    until: Until,
    /// Readers that have not reported their end.
    readers: u32,
    bytes: u64,
    /// `None` once it is freed.
    held: Option<(Vec<Registration>, Arc<DescriptorList>)>,
    freed: Option<Freed>,
    _gauges: HeldGauges,
}

/// When peers begin no further read.
#[derive(Debug)]
enum Until {
    Then(Duration),
    /// When the readers of a closed export are over.
    Readers(Arc<ExportReaders>),
}

/// The action after memory is freed.
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
        let until = Until::Then(until);
        Self { key, until, readers, bytes, held: Some(held), freed: None, _gauges: gauges }
    }

    /// Memory of a closed export.
    pub(super) fn of_export(
        readers: Arc<ExportReaders>,
        held: (Vec<Registration>, Arc<DescriptorList>),
        freed: Freed,
        metrics: &OfferMetrics,
    ) -> Self {
        let key = NotificationKey::random();
        let mut retained = Self::new(key, Duration::ZERO, u32::MAX, held, metrics);
        retained.until = Until::Readers(readers);
        retained.freed = Some(freed);
        retained
    }

    /// When peers begin no further read, on the clock of which it is `now`, beside that since 1970.
    pub(super) fn until(&self, now: (Duration, Duration), skew: Duration) -> Duration {
        match &self.until {
            Until::Then(until) => *until,
            Until::Readers(readers) => readers.until(now, skew),
        }
    }

    /// Peers begin no further read, since then or since now.
    pub(super) fn begins_no_more(&mut self, now: (Duration, Duration), skew: Duration) {
        if let Until::Readers(readers) = &self.until {
            let until = readers.until(now, skew);
            self.until = Until::Then(if until.is_zero() { now.0 } else { until });
        }
    }

    /// Since when peers begin no further read.
    pub(super) fn ended(&self) -> Duration {
        match &self.until {
            Until::Then(until) => *until,
            Until::Readers(_) => Duration::MAX,
        }
    }

    /// The readers of an export.
    pub(super) fn readers(&self) -> Option<&Arc<ExportReaders>> {
        match &self.until {
            Until::Then(_) => None,
            Until::Readers(readers) => Some(readers),
        }
    }

    /// Whether its addresses may be unmapped once it is freed: a read still in flight would end the process.
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

    /// Records a reader's end. Returns whether all are done.
    pub(super) fn read(&mut self) -> bool {
        self.readers = self.readers.saturating_sub(1);
        self.readers == 0
    }

    /// Frees the memory: no read is or will be in flight.
    pub(super) fn free(mut self) {
        // The registrations drop before the memory.
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
        // Keeps the memory: the connection ends before the offer's life time, and a read may be in flight.
        let Some((registrations, memory)) = self.held.take() else { return };
        // The memory stays; the engine may end.
        drop(registrations);
        match Leases::acquire(memory.as_slice(), LeaseMode::Read) {
            Ok(leases) => Leased::from(leases).leak(),
            // In use by the application, which keeps it.
            Err(_) => mem::forget(memory),
        }
    }
}
