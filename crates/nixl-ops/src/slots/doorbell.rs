//! The doorbell of a page, by which initiators wake the thread that polls it.

use std::time::Duration;

use nixl_metadata::Doorbell;

use crate::Clock;
use crate::sync::atomic::{AtomicU32, Ordering};
use crate::sync::{SharedMemory, wake_one};

/// The bell of a page: a futex that all processes share which have the page open.
///
/// A ring costs a system call only while the owner sleeps. Peers that misuse the page can ring without a word, and can undo a
/// ring or the owner's note that it sleeps: then the owner wakes for nothing, or only when its time is over.
#[derive(Clone, Copy, Debug)]
pub(crate) struct PageDoorbell<'a> {
    rings: &'a AtomicU32,
    /// Not 0 while the owner sleeps.
    asleep: &'a AtomicU32,
}

impl<'a> PageDoorbell<'a> {
    /// `None` if the page is of a release that has none.
    pub(crate) fn of(memory: &'a SharedMemory) -> Option<Self> {
        let rings = memory.half_word(Doorbell::BELL)?;
        let asleep = memory.half_word(Doorbell::BELL + 1)?;
        Some(Self { rings, asleep })
    }

    /// Wakes the owner if it sleeps, else keeps it from going to sleep.
    pub(crate) fn ring(&self) {
        // Sequentially consistent, as the owner's accesses in `sleep`: either it is seen to sleep here, or it sees the ring. Of
        // those who ring before it has woken one wakes it.
        self.rings.fetch_add(1, Ordering::SeqCst);
        if self.asleep.load(Ordering::SeqCst) != 0 && self.asleep.swap(0, Ordering::SeqCst) != 0 {
            wake_one(self.rings);
        }
    }

    /// As [`ring`](Self::ring), by the owner's own process while the owner may sleep: wakes it even if a peer that has seen it asleep
    /// was stopped before its own wake-up.
    pub(crate) fn wake_owner(&self) {
        self.rings.fetch_add(1, Ordering::SeqCst);
        wake_one(self.rings);
    }

    /// Leaves the bell to another thread that sleeps here: wakes it, in case a ring has woken this one in its place.
    pub(crate) fn hand_on(&self) {
        self.asleep.store(1, Ordering::SeqCst);
        wake_one(self.rings);
    }

    /// How often it was rung.
    pub(crate) fn rings(&self) -> u32 {
        self.rings.load(Ordering::SeqCst)
    }

    /// Sleeps on `clock` until it is rung or was since it had been rung `seen` times, the thread is unparked, or the time is over;
    /// not at all if `is_awake` says so once a ring would be heard. May return early.
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
