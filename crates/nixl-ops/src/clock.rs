//! The injected clock, this crate's only source of time.

use std::fmt;
use std::sync::Mutex;
use std::thread::{self, Thread};
use std::time::{Duration, Instant};

/// Whole milliseconds, as times travel in messages.
pub(crate) fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(not(all(test, loom)))]
use rustix::io::Errno;
#[cfg(not(all(test, loom)))]
use rustix::thread::futex;
#[cfg(not(all(test, loom)))]
use rustix::time::Timespec;
use rustix::time::{ClockId, clock_gettime};

use nixl_device::PerProcess;
use nixl_device::locks::lock;

use crate::sync::atomic::{AtomicU32, Ordering};

/// A source of monotonic time, with waits on it.
pub trait Clock: Send + Sync + fmt::Debug + 'static {
    /// Time since an arbitrary, fixed epoch of this clock. Never decreases.
    fn now(&self) -> Duration;

    /// Parks the current thread until it is unparked or `timeout` has passed on this clock; for ever
    /// without one. May return early.
    fn park(&self, timeout: Option<Duration>);

    /// Parks the current thread as [`park`](Self::park), at most until any process that shares `word` changes it from `seen`
    /// and wakes a waiter on it (`FUTEX_WAKE`). May return early. On the system's clock, `unpark` does not end this wait: a
    /// wake-up changes the word.
    ///
    /// By default the word is checked once: a simulation advances its clock.
    fn park_on(&self, word: &AtomicU32, seen: u32, timeout: Duration) {
        if word.load(Ordering::SeqCst) == seen {
            self.park(Some(timeout));
        }
    }

    /// Time since 1970 in UTC, the base of life times for other hosts.
    fn unix_time(&self) -> Duration;
}

/// The operating system's monotonic clock.
///
/// All clocks of a process agree: their epoch is the creation of the first.
#[derive(Debug)]
pub struct SystemClock {
    epoch: Instant,
}

impl SystemClock {
    /// The clock.
    pub fn new() -> Self {
        static EPOCH: PerProcess<Instant> = PerProcess::new(Instant::now);
        Self { epoch: *EPOCH.get() }
    }
}

impl Default for SystemClock {
    fn default() -> Self {
        Self::new()
    }
}

impl Clock for SystemClock {
    fn now(&self) -> Duration {
        self.epoch.elapsed()
    }

    fn park(&self, timeout: Option<Duration>) {
        match timeout {
            Some(timeout) => thread::park_timeout(timeout),
            None => thread::park(),
        }
    }

    #[cfg(not(all(test, loom)))]
    fn park_on(&self, word: &AtomicU32, seen: u32, timeout: Duration) {
        let time = Timespec {
            tv_sec: i64::try_from(timeout.as_secs()).unwrap_or(i64::MAX),
            tv_nsec: timeout.subsec_nanos().into(),
        };
        match futex::wait(word, futex::Flags::empty(), seen, Some(&time)) {
            Ok(()) | Err(Errno::AGAIN | Errno::INTR | Errno::TIMEDOUT) => {}
            // A system without futexes, which cannot wait on the word.
            Err(_) => thread::park_timeout(timeout),
        }
    }

    /// In steps of some milliseconds, which is enough for life times, and costs a tenth of the exact time.
    fn unix_time(&self) -> Duration {
        let now = clock_gettime(ClockId::RealtimeCoarse);
        let seconds = u64::try_from(now.tv_sec).unwrap_or(0);
        Duration::new(seconds, u32::try_from(now.tv_nsec).unwrap_or(0))
    }
}

/// A clock that only [`advance`](Self::advance) moves, for simulation and tests.
///
/// ```
/// use std::time::Duration;
/// use nixl_ops::{Clock, ManualClock};
///
/// let clock = ManualClock::new();
/// clock.advance(Duration::from_secs(3));
/// assert_eq!(clock.now(), Duration::from_secs(3));
/// ```
#[derive(Debug, Default)]
pub struct ManualClock {
    state: Mutex<ManualState>,
}

#[derive(Debug, Default)]
struct ManualState {
    now: Duration,
    sleepers: Vec<Thread>,
}

impl ManualClock {
    /// A clock at zero.
    pub fn new() -> Self {
        Self::default()
    }

    /// Moves time forward and wakes every thread parked on this clock.
    pub fn advance(&self, by: Duration) {
        let sleepers = {
            let mut state = lock(&self.state);
            state.now = state.now.saturating_add(by);
            std::mem::take(&mut state.sleepers)
        };
        for thread in sleepers {
            thread.unpark();
        }
    }
}

impl Clock for ManualClock {
    fn now(&self) -> Duration {
        lock(&self.state).now
    }

    fn park(&self, timeout: Option<Duration>) {
        if timeout == Some(Duration::ZERO) {
            return;
        }
        let me = thread::current();
        {
            let mut state = lock(&self.state);
            if state.sleepers.iter().all(|t| t.id() != me.id()) {
                state.sleepers.push(me);
            }
        }
        // `advance` between the push and this line leaves a token, so no wake-up is lost.
        thread::park();
    }

    /// The clock's epoch is the first second of 2020.
    fn unix_time(&self) -> Duration {
        Duration::from_secs(1_577_836_800).saturating_add(self.now())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;

    #[test]
    fn advancing_wakes_a_sleeper() {
        let clock = Arc::new(ManualClock::new());
        let sleeper = {
            let clock = Arc::clone(&clock);
            thread::spawn(move || {
                let until = Duration::from_secs(10);
                while clock.now() < until {
                    clock.park(Some(until - clock.now()));
                }
                clock.now()
            })
        };
        for _ in 0..10 {
            clock.advance(Duration::from_secs(1));
        }
        assert_eq!(sleeper.join().unwrap(), Duration::from_secs(10));
    }

    #[test]
    fn system_time_does_not_go_back() {
        let clock = SystemClock::new();
        let earlier = clock.now();
        clock.park(Some(Duration::from_micros(1)));
        assert!(clock.now() >= earlier);
    }
}
