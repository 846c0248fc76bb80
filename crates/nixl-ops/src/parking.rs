//! How a driver's thread sleeps, and what wakes it.

use std::sync::Arc;
use std::time::Duration;

use crate::slots::OfferPage;
use crate::sync::atomic::{AtomicBool, Ordering};
use crate::sync::thread::Thread;
use crate::{Clock, Sleeper};

/// Where a driver's thread sleeps: short sleeps on the bell of its page, where initiators of this host wake it, long ones without.
///
/// The notes by which this process wakes the thread are its own, so that no peer that has the page open can lose a wake-up.
#[derive(Debug)]
pub(crate) struct Parking {
    /// Where it sleeps for long.
    long: Sleeper,
    /// It sleeps on the bell, or is about to.
    on_bell: AtomicBool,
    /// It was woken since its last sleep on the bell.
    woken: AtomicBool,
    page: Arc<OfferPage>,
}

/// What a driver's thread has heard of the bell.
#[derive(Debug)]
pub(crate) struct Ear {
    /// The rings that its last look at the slots came after.
    seen: Option<u32>,
    /// The last sleep was ended by a ring.
    rang: bool,
    /// Rings without a word that still end a sleep.
    patience: u32,
}

impl Ear {
    /// Rings in a row that bring no word, and end a sleep. There are such of honest peers: the word may be found before its ring is
    /// heard.
    const PATIENCE: u32 = 8;

    pub(crate) fn new() -> Self {
        Self { seen: None, rang: false, patience: Self::PATIENCE }
    }

    /// Before a look at the slots: rings from now on are for words that it may miss.
    pub(crate) fn listen(&mut self, parking: &Parking) {
        self.seen = parking.page.bell().map(|bell| bell.rings());
    }

    /// After a look at the slots that has found a word or none.
    pub(crate) fn looked(&mut self, found: bool) {
        let rang = std::mem::take(&mut self.rang);
        match (found, rang) {
            (true, _) => self.patience = Self::PATIENCE,
            (false, true) => self.patience = self.patience.saturating_sub(1),
            (false, false) => {}
        }
    }
}

impl Parking {
    pub(crate) fn new(page: Arc<OfferPage>) -> Self {
        Self {
            long: Sleeper::new(),
            on_bell: AtomicBool::new(false),
            woken: AtomicBool::new(false),
            page,
        }
    }

    /// The thread that sleeps here. Nothing may be able to wake it before this.
    pub(crate) fn set_thread(&self, thread: Thread) {
        self.long.set_thread(thread);
    }

    /// Ends the thread's sleep, or keeps it from the next one.
    pub(crate) fn wake(&self) {
        self.woken.store(true, Ordering::SeqCst);
        if self.on_bell.load(Ordering::SeqCst)
            && let Some(bell) = self.page.bell()
        {
            bell.ring();
        }
        self.long.unpark();
    }

    /// As [`wake`](Self::wake), if it sleeps for long.
    pub(crate) fn wake_if_parked(&self) {
        if self.long.is_asleep() {
            self.wake();
        }
    }

    /// Sleeps for some milliseconds at most. If a peer's word `is_awaited`, a ring since the ear listened ends it.
    ///
    /// Once rings have brought no word some times in a row, a sleep is not ended by any: a peer that rings without end costs one turn
    /// more for each of them.
    pub(crate) fn sleep(&self, clock: &dyn Clock, time: Duration, ear: &mut Ear, is_awaited: bool) {
        let bell = self.page.bell().zip(ear.seen).filter(|_| is_awaited);
        let Some((bell, seen)) = bell.filter(|_| ear.patience > 0) else {
            clock.park(Some(time));
            ear.patience = ear.patience.max(1);
            return;
        };
        self.on_bell.store(true, Ordering::SeqCst);
        let is_awake = || self.woken.swap(false, Ordering::SeqCst);
        bell.sleep(clock, seen, time, is_awake);
        self.on_bell.store(false, Ordering::SeqCst);
        ear.rang = bell.rings() != seen && !self.woken.load(Ordering::SeqCst);
    }

    /// Sleeps until woken, for `time` at most, unless there `is_work`. Work that is added after it was asked wakes.
    pub(crate) fn park(
        &self,
        clock: &dyn Clock,
        is_work: impl FnOnce() -> bool,
        time: impl FnOnce() -> Option<Duration>,
    ) {
        self.long.sleep(clock, is_work, time);
    }
}

#[cfg(all(test, loom))]
mod loom_model;
#[cfg(all(test, not(loom)))]
mod tests;
