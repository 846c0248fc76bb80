//! Range locks of a region: leases of operations, grants, and copies by the host.
//!
//! One short-held mutex per region. A lease that conflicts with a lease or a grant is an error, a host copy that conflicts
//! with one is an error; only where a host copy is under way does anything wait, and then for no longer than that copy.
//! A copy never waits for a lease or a grant, so there is no cycle of waits.

use std::slice;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use nixl_device::locks::lock;

use crate::block_selection::BlockSelection;
use crate::extent::{Extent, ExtentSet};
use crate::granted::{self, Counts, GrantedHere};
use crate::lease::LeaseMode;
use crate::lease_map::LeaseMap;

/// A host copy's use of some bytes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct RangeAccess {
    pub(crate) extent: Extent,
    pub(crate) mode: LeaseMode,
    pub(crate) leasing: LeaseCheck,
}

/// Whether a copy yields to leases.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum LeaseCheck {
    /// Fail if an operation's lease conflicts.
    Respect,
    /// The copy is made by the operation that holds the lease, or is vouched for by an unsafe caller.
    Ignore,
}

/// The conflicting lease or grant.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Conflict {
    Lease(LeaseMode),
    /// A grant to read this block.
    Grant {
        block: u32,
    },
}

#[derive(Debug, Default)]
pub(crate) struct RangeLocks {
    state: Mutex<State>,
    copy_ended: Condvar,
    /// Copies and leases that have begun, or look whether they may. Changed while the state is locked.
    uses: AtomicUsize,
}

#[derive(Debug, Default)]
struct State {
    /// Leases of bytes.
    leases: LeaseMap,
    /// Leases of blocks: hundreds at most, each of which is compared in some nanoseconds.
    blocks: Vec<BlockLease>,
    last_lease: u64,
    /// Uses by copies under way, with the number of the copy. Few: one thread has one copy.
    copies: Vec<(u64, RangeAccess)>,
    last_copy: u64,
    /// Threads that wait for a copy to end.
    waiting: usize,
    /// Layouts in the region whose blocks can be granted.
    granted: Vec<GrantedHere>,
}

#[derive(Debug)]
struct BlockLease {
    id: u64,
    mode: LeaseMode,
    used: BlockSelection,
}

impl RangeLocks {
    /// Notes a lease until [`end_lease`](Self::end_lease), or returns the conflict.
    pub(crate) fn begin_lease(&self, mode: LeaseMode, set: &ExtentSet) -> Result<(), Conflict> {
        let mut state = self.lock();
        self.enter(&state);
        loop {
            if let Some(conflict) = state.conflict_with_bytes(mode, set.extents()) {
                return self.refuse(&state, conflict);
            }
            if !state.is_copied(set.extents().iter().map(|&extent| (extent, mode))) {
                break;
            }
            state = self.wait(state);
        }
        state.leases.add(mode, set.extents());
        Ok(())
    }

    /// Ends a lease that began with the same arguments.
    pub(crate) fn end_lease(&self, mode: LeaseMode, set: &ExtentSet) {
        let mut state = self.lock();
        state.leases.remove(mode, set.extents());
        self.leave(&state);
    }

    /// Notes a lease of blocks until [`end_block_lease`](Self::end_block_lease) with the result, or returns the conflict.
    pub(crate) fn begin_block_lease(
        &self,
        mode: LeaseMode,
        used: BlockSelection,
    ) -> Result<u64, Conflict> {
        let state = self.lock();
        self.enter(&state);
        let mut state = match self.without_conflict(state, mode, &used) {
            Ok(state) => state,
            Err((state, conflict)) => return self.refuse(&state, conflict),
        };
        state.last_lease += 1;
        let id = state.last_lease;
        state.blocks.push(BlockLease { id, mode, used });
        Ok(id)
    }

    /// Ends a lease of blocks.
    pub(crate) fn end_block_lease(&self, id: u64) {
        let mut state = self.lock();
        let ended = state.blocks.iter().position(|lease| lease.id == id);
        let ended = ended.map(|at| state.blocks.swap_remove(at));
        self.leave(&state);
        // What it refers to is freed after the lock is.
        drop(state);
        drop(ended);
    }

