//! Who is using which bytes of a region: leases of operations, and copies by the host.
//!
//! One short-held mutex per region. A lease that conflicts with a lease is an error, a host copy that conflicts with a
//! lease is an error; only where a host copy is under way does anybody wait, and then for no longer than that copy.
//! A copy never waits for a lease, so there is no cycle of waits.

use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

use crate::coverage::Coverage;
use crate::extent::{Extent, ExtentSet};
use crate::lease::LeaseMode;

/// A host copy's use of some bytes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Use {
    pub(crate) extent: Extent,
    pub(crate) mode: LeaseMode,
}

/// Whether a copy yields to leases.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Leasing {
    /// Fail if an operation's lease conflicts.
    Respect,
    /// The copy is the operation that holds the lease.
    Ignore,
}

/// A lease is held that conflicts.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Conflict {
    pub(crate) held: LeaseMode,
}

#[derive(Debug, Default)]
pub(crate) struct Traffic {
    state: Mutex<State>,
    copy_ended: Condvar,
}

#[derive(Debug, Default)]
struct State {
    leases: Coverage,
    /// Uses by copies under way, with the number of the copy. Few: one thread has one copy.
    copies: Vec<(u64, Use)>,
    last_copy: u64,
    /// Threads that wait for a copy to end.
    waiting: usize,
}

impl Traffic {
    /// Notes a lease until [`end_lease`](Self::end_lease), or says which kind of lease is in the way.
    pub(crate) fn begin_lease(&self, mode: LeaseMode, set: &ExtentSet) -> Result<(), Conflict> {
        let mut state = self.lock();
        loop {
            let mut conflicts =
                set.extents().iter().filter_map(|extent| state.leases.conflict(mode, *extent));
            if let Some(held) = conflicts.next() {
                return Err(Conflict { held });
            }
            if !state.is_copied(set.extents().iter().map(|&extent| Use { extent, mode })) {
                break;
            }
            state = self.wait(state);
        }
        state.leases.add(mode, set.extents());
        Ok(())
    }

    /// Ends a lease that began with the same arguments.
    pub(crate) fn end_lease(&self, mode: LeaseMode, set: &ExtentSet) {
        self.lock().leases.remove(mode, set.extents());
    }

    /// Notes a copy until the guard is dropped; all its uses at once, so that it cannot deadlock with another.
    pub(crate) fn begin_copy(
        &self,
        uses: &[Use],
        leasing: Leasing,
    ) -> Result<CopyGuard<'_>, Conflict> {
        let mut state = self.lock();
        loop {
            if leasing == Leasing::Respect {
                let mut conflicts =
                    uses.iter().filter_map(|used| state.leases.conflict(used.mode, used.extent));
                if let Some(held) = conflicts.next() {
                    return Err(Conflict { held });
                }
            }
            if !state.is_copied(uses.iter().copied()) {
                break;
            }
            state = self.wait(state);
        }
        state.last_copy += 1;
        let copy = state.last_copy;
        state.copies.extend(uses.iter().map(|used| (copy, *used)));
        Ok(CopyGuard { traffic: self, copy })
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Nothing in here leaves the state half changed.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wait<'a>(&self, mut state: MutexGuard<'a, State>) -> MutexGuard<'a, State> {
        state.waiting += 1;
        let mut state = self.copy_ended.wait(state).unwrap_or_else(PoisonError::into_inner);
        state.waiting -= 1;
        state
    }
}

impl State {
    /// Whether a copy under way gets in the way of any of these uses.
    fn is_copied(&self, mut uses: impl Iterator<Item = Use>) -> bool {
        !self.copies.is_empty()
            && uses.any(|wanted| {
                let blocks = |used: &Use| {
                    wanted.mode.conflicts(used.mode) && wanted.extent.overlaps(used.extent)
                };
                self.copies.iter().any(|(_, used)| blocks(used))
            })
    }
}

/// A copy under way.
#[derive(Debug)]
pub(crate) struct CopyGuard<'a> {
    traffic: &'a Traffic,
    copy: u64,
}

impl Drop for CopyGuard<'_> {
    fn drop(&mut self) {
        let mut state = self.traffic.lock();
        state.copies.retain(|(copy, _)| *copy != self.copy);
        if state.waiting > 0 {
            self.traffic.copy_ended.notify_all();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
    use std::thread;

    use super::*;

    const WRITE: LeaseMode = LeaseMode::Write;
    const READ: LeaseMode = LeaseMode::Read;

    fn used(mode: LeaseMode) -> Use {
        Use { extent: Extent { start: 0, end: 8 }, mode }
    }

    /// Whether `second` waits for a copy in mode `first` to end.
    fn waits(first: LeaseMode, second: impl FnOnce(&Traffic) + Send) -> bool {
        let traffic = Traffic::default();
        let begun = AtomicBool::new(false);
        let guard = traffic.begin_copy(&[used(first)], Leasing::Respect);
        thread::scope(|scope| {
            scope.spawn(|| {
                second(&traffic);
                begun.store(true, SeqCst);
            });
            // It either begins or waits; nothing else can happen while the guard is held.
            while !begun.load(SeqCst) && traffic.lock().waiting == 0 {
                thread::yield_now();
            }
            let waited = !begun.load(SeqCst);
            drop(guard);
            waited
        })
    }

    #[test]
    fn copies_wait_for_copies_of_the_same_bytes() {
        for leasing in [Leasing::Respect, Leasing::Ignore] {
            let copy = |mode| {
                move |traffic: &Traffic| assert!(traffic.begin_copy(&[used(mode)], leasing).is_ok())
            };
            assert!(
                waits(WRITE, copy(WRITE)) && waits(WRITE, copy(READ)) && waits(READ, copy(WRITE))
            );
            assert!(!waits(READ, copy(READ)));
        }
    }

    #[test]
    fn leases_wait_for_copies_of_the_same_bytes() {
        let lease = |mode| {
            move |traffic: &Traffic| {
                let set = ExtentSet::One(used(mode).extent);
                assert!(traffic.begin_lease(mode, &set).is_ok());
            }
        };
        assert!(
            waits(WRITE, lease(WRITE)) && waits(WRITE, lease(READ)) && waits(READ, lease(WRITE))
        );
        assert!(!waits(READ, lease(READ)));
    }
}
