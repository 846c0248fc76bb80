//! Pinned slots: one piece of memory for each direction of a connection, registered once.

use std::fmt;
use std::mem;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use nixl_descriptor::{Descriptor, Region, Registration, RegistrationCache};
use nixl_ops::TransportError;

use super::admission::Admission;
use super::{StagingConfig, failed};
use crate::local::Gpus;

/// The slots of one direction. Their memory is allocated when it is first needed, and never grows.
pub(super) struct SlotPool {
    slots: u16,
    slot_bytes: usize,
    slab: OnceLock<Slab>,
    /// Why it has none, and when that was found.
    failure: Mutex<Option<Failure>>,
    admission: Mutex<Admission>,
}

#[derive(Clone)]
struct Failure {
    reason: String,
    at: Duration,
}

#[derive(Clone)]
struct Slab {
    region: Region,
    registration: Registration,
}

const EXHAUSTED: &str = "every pinned slot is held by transfers that never became quiet";

/// What a pool holds.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
#[non_exhaustive]
pub struct SlotStats {
    /// Bytes of pinned memory allocated.
    pub pinned_bytes: usize,
    /// Slots that nobody holds.
    pub free: usize,
    /// Slots that were given up, because a transfer that used them never became quiet.
    pub quarantined: usize,
}

impl SlotStats {
    /// Both together.
    pub(super) fn plus(self, other: Self) -> Self {
        Self {
            pinned_bytes: self.pinned_bytes + other.pinned_bytes,
            free: self.free + other.free,
            quarantined: self.quarantined + other.quarantined,
        }
    }
}

impl SlotPool {
    /// How long after a failure no other allocation is tried.
    const RETRY: Duration = Duration::from_secs(1);

    pub(super) fn new(config: &StagingConfig) -> Arc<Self> {
        let slots = u16::try_from(config.slots).unwrap_or(u16::MAX);
        Arc::new(Self {
            slots,
            slot_bytes: config.slot_bytes,
            slab: OnceLock::new(),
            failure: Mutex::default(),
            admission: Mutex::new(Admission::new(slots)),
        })
    }

    pub(super) fn slot_bytes(&self) -> u64 {
        self.slot_bytes as u64
    }

    pub(super) fn is_ready(&self) -> bool {
        self.slab.get().is_some()
    }

    /// Whether the slots should be allocated now.
    pub(super) fn wants_memory(&self, now: Duration) -> bool {
        let waits = |failure: &Failure| now.saturating_sub(failure.at) < Self::RETRY;
        !self.is_ready() && !self.failure().as_ref().is_some_and(waits)
    }

    /// Why no operation gets a slot, if that is known.
    pub(super) fn why_not(&self) -> Option<String> {
        if self.is_ready() {
            let exhausted = self.lock().usable() == 0;
            return exhausted.then(|| EXHAUSTED.to_owned());
        }
        self.failure().as_ref().map(|failure| format!("no pinned slots: {}", failure.reason))
    }

    /// Allocates the slots near a GPU and registers them, unless that has been done. **Blocks.** Called on the
    /// connection's own thread only, so never twice at a time. A failure is [remembered](Self::why_not).
    pub(super) fn make_ready(
        &self,
        gpus: &dyn Gpus,
        gpu: u32,
        registrations: &RegistrationCache,
        now: Duration,
    ) {
        if !self.wants_memory(now) {
            return;
        }
        match self.allocate(gpus, gpu, registrations) {
            Ok(slab) => {
                let _ = self.slab.set(slab);
                *self.failure() = None;
            }
            Err(reason) => {
                tracing::warn!(gpu, %reason, "no pinned slots: transfers that need them take another path");
                *self.failure() = Some(Failure { reason, at: now });
            }
        }
    }

    fn allocate(
        &self,
        gpus: &dyn Gpus,
        gpu: u32,
        registrations: &RegistrationCache,
    ) -> Result<Slab, String> {
        let len = self.slot_bytes.checked_mul(self.slots.into());
        let len = len.ok_or("the slots are too large")?;
        let region = gpus.pinned_region(gpu, len).map_err(|e| e.to_string())?;
        let registration = registrations.get_or_register(&region).map_err(|e| e.to_string())?;
        Ok(Slab { region, registration })
    }

