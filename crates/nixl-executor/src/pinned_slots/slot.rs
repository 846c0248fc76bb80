//! One slot of a pool, from its use to its release or its quarantine.

use std::fmt;
use std::mem;
use std::sync::Arc;

use nixl_descriptor::{Descriptor, Registration};
use nixl_ops::TransportError;

use super::failure::failed_by;
use super::pool::{Counted, SlotPool};

/// The memory of the slots, with its registration if it is pinned.
#[derive(Clone)]
pub(super) struct Slab {
    pub(super) memory: Counted,
    pub(super) registration: Option<Registration>,
}

/// A slot. Unless it is [released](Self::release), dropping it retires it for ever: a peer may still write to it.
pub(crate) struct Slot {
    pool: Arc<SlotPool>,
    member: u64,
    index: u16,
    slab: Slab,
    state: SlotState,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum SlotState {
    Held,
    /// Its transfer has ended, and the peer may still write to it.
    Quarantined,
    Released,
}

impl Slot {
    pub(super) fn new(pool: &Arc<SlotPool>, member: u64, index: u16, slab: &Slab) -> Self {
        let (pool, slab) = (Arc::clone(pool), slab.clone());
        Self { pool, member, index, slab, state: SlotState::Held }
    }

    /// No GPU, engine or peer uses it any more.
    pub(crate) fn release(mut self) {
        match mem::replace(&mut self.state, SlotState::Released) {
            SlotState::Quarantined => self.pool.lock().restore(self.index),
            _ => self.pool.lock().put(self.member, self.index),
        }
    }

    /// Its transfer has ended, and the peer may still write to it. It is not waited for any more.
    pub(crate) fn quarantine(&mut self) {
        if self.state == SlotState::Held {
            self.state = SlotState::Quarantined;
            self.pool.lock().give_up(self.member);
        }
    }

    pub(crate) fn index(&self) -> u16 {
        self.index
    }

    fn offset(&self) -> usize {
        // Inside the slab, whose length was checked.
        usize::from(self.index) * self.pool.slot_bytes
    }

    pub(crate) fn address(&self) -> u64 {
        self.slab.memory.region.address() + self.offset() as u64
    }

    /// Where it is, and how long.
    pub(crate) fn range(&self) -> (u64, u64) {
        (self.address(), self.len())
    }

    pub(crate) fn len(&self) -> u64 {
        self.pool.slot_bytes()
    }

    /// Of pinned memory.
    pub(crate) fn registrations(&self) -> Vec<Registration> {
        self.slab.registration.iter().cloned().collect()
    }

    /// `len` of its bytes, from `offset` on.
    pub(crate) fn part(&self, offset: u64, len: u64) -> Result<Descriptor, TransportError> {
        let whole = self.offset()..self.offset() + self.pool.slot_bytes;
        let range = |n: u64| usize::try_from(n).unwrap_or(usize::MAX);
        self.slab
            .memory
            .region
            .descriptor(whole)
            .and_then(|slot| slot.slice(range(offset)..range(offset.saturating_add(len))))
            .map_err(failed_by)
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        if self.state == SlotState::Held {
            self.pool.lock().give_up(self.member);
        }
        if self.state != SlotState::Released {
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
