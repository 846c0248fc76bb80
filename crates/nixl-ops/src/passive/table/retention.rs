//! Memory of ended offers and closed exports, until no read of it can be under way.

use std::sync::Arc;
use std::time::{Duration, Instant};

use nixl_descriptor::{DescriptorList, Registration};

use super::super::readers::ExportReaders;
use super::super::retained::{Freed, Retained};
use super::PassiveTable;
use crate::sync::lock;

impl PassiveTable {
    /// A reader is done with an offer that was given up. Returns whether there is such an offer.
    pub(super) fn read_late(&self, key: &[u8]) -> bool {
        let mut retained = lock(&self.retained);
        let Some(at) = retained.iter().position(|memory| memory.is_of(key)) else {
            drop(retained);
            let Some(freed) = self.late_reads.read(key) else { return false };
            freed.into_iter().for_each(Retained::free);
            return true;
        };
        let over = retained.get_mut(at).is_some_and(Retained::read);
        let freed = if over { retained.swap_remove_back(at) } else { None };
        drop(retained);
        freed.into_iter().for_each(Retained::free);
        true
    }

    /// Whether memory is retained for peers that may be reading it.
    pub(crate) fn retains(&self) -> bool {
        !lock(&self.retained).is_empty() || !self.late_reads.is_empty()
    }

    pub(super) fn expire_retained(&self, now: Duration) {
        let both = (now, self.clock.unix_time());
        let mut retained = lock(&self.retained);
        let (mut over, mut next) = (Vec::<Retained>::new(), None);
        let (mut gone, mut readers) = (Vec::new(), Vec::new());
        let mut at = 0;
        while let Some(memory) = retained.get(at) {
            let until = memory.until(both, self.skew);
            let of_export = memory.readers();
            if of_export.is_some_and(|readers| readers.are_gone()) {
                gone.extend(retained.swap_remove_back(at));
            } else if until <= now {
                over.extend(retained.swap_remove_back(at));
            } else {
                readers.extend(of_export.cloned());
                next = Some(next.map_or(until, |first: Duration| first.min(until)));
                at += 1;
            }
        }
        drop(retained);
        if let Some(next) = next {
            self.wake_by(next);
        }
        // Freed outside the lock.
        gone.into_iter().for_each(Retained::free);
        over.iter_mut().for_each(|memory| memory.begins_no_more(both, self.skew));
        let (late, over): (Vec<_>, Vec<_>) =
            over.into_iter().partition(|memory| memory.may_vanish() && self.proofs.get().is_some());
        over.into_iter().for_each(Retained::free);
        self.late_reads.add(late);
        self.check_late_reads(now);
        self.check_readers(&readers, now);
    }

    /// Looks for processes that could read the memory of one of these closed exports.
    fn check_readers(&self, readers: &[Arc<ExportReaders>], now: Duration) {
        let Some(proofs) = self.proofs.get().filter(|_| !readers.is_empty()) else { return };
        let (next, looked) = self.looks.due(readers, (now, Self::CHECK));
        self.wake_by(next);
        let Some(readers) = looked else { return };
        let (looks, quiet) = (Arc::clone(&self.looks), Arc::clone(&proofs.quiet));
        proofs.background.run(Box::new(move || {
            let begun = Instant::now();
            readers.look(&*quiet);
            looks.ended(now, begun.elapsed());
        }));
    }

    /// A reader of an export is done: closed ones may not have to wait any more.
    pub(crate) fn reader_is_done(&self) {
        if !lock(&self.retained).is_empty() {
            self.wake_by(self.clock.now());
        }
    }

    fn check_late_reads(&self, now: Duration) {
        let Some(proofs) = self.proofs.get().filter(|_| !self.late_reads.is_empty()) else {
            return;
        };
        self.wake_by(now.saturating_add(Self::CHECK));
        if self.late_reads.begin_check() {
            let (reads, quiet) = (Arc::clone(&self.late_reads), Arc::clone(&proofs.quiet));
            proofs.background.run(Box::new(move || reads.check(&*quiet, now)));
        }
    }

    /// Keeps the memory of a closed export until no read of it can be under way.
    pub(crate) fn retain_export(
        &self,
        readers: Arc<ExportReaders>,
        held: (Vec<Registration>, Arc<DescriptorList>),
        freed: Freed,
    ) {
        self.retain(Retained::of_export(readers, held, freed, &self.metrics));
    }

    pub(in super::super) fn retain(&self, memory: Retained) {
        let now = (self.clock.now(), self.clock.unix_time());
        let until = match memory.readers() {
            // Processes that could read are looked for at once.
            Some(_) => now.0,
            None => memory.until(now, self.skew),
        };
        lock(&self.retained).push_back(memory);
        self.wake_by(until);
    }
}
