//! The thread of a driver, which runs the reactor and sleeps between turns.

use std::num::NonZeroU64;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use nixl_descriptor::BufferPool;

use super::next_look::Next;
use super::reactor::Reactor;
use crate::contained::contained;

impl Reactor {
    /// An otherwise uncontained panic costs a turn, and after several in a row a delay.
    fn contained_turn(&mut self) -> Next {
        self.shared.awake.store(true, Ordering::Relaxed);
        match contained("a turn of the driver", || self.turn()) {
            Ok(next) => {
                self.panics = 0;
                self.shared.awake.store(next == Next::Spin, Ordering::Relaxed);
                next
            }
            Err(_) => {
                self.panics = self.panics.saturating_add(1);
                Next::Sleep(Duration::from_millis(1).saturating_mul(1 << self.panics.min(10)))
            }
        }
    }

    /// Runs turns until the driver is dropped and everything has ended.
    pub(super) fn run(&mut self) {
        // The default timer slack of 50 us would double the shortest sleeps. A failure to set it costs only that.
        let _ = rustix::thread::set_current_timer_slack(NonZeroU64::new(1));
        let shared = Arc::clone(&self.shared);
        let clock = &*shared.clock;
        loop {
            match self.contained_turn() {
                Next::Spin => std::hint::spin_loop(),
                Next::Sleep(time) => {
                    let is_awaited = shared.awaits_message();
                    shared.parking.sleep(clock, time, &mut self.listener, is_awaited);
                }
                Next::Park(bound) => {
                    shared.parking.park(clock, || self.has_work(), || Self::rest(bound));
                    self.last_progress = clock.now();
                }
                Next::Exit => return,
            }
        }
    }

    /// The time to park. Free pool memory is returned to the system while the connection is idle.
    fn rest(bound: Option<Duration>) -> Option<Duration> {
        let now = Instant::now();
        let trim = BufferPool::global().trim(now);
        let trim = trim.map(|at| at.saturating_duration_since(now));
        bound.into_iter().chain(trim).min()
    }

    fn has_work(&self) -> bool {
        self.shared.has_new()
            || self.shared.awaits_message()
            || self.shared.closing.load(Ordering::SeqCst)
    }
}