    fn failure(&self) -> MutexGuard<'_, Option<Failure>> {
        self.failure.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn join(self: &Arc<Self>) -> Member {
        Member { pool: Arc::clone(self), id: self.lock().join() }
    }

    pub(super) fn stats(&self) -> SlotStats {
        let admission = self.lock();
        SlotStats {
            pinned_bytes: self.slab.get().map_or(0, |slab| slab.region.len()),
            free: admission.free(),
            quarantined: usize::from(self.slots) - admission.usable(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Admission> {
        self.admission.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for SlotPool {
    fn drop(&mut self) {
        let quarantined = self.stats().quarantined;
        // Somebody may write to it for as long as the process lives.
        if quarantined > 0
            && let Some(slab) = self.slab.take()
        {
            mem::forget(slab);
        }
    }
}

impl fmt::Debug for SlotPool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SlotPool").field("stats", &self.stats()).finish_non_exhaustive()
    }
}

/// A session's claim to slots of a pool.
#[derive(Debug)]
pub(super) struct Member {
    pool: Arc<SlotPool>,
    id: u64,
}

impl Member {
    /// A slot, if one is free and it is this session's turn.
    ///
    /// # Errors
    ///
    /// If there will never be one.
    pub(super) fn take(&self) -> Result<Option<Slot>, TransportError> {
        let Some(slab) = self.pool.slab.get() else {
            return Err(failed("prepare", "no slots were allocated"));
        };
        let taken = self.pool.lock().take(self.id).map_err(|_| failed("prepare", EXHAUSTED))?;
        Ok(taken.map(|index| Slot {
            pool: Arc::clone(&self.pool),
            member: self.id,
            index,
            slab: slab.clone(),
            held: true,
        }))
    }

    /// Wants no more for now. Without this word, others are kept waiting.
    pub(super) fn settle(&self) {
        self.pool.lock().settle(self.id);
    }
}

impl Drop for Member {
    fn drop(&mut self) {
        self.pool.lock().leave(self.id);
    }
}

/// A slot. Unless it is [released](Self::release), dropping it gives it up for ever: somebody may still write to it.
pub(super) struct Slot {
    pool: Arc<SlotPool>,
    member: u64,
    index: u16,
    slab: Slab,
    held: bool,
}

impl Slot {
    /// Nobody uses it any more, neither a GPU nor an engine nor a peer.
    pub(super) fn release(mut self) {
        self.held = false;
        self.pool.lock().put(self.member, self.index);
    }

    pub(super) fn index(&self) -> u16 {
        self.index
    }

    fn offset(&self) -> usize {
        // Inside the slab, whose length was checked.
        usize::from(self.index) * self.pool.slot_bytes
    }

    pub(super) fn address(&self) -> u64 {
        self.slab.region.address() + self.offset() as u64
    }

    pub(super) fn len(&self) -> u64 {
        self.pool.slot_bytes()
    }

    pub(super) fn registration(&self) -> &Registration {
        &self.slab.registration
    }

    /// `len` of its bytes, from `offset` on.
    pub(super) fn part(&self, offset: u64, len: u64) -> Result<Descriptor, TransportError> {
        let whole = self.offset()..self.offset() + self.pool.slot_bytes;
        let range = |n: u64| usize::try_from(n).unwrap_or(usize::MAX);
        self.slab
            .region
            .descriptor(whole)
            .and_then(|slot| slot.slice(range(offset)..range(offset.saturating_add(len))))
            .map_err(|e| failed("prepare", e.to_string()))
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        if self.held {
            self.pool.lock().give_up(self.member);
            tracing::error!(
                slot = self.index,
                bytes = self.pool.slot_bytes,
                "a staged transfer never became quiet; its slot is given up"
            );
        }
    }
}

impl fmt::Debug for Slot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Slot").field("index", &self.index).finish_non_exhaustive()
    }
}
