//! Sleep and wake-up of a driver's thread.

mod doorbell_wait;

use std::sync::Arc;
use std::time::Duration;

use crate::slots::OfferPage;
use crate::sync::atomic::{AtomicBool, Ordering};
use crate::sync::thread::Thread;
use crate::{Clock, Sleeper};

/// Sleep of a driver's thread: short sleeps on the doorbell of its page, where initiators on this host wake it, long ones
/// without.
///
/// One other thread at a time may [take](Self::take_doorbell) the doorbell, to wait for a change itself.
///
/// This process's own wake-up flags are private, so no peer with the page open can suppress a wake-up.
#[derive(Debug)]
pub(crate) struct Parking {
    /// Its place for long sleeps.
    long: Sleeper,
    /// It sleeps on the doorbell, or is about to.
    on_doorbell: AtomicBool,
    /// It was woken since its last sleep on the doorbell.
    woken: AtomicBool,
    /// Another thread has the doorbell.
    waits: AtomicBool,
    page: Arc<OfferPage>,
}

/// Rings of the doorbell, as seen by the driver's thread.
#[derive(Debug)]
pub(crate) struct DoorbellListener {
    /// The rings before its last scan of the slots.
    seen: Option<u32>,
    /// Whether a ring ended the last sleep.
    rang: bool,
    /// Rings without a completion that still end a sleep.
    patience: u32,
}

impl DoorbellListener {
    /// Rings in a row without a completion that end a sleep. Honest peers cause such rings: the scan may find a completion
    /// before its ring.
    const PATIENCE: u32 = 8;

    pub(crate) fn new() -> Self {
        Self { seen: None, rang: false, patience: Self::PATIENCE }
    }

    /// Called before a scan of the slots: later rings are for changes that it may miss.
    pub(crate) fn listen(&mut self, parking: &Parking) {
        self.seen = parking.page.doorbell().map(|doorbell| doorbell.rings());
    }

    /// After a sleep that a ring has ended.
    #[cfg(all(test, not(loom)))]
    pub(crate) fn rung() -> Self {
        Self { rang: true, ..Self::new() }
    }

    /// Whether a ring ended the last sleep, and no scan was since.
    pub(crate) fn rang(&self) -> bool {
        self.rang
    }

    /// Called after a scan of the slots, with or without a completion.
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
            on_doorbell: AtomicBool::new(false),
            woken: AtomicBool::new(false),
            waits: AtomicBool::new(false),
            page,
        }
    }

    /// Sets the thread that sleeps here, before any wake-up is possible.
    pub(crate) fn set_thread(&self, thread: Thread) {
        self.long.set_thread(thread);
    }

    /// Ends the thread's sleep, or prevents the next one.
    pub(crate) fn wake(&self) {
        self.woken.store(true, Ordering::SeqCst);
        if self.on_doorbell.load(Ordering::SeqCst)
            && let Some(doorbell) = self.page.doorbell()
        {
            doorbell.wake_owner();
        }
        self.long.unpark();
    }

    /// As [`wake`](Self::wake), if it sleeps for long.
    pub(crate) fn wake_if_parked(&self) {
        if self.long.is_asleep() {
            self.wake();
        }
    }

    /// Sleeps for some milliseconds at most. If a peer's completion `is_awaited`, a ring since the last scan ends it.
    ///
    /// After some rings in a row without a completion, no ring ends a sleep: a peer that rings without end costs one more turn
    /// for each of them.
    pub(crate) fn sleep(
        &self,
        clock: &dyn Clock,
        time: Duration,
        listener: &mut DoorbellListener,
        is_awaited: bool,
    ) {
        let doorbell = self.page.doorbell().zip(listener.seen).filter(|_| is_awaited);
        let Some((doorbell, seen)) = doorbell.filter(|_| listener.patience > 0) else {
            clock.park(Some(time));
            listener.patience = listener.patience.max(1);
            return;
        };
        self.on_doorbell.store(true, Ordering::SeqCst);
        if self.waits.load(Ordering::SeqCst) {
            self.on_doorbell.store(false, Ordering::SeqCst);
            clock.park(Some(time));
            return;
        }
        let is_awake = || self.woken.swap(false, Ordering::SeqCst);
        doorbell.sleep(clock, seen, time, is_awake);
        self.on_doorbell.store(false, Ordering::SeqCst);
        if self.waits.load(Ordering::SeqCst) {
            // A ring may have arrived here, or have seen the flag that this thread is awake.
            doorbell.hand_on();
        }
        listener.rang = doorbell.rings() != seen && !self.woken.load(Ordering::SeqCst);
    }

    /// Sleeps until woken, for `time` at most, unless there `is_work`. Work added after that check wakes it.
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
