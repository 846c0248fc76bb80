//! The slots of one direction, registered with the engine of one connection.

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use nixl_descriptor::RegistrationCache;
use nixl_device::locks::lock;

use super::failure::{EXHAUSTED, Failure};
use super::member::Member;
use super::pool::SlotPool;
use super::slot::Slab;
use crate::local::GpuBackend;

/// The slots of one direction for one connection, whose engine must know their memory.
pub(crate) struct RegisteredSlots {
    pool: Arc<SlotPool>,
    slab: Mutex<Option<Slab>>,
    /// Why it has none, and when that was found.
    failure: Mutex<Option<Failure>>,
}

impl RegisteredSlots {
    pub(crate) fn new(pool: &Arc<SlotPool>) -> Arc<Self> {
        let pool = Arc::clone(pool);
        Arc::new(Self { pool, slab: Mutex::default(), failure: Mutex::default() })
    }

    pub(crate) fn slot_bytes(&self) -> u64 {
        self.pool.slot_bytes()
    }

    /// Counts as a use.
    pub(crate) fn is_ready(&self) -> bool {
        self.pool.note_use();
        self.slab().is_some()
    }

    /// Whether the slots should be allocated or registered now.
    pub(crate) fn wants_memory(&self, now: Duration) -> bool {
        let waits = |failure: &Failure| failure.is_recent(now);
        !self.is_ready() && !self.failure().as_ref().is_some_and(waits)
    }

    /// Why no operation gets a slot, if that is known.
    pub(crate) fn why_not(&self) -> Option<String> {
        if self.slab().is_some() {
            let exhausted = self.pool.lock().usable() == 0;
            return exhausted.then(|| EXHAUSTED.to_owned());
        }
        self.failure().as_ref().map(|failure| format!("no pinned slots: {}", failure.reason))
    }

    /// Allocates the slots near a GPU and registers them, unless that has been done. **Blocks.** Called on the
    /// connection's own thread only, so never twice at a time. A failure is [remembered](Self::why_not).
    pub(crate) fn make_ready(
        &self,
        gpus: &dyn GpuBackend,
        gpu: u32,
        registrations: &RegistrationCache,
        now: Duration,
    ) {
        if !self.wants_memory(now) {
            return;
        }
        let slab = self.pool.allocate(gpus, gpu).and_then(|memory| {
            let registration = registrations.get_or_register(&memory.region);
            Ok(Slab { registration: Some(registration.map_err(|e| e.to_string())?), memory })
        });
        match slab {
            Ok(slab) => {
                *self.slab() = Some(slab);
                *self.failure() = None;
            }
            Err(reason) => {
                tracing::warn!(gpu, %reason, "no pinned slots: transfers that need them take another path");
                *self.failure() = Some(Failure { reason, at: now });
            }
        }
    }

    /// *Blocking.* Releases the memory. Transfers in flight keep it.
    pub(crate) fn release(&self) {
        let released = self.slab().take();
        drop(released);
    }

    pub(crate) fn join(&self) -> Member {
        Member::new(&self.pool, self.slab().clone())
    }

    fn slab(&self) -> MutexGuard<'_, Option<Slab>> {
        lock(&self.slab)
    }

    fn failure(&self) -> MutexGuard<'_, Option<Failure>> {
        lock(&self.failure)
    }
}

impl fmt::Debug for RegisteredSlots {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RegisteredSlots").field("pool", &self.pool).finish_non_exhaustive()
    }
}
