//! An initiator on this host that maps the page of an offer's slot, written from the description of the protocol alone.

use std::sync::atomic::{AtomicU64, Ordering};

use nixl_descriptor::{SharedMemory, SharedName};
use nixl_metadata::{RdmaMetadata, SlotAddress};

/// What the low two bits of a slot say.
pub(crate) const OPEN: u64 = 0;
pub(crate) const CLAIMED: u64 = 1;
pub(crate) const DONE: u64 = 2;
pub(crate) const REVOKED: u64 = 3;

/// A process identifier that no process of this machine has.
pub(crate) const PID: u64 = (1 << 22) - 1;

/// The slot of one offer.
#[derive(Debug)]
pub(crate) struct PeerSlot {
    page: SharedMemory,
    doorbell: SlotAddress,
}

impl PeerSlot {
    pub(crate) fn of(metadata: &RdmaMetadata) -> Self {
        let doorbell = *metadata.slot_address().unwrap();
        let file = doorbell.file();
        let (pid, fd, name, len) = (file.pid(), file.fd(), file.name(), file.length());
        let page = SharedMemory::open(&SharedName { pid, fd, name, len }).unwrap();
        Self { page, doorbell }
    }

    fn word(&self) -> &AtomicU64 {
        self.page.word(65 + self.doorbell.slot() as usize).unwrap()
    }

    fn bits(&self, detail: u64, state: u64) -> u64 {
        self.doorbell.token() << 24 | detail << 2 | state
    }

    fn change(&self, from: u64, to: u64) -> bool {
        self.word().compare_exchange(from, to, Ordering::SeqCst, Ordering::SeqCst).is_ok()
    }

    fn ring(&self) {
        let slot = self.doorbell.slot();
        let word = |index: u32| self.page.word(index as usize).unwrap();
        word(1 + slot / 64).fetch_or(1 << (slot % 64), Ordering::SeqCst);
        word(0).fetch_or(1 << (slot / 64 % 64), Ordering::SeqCst);
    }

    /// Detail and state, if the slot is still this offer's.
    pub(crate) fn seen(&self) -> Option<(u64, u64)> {
        let bits = self.word().load(Ordering::SeqCst);
        (bits >> 24 == self.doorbell.token()).then_some((bits >> 2 & ((1 << 22) - 1), bits & 3))
    }

    /// Writes over the state, as no initiator does.
    pub(crate) fn overwrite(&self, detail: u64, state: u64) {
        self.word().store(self.bits(detail, state), Ordering::SeqCst);
    }

    /// Claims a writable offer.
    pub(crate) fn claim(&self) -> bool {
        self.change(self.bits(0, OPEN), self.bits(PID, CLAIMED))
    }

    /// Takes the claim back.
    pub(crate) fn undo(&self) -> bool {
        self.change(self.bits(PID, CLAIMED), self.bits(0, OPEN))
    }

    /// Ends a write that was claimed, with its bytes in place or not.
    pub(crate) fn written(&self, succeeded: bool) -> bool {
        let done = self.bits(u64::from(succeeded), DONE);
        let ended = self.change(self.bits(PID, CLAIMED), done);
        if ended {
            self.ring();
        }
        ended
    }

    /// Ends one of `readers` reads.
    pub(crate) fn read(&self, succeeded: bool, readers: u64) -> bool {
        let Some((detail, OPEN)) = self.seen() else { return false };
        let (uses, successes) = (detail & 0x7ff, detail >> 11);
        let (uses, successes) = (uses + 1, successes + u64::from(succeeded));
        let state = if uses == readers { DONE } else { OPEN };
        let next = self.bits(uses | successes << 11, state);
        let ended = self.change(self.bits(detail, OPEN), next);
        if ended {
            self.ring();
        }
        ended
    }
}
