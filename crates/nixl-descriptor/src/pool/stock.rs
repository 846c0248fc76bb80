//! The stock of a pool: free blocks, and slabs that are no longer used.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::PoolStats;
use super::class::Class;
use super::slab::Slab;
use crate::region::RegionId;

/// Bytes of free blocks that keep their pages, however much is in use.
pub(super) const WARM: usize = 64 << 20;
/// Free blocks keep their pages as long as all blocks together are no more than were in use at once in the last one to two
/// of these.
pub(super) const WINDOW: Duration = Duration::from_secs(1);
/// The life time of an offer, and the difference of two hosts' clocks.
pub(super) const RETENTION: Duration = Duration::from_secs(660);
/// Longer lives do not keep address space that nothing uses.
pub(super) const LONGEST_RETENTION: Duration = Duration::from_secs(24 * 3600);
/// How long a slab is still kept once its time was seen to be over. Time also passes while the process is stopped, and what was sent
/// to it then is read in this time.
pub(super) const GRACE: Duration = Duration::from_secs(5);
/// Mappings that are kept for late writes at most, of the 65,530 that a process may have, and their bytes: tables of pages
/// take a 500th of that.
pub(super) const MAX_RETIRED: usize = 4096;
pub(super) const MAX_RETIRED_BYTES: usize = 64 << 30;

#[derive(Debug)]
pub(super) struct Stock {
    /// The free blocks of each class, the one that was freed first in front. Those of retired slabs are still among them.
    free: HashMap<Class, VecDeque<(RegionId, usize)>>,
    slabs: HashMap<RegionId, Entry>,
    /// The slabs without a block in use, by the turn in which they lost the last one.
    idle: BTreeMap<u64, RegionId>,
    turns: u64,
    /// Slabs that blocks are not taken from any more, and since when none is in use; the oldest in front.
    retired: VecDeque<(Instant, Arc<Slab>)>,
    peak: Peak,
    retention: Duration,
    /// When the oldest retired slab's time was seen to be over.
    seen_over: Option<Instant>,
    buffers: usize,
    /// Bytes of blocks in use, of free blocks that may have pages, and of slabs of both kinds.
    used: usize,
    warm: usize,
    mapped: usize,
    retired_bytes: usize,
    made: u64,
    unmapped_early: u64,
}

#[derive(Debug)]
struct Entry {
    slab: Arc<Slab>,
    /// Number of blocks in use.
    in_use: usize,
    /// The blocks that were in use at some time.
    touched: Vec<bool>,
    /// When the last block came back.
    since: Instant,
    /// Its turn among the idle ones.
    turn: u64,
}

/// A block that was taken.
pub(super) struct Taken {
    pub(super) slab: Arc<Slab>,
    pub(super) index: usize,
    pub(super) used_before: bool,
}

/// Slabs to release, without the lock.
#[derive(Default)]
pub(super) struct Cleared {
    pub(super) withdrawn: Vec<Arc<Slab>>,
    pub(super) unmapped: Vec<Arc<Slab>>,
}

/// The most bytes that were in use at once lately.
#[derive(Debug)]
struct Peak {
    since: Instant,
    now: usize,
    before: usize,
}

impl Stock {
    pub(super) fn new(now: Instant) -> Self {
        Self {
            free: HashMap::new(),
            slabs: HashMap::new(),
            idle: BTreeMap::new(),
            turns: 0,
            retired: VecDeque::new(),
            peak: Peak { since: now, now: 0, before: 0 },
            retention: RETENTION,
            seen_over: None,
            buffers: 0,
            used: 0,
            warm: 0,
            mapped: 0,
            retired_bytes: 0,
            made: 0,
            unmapped_early: 0,
        }
    }

    /// The block of the class that has been free for longest: a peer that is late meets as few of its bytes as can be.
    pub(super) fn take(&mut self, class: Class, now: Instant) -> Option<Taken> {
        self.peak.pass(self.used, now);
        let free = self.free.get_mut(&class)?;
        loop {
            let (id, index) = free.pop_front()?;
            let Some(entry) = self.slabs.get_mut(&id) else { continue };
            if entry.in_use == 0 {
                self.idle.remove(&entry.turn);
            }
            entry.in_use += 1;
            let used_before = std::mem::replace(&mut entry.touched[index], true);
            if used_before {
                self.warm -= class.block;
            }
            self.buffers += 1;
            self.used += class.block;
            self.peak.now = self.peak.now.max(self.used);
            return Some(Taken { slab: Arc::clone(&entry.slab), index, used_before });
        }
    }

    /// Adds a slab, all of it free.
    pub(super) fn add(&mut self, slab: Slab, now: Instant) {
        let (id, class, turn) = (slab.id(), slab.class(), self.next_turn());
        let blocks = class.blocks();
        self.free.entry(class).or_default().extend((0..blocks).map(|index| (id, index)));
        self.mapped += class.slab;
        self.made += 1;
        let touched = vec![false; blocks];
        self.idle.insert(turn, id);
        let slab = Arc::new(slab);
        self.slabs.insert(id, Entry { slab, in_use: 0, touched, since: now, turn });
    }

