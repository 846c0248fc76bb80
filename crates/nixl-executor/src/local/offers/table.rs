//! The table of this process's offers, by key.

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard};

use nixl_device::PerProcess;
use nixl_device::locks::lock;
use nixl_metadata::NotificationKey;
use nixl_ops::Offer;

/// The offers of all connectors of this process that use a [`DirectExecutor`](crate::DirectExecutor).
///
/// One table for the process, since it decides about "the same process". Keys are random, so unrelated connectors do not
/// collide.
#[derive(Debug, Default)]
pub(crate) struct ProcessOffers {
    by_key: Mutex<HashMap<NotificationKey, Offer>>,
    /// Their number, stored under the lock: most initiators offer nothing, and look for each peer's offer here.
    len: AtomicUsize,
}

impl ProcessOffers {
    pub(crate) fn get() -> &'static Self {
        static OFFERS: PerProcess<ProcessOffers> = PerProcess::new(ProcessOffers::default);
        OFFERS.get()
    }

    pub(crate) fn insert(&self, offer: Offer) {
        let mut by_key = self.lock();
        by_key.insert(offer.key().clone(), offer);
        self.len.store(by_key.len(), Ordering::Release);
    }

    pub(crate) fn remove(&self, key: &NotificationKey) {
        // The offer may hold the last handle to its memory: drop it outside the lock.
        let mut by_key = self.lock();
        let removed = by_key.remove(key);
        self.len.store(by_key.len(), Ordering::Release);
        drop(by_key);
        drop(removed);
    }

    pub(crate) fn find(&self, key: &NotificationKey) -> Option<Offer> {
        // An offer is in the table before its metadata is given out.
        if self.len.load(Ordering::Acquire) == 0 {
            return None;
        }
        self.lock().get(key).cloned()
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<NotificationKey, Offer>> {
        lock(&self.by_key)
    }
}
