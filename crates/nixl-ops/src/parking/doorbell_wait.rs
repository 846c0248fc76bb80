//! A waiting thread that sleeps on the doorbell in the driver's place.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;

use super::{DoorbellListener, Parking};
use crate::Clock;
use crate::slots::OfferPage;
use crate::sync::atomic::{AtomicBool, Ordering};
use crate::sync::thread::{self, Thread};
use crate::sync::unpark;

/// The doorbell, held by a waiting thread; the driver's thread sleeps without it meanwhile.
///
/// A peer wakes that thread directly, without the driver's thread in between.
#[derive(Debug)]
pub(crate) struct DoorbellWait<'a> {
    parking: &'a Parking,
    waiter: Arc<Waiter>,
}

/// Ends the sleep of the waiting thread, from this process.
#[derive(Debug)]
struct Waiter {
    page: Arc<OfferPage>,
    thread: Thread,
    /// It sleeps, or is about to.
    asleep: AtomicBool,
    /// It was woken since its last sleep.
    woken: AtomicBool,
}

impl Parking {
    /// Takes the doorbell for this thread. `None` if another thread has it, or there is no page.
    pub(crate) fn take_doorbell(&self) -> Option<DoorbellWait<'_>> {
        self.page.doorbell()?;
        if self.waits.swap(true, Ordering::SeqCst) {
            return None;
        }
        let waiter = Waiter {
            page: Arc::clone(&self.page),
            thread: thread::current(),
            asleep: AtomicBool::new(false),
            woken: AtomicBool::new(false),
        };
        let wait = DoorbellWait { parking: self, waiter: Arc::new(waiter) };
        // Either the driver's thread sees `waits` before it sleeps on the doorbell, or this thread sees it asleep and wakes it.
        if self.on_doorbell.load(Ordering::SeqCst) {
            self.wake();
        }
        Some(wait)
    }
}

impl DoorbellWait<'_> {
    /// The longest sleep, which bounds the cost of a wake-up that a peer suppresses by overwriting the doorbell.
    const LONGEST_SLEEP: Duration = Duration::from_millis(100);

    /// Polls the future after each `look` until it is ready. `look` receives changes of the page, and returns whether there
    /// were any; the driver's thread is woken for the others.
    ///
    /// `None` after some rings in a row without a change for `look`, so a peer that rings without end costs this thread and the
    /// driver's only that many turns.
    pub(crate) fn run<F: Future>(
        &self,
        clock: &dyn Clock,
        mut future: Pin<&mut F>,
        look: &mut dyn FnMut() -> bool,
    ) -> Option<F::Output> {
        let doorbell = self.waiter.page.doorbell()?;
        let waker = Waker::from(Arc::clone(&self.waiter));
        let (mut patience, mut rang) = (DoorbellListener::PATIENCE, false);
        loop {
            let seen = doorbell.rings();
            let found = look();
            if let Poll::Ready(output) = future.as_mut().poll(&mut Context::from_waker(&waker)) {
                return Some(output);
            }
            if found || rang {
                self.parking.wake();
            }
            match (found, rang) {
                (true, _) => patience = DoorbellListener::PATIENCE,
                (false, true) => patience -= 1,
                (false, false) => {}
            }
            if patience == 0 {
                return None;
            }
            self.waiter.asleep.store(true, Ordering::SeqCst);
            let is_awake = || self.waiter.woken.load(Ordering::SeqCst);
            doorbell.sleep(clock, seen, Self::LONGEST_SLEEP, is_awake);
            self.waiter.asleep.store(false, Ordering::SeqCst);
            let woken = self.waiter.woken.swap(false, Ordering::SeqCst);
            rang = !woken && doorbell.rings() != seen;
        }
    }
}

impl Drop for DoorbellWait<'_> {
    fn drop(&mut self) {
        self.parking.waits.store(false, Ordering::SeqCst);
    }
}

impl Wake for Waiter {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.woken.store(true, Ordering::SeqCst);
        if self.asleep.load(Ordering::SeqCst)
            && let Some(doorbell) = self.page.doorbell()
        {
            doorbell.wake_owner();
            // A simulated clock parks it.
            unpark(&self.thread);
        }
    }
}
