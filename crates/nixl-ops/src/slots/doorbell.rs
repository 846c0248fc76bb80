//! The doorbell of a page, with which initiators wake the thread that polls it.

use std::time::Duration;

use nixl_metadata::SlotAddress;

use crate::Clock;
use crate::sync::atomic::{AtomicU32, Ordering};
use crate::sync::{SharedMemory, wake_one};

/// The doorbell of a page: a futex shared by all processes with the page open.
///
/// A ring costs a system call only while the owner sleeps. Peers that misuse the page can ring without a change, or erase a ring
/// or the owner's sleep flag: the owner then wakes without work, or only at its time-out.
#[derive(Clone, Copy, Debug)]
pub(crate) struct PageDoorbell<'a> {
    rings: &'a AtomicU32,
    /// Not 0 while the owner sleeps.
    asleep: &'a AtomicU32,
}

impl<'a> PageDoorbell<'a> {
    /// `None` if the page is of a release without a doorbell.
    pub(crate) fn of(memory: &'a SharedMemory) -> Option<Self> {
        let rings = memory.half_word(SlotAddress::DOORBELL)?;
        let asleep = memory.half_word(SlotAddress::DOORBELL + 1)?;
        Some(Self { rings, asleep })
    }

    /// Wakes the owner if it sleeps, else prevents its next sleep. Returns whether a thread woke, which only a process with the page open
    /// has.
    pub(crate) fn ring(&self) -> bool {
        // Sequentially consistent, as the owner's accesses in `sleep`: either this thread sees it asleep, or it sees the ring.
        // Of several ringers before its wake-up, one wakes it.
        self.rings.fetch_add(1, Ordering::SeqCst);
        self.asleep.load(Ordering::SeqCst) != 0
            && self.asleep.swap(0, Ordering::SeqCst) != 0
            && wake_one(self.rings)
    }

    /// As [`ring`](Self::ring), by the owner's own process while the owner may sleep: wakes it even if a peer that has seen it asleep
    /// was stopped before its own wake-up.
    pub(crate) fn wake_owner(&self) {
        self.rings.fetch_add(1, Ordering::SeqCst);
        wake_one(self.rings);
    }

    /// Passes the doorbell on to another sleeping thread: wakes it, in case a ring has woken this one in its place.
    pub(crate) fn hand_on(&self) {
        self.asleep.store(1, Ordering::SeqCst);
        wake_one(self.rings);
    }

    /// The number of rings.
    pub(crate) fn rings(&self) -> u32 {
        self.rings.load(Ordering::SeqCst)
    }

    /// Sleeps on `clock` until a ring after the first `seen` ones, an unpark, or the time-out; not at all if `is_awake`, which
    /// is checked after rings can be seen. May return early.
    pub(crate) fn sleep(
        &self,
        clock: &dyn Clock,
        seen: u32,
        time: Duration,
        is_awake: impl FnOnce() -> bool,
    ) {
        self.asleep.store(1, Ordering::SeqCst);
        if !is_awake() {
            clock.park_on(self.rings, seen, time);
        }
        self.asleep.store(0, Ordering::SeqCst);
    }
}