    /// Notes a copy until the guard is dropped; all its uses at once, so that it cannot deadlock with another.
    pub(crate) fn begin_copy(&self, uses: &[RangeAccess]) -> Result<CopyGuard<'_>, Conflict> {
        let mut state = self.lock();
        self.enter(&state);
        loop {
            let respecting = uses.iter().filter(|used| used.leasing == LeaseCheck::Respect);
            let mut conflicts = respecting.filter_map(|used| {
                state.conflict_with_bytes(used.mode, slice::from_ref(&used.extent))
            });
            if let Some(conflict) = conflicts.next() {
                return self.refuse(&state, conflict);
            }
            if !state.is_copied(uses.iter().map(|used| (used.extent, used.mode))) {
                break;
            }
            state = self.wait(state);
        }
        state.last_copy += 1;
        let copy = state.last_copy;
        state.copies.extend(uses.iter().map(|used| (copy, *used)));
        Ok(CopyGuard { range_locks: self, copy })
    }

    /// From now on copies and leases in the region yield to the grants on the layout's blocks.
    pub(crate) fn attach(&self, here: GrantedHere) {
        let mut state = self.lock();
        here.counts.enter(self.uses.load(Ordering::Relaxed));
        state.granted.push(here);
    }

    /// The reverse of [`attach`](Self::attach).
    pub(crate) fn detach(&self, counts: &Arc<Counts>) {
        self.lock().granted.retain(|here| !Arc::ptr_eq(&here.counts, counts));
    }

    /// Whether nothing is under way that could be in the way of a grant that was counted before.
    pub(crate) fn is_idle(&self) -> bool {
        // Acquire: pairs with the store in `leave`.
        self.uses.load(Ordering::Acquire) == 0
    }

    /// Waits until no copy changes blocks whose grant was counted before. Returns whether no lease may change them.
    pub(crate) fn admit_grant(&self, used: &BlockSelection) -> bool {
        self.without_conflict(self.lock(), LeaseMode::Read, used).is_ok()
    }

    /// Waits until no copy is in the way of a use of these blocks.
    fn without_conflict<'a>(
        &self,
        mut state: MutexGuard<'a, State>,
        mode: LeaseMode,
        used: &BlockSelection,
    ) -> Result<MutexGuard<'a, State>, (MutexGuard<'a, State>, Conflict)> {
        loop {
            if let Some(conflict) = state.conflict_with_blocks(mode, used) {
                return Err((state, conflict));
            }
            let in_the_way = |(_, copied): &(u64, RangeAccess)| {
                mode.conflicts(copied.mode) && used.touches(copied.extent)
            };
            if !state.copies.iter().any(in_the_way) {
                return Ok(state);
            }
            state = self.wait(state);
        }
    }

    /// Counts a use that begins, before it looks for grants.
    fn enter(&self, state: &State) {
        let uses = self.uses.load(Ordering::Relaxed);
        self.uses.store(uses + 1, Ordering::Relaxed);
        state.granted.iter().for_each(|here| here.counts.enter(1));
    }

    fn leave(&self, state: &State) {
        let uses = self.uses.load(Ordering::Relaxed);
        // Release: a grant that sees that nothing is under way sees the bytes.
        self.uses.store(uses - 1, Ordering::Release);
        state.granted.iter().for_each(|here| here.counts.leave(1));
    }

    /// Ends a use that has only looked.
    fn refuse<R>(&self, state: &State, conflict: Conflict) -> Result<R, Conflict> {
        self.leave(state);
        Err(conflict)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Nothing in here leaves the state half changed.
        lock(&self.state)
    }

    fn wait<'a>(&self, mut state: MutexGuard<'a, State>) -> MutexGuard<'a, State> {
        state.waiting += 1;
        let mut state = self.copy_ended.wait(state).unwrap_or_else(PoisonError::into_inner);
        state.waiting -= 1;
        state
    }
}

impl State {
    /// What, if anything, a use of these extents would get in the way of. They are sorted and do not overlap.
    fn conflict_with_bytes(&self, mode: LeaseMode, extents: &[Extent]) -> Option<Conflict> {
        let bytes = extents.iter().find_map(|extent| self.leases.conflict(mode, *extent));
        let lease = bytes.or_else(|| {
            let in_the_way =
                |lease: &&BlockLease| mode.conflicts(lease.mode) && lease.used.touches_any(extents);
            self.blocks.iter().find(in_the_way).map(|lease| lease.mode)
        });
        lease.map(Conflict::Lease).or_else(|| {
            let granted =
                |here: &GrantedHere| extents.iter().find_map(|extent| here.granted_bytes(*extent));
            self.grant_in_the_way(mode, granted)
        })
    }

    /// What, if anything, a use of these blocks would get in the way of.
    fn conflict_with_blocks(&self, mode: LeaseMode, used: &BlockSelection) -> Option<Conflict> {
        let in_the_way = |lease: &&BlockLease| mode.conflicts(lease.mode) && lease.used.meets(used);
        let blocks = self.blocks.iter().find(in_the_way).map(|lease| lease.mode);
        let lease = blocks.or_else(|| self.leases.conflict_with_blocks(mode, used));
        lease
            .map(Conflict::Lease)
            .or_else(|| self.grant_in_the_way(mode, |here| here.granted_blocks(used)))
    }

    fn grant_in_the_way(
        &self,
        mode: LeaseMode,
        granted: impl FnMut(&GrantedHere) -> Option<u32>,
    ) -> Option<Conflict> {
        // What only reads is in the way of no reader.
        if mode == LeaseMode::Read || self.granted.is_empty() {
            return None;
        }
        let found = self.granted.iter().find_map(granted);
        granted::seen();
        found.map(|block| Conflict::Grant { block })
    }