    /// Takes back a block that was taken.
    pub(super) fn put_back(&mut self, slab: &Slab, index: usize, now: Instant) {
        self.peak.pass(self.used, now);
        let (id, class, turn) = (slab.id(), slab.class(), self.next_turn());
        let Some(entry) = self.slabs.get_mut(&id) else { return };
        entry.in_use -= 1;
        if entry.in_use == 0 {
            (entry.since, entry.turn) = (now, turn);
            self.idle.insert(turn, id);
        }
        self.free.entry(class).or_default().push_back((id, index));
        self.buffers -= 1;
        self.used -= class.block;
        self.warm += class.block;
    }

    fn next_turn(&mut self) -> u64 {
        self.turns += 1;
        self.turns
    }

    /// Retires idle slabs while too much is free, and releases those whose time is over: of each kind no more than `most`,
    /// the oldest first.
    pub(super) fn clear(&mut self, now: Instant, most: usize) -> Cleared {
        self.peak.pass(self.used, now);
        let mut cleared = Cleared::default();
        let kept = self.peak.most().saturating_sub(self.used).max(WARM);
        while self.warm > kept
            && cleared.withdrawn.len() < most
            && let Some((_, id)) = self.idle.pop_first()
        {
            cleared.withdrawn.extend(self.retire(id));
        }
        let may_unmap = self.grace_is_over(now);
        while cleared.unmapped.len() < most
            && let Some(&(since, _)) = self.retired.front()
        {
            let over = may_unmap && self.is_over(since, now);
            let early = self.retired.len() > MAX_RETIRED || self.retired_bytes > MAX_RETIRED_BYTES;
            if !over && !early {
                break;
            }
            self.unmapped_early += u64::from(!over);
            if let Some((_, slab)) = self.retired.pop_front() {
                self.retired_bytes -= slab.class().slab;
                cleared.unmapped.push(slab);
            }
        }
        cleared
    }

    fn is_over(&self, since: Instant, now: Instant) -> bool {
        now.saturating_duration_since(since) >= self.retention
    }

    /// Whether the oldest retired slab was seen to be over a while ago, but not so long that the process may have been stopped since.
    fn grace_is_over(&mut self, now: Instant) -> bool {
        if self.retired.front().is_none_or(|(since, _)| !self.is_over(*since, now)) {
            self.seen_over = None;
            return false;
        }
        let seen = *self.seen_over.get_or_insert(now);
        let passed = now.saturating_duration_since(seen);
        if passed > 2 * GRACE {
            self.seen_over = Some(now);
        }
        (GRACE..=2 * GRACE).contains(&passed)
    }

    fn retire(&mut self, id: RegionId) -> Option<Arc<Slab>> {
        let Entry { slab, touched, since, .. } = self.slabs.remove(&id)?;
        let Class { block, slab: bytes } = slab.class();
        self.warm -= block * touched.iter().filter(|touched| **touched).count();
        self.mapped -= bytes;
        self.retired_bytes += bytes;
        self.retired.push_back((since, Arc::clone(&slab)));
        Some(slab)
    }

    /// When [`clear`](Self::clear) will next have something to do if nothing is taken or put back until then.
    pub(super) fn due(&self) -> Option<Instant> {
        let too_much = self.warm > WARM && !self.idle.is_empty();
        let cooled = too_much.then_some(self.peak.since + 2 * WINDOW);
        let over = self.retired.front().and_then(|(since, _)| since.checked_add(self.retention));
        let over = match self.seen_over {
            Some(seen) if over.is_some() => seen.checked_add(GRACE),
            _ => over,
        };
        cooled.into_iter().chain(over).min()
    }

    pub(super) fn retain_for(&mut self, at_least: Duration) {
        self.retention = self.retention.max(at_least.min(LONGEST_RETENTION));
    }

    pub(super) fn stats(&self) -> PoolStats {
        PoolStats {
            slabs: self.slabs.len(),
            mapped: self.mapped as u64,
            buffers: self.buffers,
            used: self.used as u64,
            warm: self.warm as u64,
            retired: self.retired.len(),
            retired_bytes: self.retired_bytes as u64,
            made: self.made,
            unmapped_early: self.unmapped_early,
        }
    }
}

impl Peak {
    /// Until `now`, `used` bytes were in use.
    fn pass(&mut self, used: usize, now: Instant) {
        let age = now.saturating_duration_since(self.since);
        if age < WINDOW {
            return;
        }
        self.before = if age < 2 * WINDOW { self.now } else { used };
        (self.now, self.since) = (used, now);
    }

    fn most(&self) -> usize {
        self.now.max(self.before)
    }
}
