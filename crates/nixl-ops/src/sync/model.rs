//! Models that loom lacks: sequentially consistent accesses, pages of processes, and waits on their words.

use std::sync::PoisonError;
use std::time::Duration;

use loom::sync::{Condvar, Mutex};
use nixl_descriptor::{RegionError, SharedMemoryError, SharedName};
use nixl_metadata::SlotAddress;

use super::lock;
use atomic::{AtomicU32, AtomicU64, Ordering};

/// Atomics of which those with sequentially consistent accesses alone have these in one order with each other.
///
/// Loom takes such an access for one that acquires and releases, which finds deadlocks that cannot be. A value under a lock of its own
/// has what the language promises of such accesses.
pub(crate) mod atomic {
    pub(crate) use loom::sync::atomic::{AtomicU64, Ordering, fence};

    use super::super::lock;
    use loom::sync::Mutex;

    /// Of which every access is sequentially consistent.
    #[derive(Debug, Default)]
    #[allow(unreachable_pub, reason = "a public trait names it")]
    pub struct Ordered<T>(Mutex<T>);

    pub(crate) type AtomicBool = Ordered<bool>;
    pub(crate) type AtomicU32 = Ordered<u32>;

    impl<T: Copy> Ordered<T> {
        pub(crate) fn new(value: T) -> Self {
            Self(Mutex::new(value))
        }

        pub(crate) fn load(&self, order: Ordering) -> T {
            assert_eq!(order, Ordering::SeqCst);
            *lock(&self.0)
        }

        pub(crate) fn store(&self, value: T, order: Ordering) {
            self.swap(value, order);
        }

        pub(crate) fn swap(&self, value: T, order: Ordering) -> T {
            assert_eq!(order, Ordering::SeqCst);
            std::mem::replace(&mut lock(&self.0), value)
        }
    }

    impl AtomicU32 {
        pub(crate) fn fetch_add(&self, value: u32, order: Ordering) -> u32 {
            assert_eq!(order, Ordering::SeqCst);
            let mut held = lock(&self.0);
            let before = *held;
            *held = before.wrapping_add(value);
            before
        }
    }
}

/// A page of offer slots, as far as the models use it: the words that lead to the first slots, these, and the bell.
#[derive(Debug)]
pub(crate) struct SharedMemory {
    leads: [AtomicU64; 2],
    slots: [AtomicU64; 2],
    bell: [AtomicU32; 2],
}

impl SharedMemory {
    pub(crate) fn new(_: usize) -> Result<Self, RegionError> {
        Ok(Self { leads: Default::default(), slots: Default::default(), bell: Default::default() })
    }

    pub(crate) fn open(_: &SharedName) -> Result<Self, SharedMemoryError> {
        Err(SharedMemoryError::Gone)
    }

    pub(crate) fn name(&self) -> SharedName {
        SharedName { pid: 1, fd: 0, name: [0; 16], len: SlotAddress::LENGTH as u64 }
    }

    pub(crate) fn word(&self, index: usize) -> Option<&AtomicU64> {
        self.leads.get(index).or_else(|| self.slots.get(index.checked_sub(65)?))
    }

    pub(crate) fn half_word(&self, index: usize) -> Option<&AtomicU32> {
        self.bell.get(index.checked_sub(SlotAddress::DOORBELL)?)
    }
}

loom::lazy_static! {
    /// Where the system lets threads wait on words: it looks at a word and puts the thread to sleep under a lock.
    static ref WAITERS: (Mutex<()>, Condvar) = (Mutex::new(()), Condvar::new());
    /// The token of the one thread of a model that parks. Loom's own is lost where the thread waits for something else first.
    static ref TOKEN: (Mutex<bool>, Condvar) = (Mutex::new(false), Condvar::new());
}

/// Wakes the thread that has waited longest on the word. All words have one queue here: models have one word on which threads wait.
pub(crate) fn wake_one(_: &AtomicU32) -> bool {
    let (waiters, woken) = &*WAITERS;
    let _guard = lock(waiters);
    woken.notify_one();
    // Not known here.
    false
}

pub(crate) fn unpark(_: &loom::thread::Thread) {
    let (token, given) = &*TOKEN;
    *lock(token) = true;
    given.notify_all();
}

/// Time stands still: what sleeps for a time sleeps until it is woken, and for ever if that wake-up is lost.
#[derive(Debug)]
pub(crate) struct ModelClock;

impl crate::Clock for ModelClock {
    fn now(&self) -> Duration {
        Duration::ZERO
    }

    fn park(&self, _: Option<Duration>) {
        let (token, given) = &*TOKEN;
        let mut token = lock(token);
        while !std::mem::take(&mut *token) {
            token = given.wait(token).unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn park_on(&self, word: &AtomicU32, seen: u32, _: Duration) {
        let (waiters, woken) = &*WAITERS;
        let guard = lock(waiters);
        if word.load(Ordering::SeqCst) == seen {
            drop(woken.wait(guard));
        }
    }

    fn unix_time(&self) -> Duration {
        Duration::ZERO
    }
}