    /// Whether a copy under way gets in the way of any of these uses.
    fn is_copied(&self, mut uses: impl Iterator<Item = (Extent, LeaseMode)>) -> bool {
        !self.copies.is_empty()
            && uses.any(|(extent, mode)| {
                let blocks =
                    |used: &RangeAccess| mode.conflicts(used.mode) && extent.overlaps(used.extent);
                self.copies.iter().any(|(_, used)| blocks(used))
            })
    }
}

/// A copy under way.
#[derive(Debug)]
pub(crate) struct CopyGuard<'a> {
    range_locks: &'a RangeLocks,
    copy: u64,
}

impl Drop for CopyGuard<'_> {
    fn drop(&mut self) {
        let mut state = self.range_locks.lock();
        state.copies.retain(|(copy, _)| *copy != self.copy);
        self.range_locks.leave(&state);
        if state.waiting > 0 {
            self.range_locks.copy_ended.notify_all();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
    use std::thread;

    use super::*;
    use crate::block_selection::BlockExtents;
    use crate::block_set::BlockIds;
    use crate::strided::StridedExtents;

    const WRITE: LeaseMode = LeaseMode::Write;
    const READ: LeaseMode = LeaseMode::Read;

    fn used(mode: LeaseMode) -> RangeAccess {
        RangeAccess { extent: Extent { start: 0, end: 8 }, mode, leasing: LeaseCheck::Respect }
    }

    /// Whether `second` waits for a copy in mode `first` to end.
    fn waits(first: LeaseMode, second: impl FnOnce(&RangeLocks) + Send) -> bool {
        let range_locks = RangeLocks::default();
        let begun = AtomicBool::new(false);
        let guard = range_locks.begin_copy(&[used(first)]);
        thread::scope(|scope| {
            scope.spawn(|| {
                second(&range_locks);
                begun.store(true, SeqCst);
            });
            // It either begins or waits; nothing else can happen while the guard is held.
            while !begun.load(SeqCst) && range_locks.lock().waiting == 0 {
                thread::yield_now();
            }
            let waited = !begun.load(SeqCst);
            drop(guard);
            waited
        })
    }

    #[test]
    fn copies_wait_for_copies_of_the_same_bytes() {
        for leasing in [LeaseCheck::Respect, LeaseCheck::Ignore] {
            let copy = |mode| {
                let wanted = RangeAccess { leasing, ..used(mode) };
                move |range_locks: &RangeLocks| assert!(range_locks.begin_copy(&[wanted]).is_ok())
            };
            assert!(
                waits(WRITE, copy(WRITE)) && waits(WRITE, copy(READ)) && waits(READ, copy(WRITE))
            );
            assert!(!waits(READ, copy(READ)));
        }
    }

    #[test]
    fn each_use_of_a_copy_heeds_leases_for_itself() {
        let range_locks = RangeLocks::default();
        let leased = used(WRITE);
        range_locks.begin_lease(WRITE, &ExtentSet::One(leased.extent)).unwrap();
        let own = RangeAccess { leasing: LeaseCheck::Ignore, ..leased };
        let elsewhere = RangeAccess { extent: Extent { start: 8, end: 16 }, ..leased };
        assert!(range_locks.begin_copy(&[own, elsewhere]).is_ok());
        assert!(range_locks.begin_copy(&[own, leased]).is_err());
        assert!(range_locks.begin_copy(&[leased, own]).is_err());
    }

    #[test]
    fn leases_wait_for_copies_of_the_same_bytes() {
        let lease = |mode| {
            move |range_locks: &RangeLocks| {
                let set = ExtentSet::One(used(mode).extent);
                assert!(range_locks.begin_lease(mode, &set).is_ok());
            }
        };
        assert!(
            waits(WRITE, lease(WRITE)) && waits(WRITE, lease(READ)) && waits(READ, lease(WRITE))
        );
        assert!(!waits(READ, lease(READ)));
    }

    #[test]
    fn leases_of_blocks_wait_for_copies_of_the_same_bytes() {
        // The copies are of block 1.
        let lease = |mode, block: u32| {
            move |range_locks: &RangeLocks| {
                let comb = StridedExtents { start: 0, stride: 7, len: 4 };
                let block_extents = Arc::new(BlockExtents::Contiguous(comb));
                let blocks = Arc::new(BlockIds::new([block].into(), 10));
                let used = BlockSelection::new(block_extents, 0..1, blocks);
                assert!(range_locks.begin_block_lease(mode, used).is_ok());
            }
        };
        assert!(waits(WRITE, lease(WRITE, 1)));
        assert!(waits(WRITE, lease(READ, 1)));
        assert!(waits(READ, lease(WRITE, 1)));
        assert!(!waits(READ, lease(READ, 1)));
        assert!(!waits(WRITE, lease(WRITE, 2)));
    }
}
