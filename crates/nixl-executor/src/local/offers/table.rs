//! The table of this process's offers, by key.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use nixl_device::PerProcess;
use nixl_metadata::NotificationKey;
use nixl_ops::Offer;

/// The offers of all connectors of this process that use a [`DirectExecutor`](crate::DirectExecutor).
///
/// One table for the process, since it decides about "the same process". Keys are random, so unrelated connectors do not
/// collide.
#[derive(Debug, Default)]
pub(crate) struct ProcessOffers {
    by_key: Mutex<HashMap<NotificationKey, Offer>>,
}

impl ProcessOffers {
    pub(crate) fn get() -> &'static Self {
        static OFFERS: PerProcess<ProcessOffers> = PerProcess::new(ProcessOffers::default);
        OFFERS.get()
    }

    pub(crate) fn insert(&self, offer: Offer) {
        self.lock().insert(offer.key().clone(), offer);
    }

    pub(crate) fn remove(&self, key: &NotificationKey) {
        // The offer may hold the last handle to its memory: drop it outside the lock.
        let removed = self.lock().remove(key);
        drop(removed);
    }

    pub(crate) fn find(&self, key: &NotificationKey) -> Option<Offer> {
        self.lock().get(key).cloned()
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<NotificationKey, Offer>> {
        self.by_key.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
