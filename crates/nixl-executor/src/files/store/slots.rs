//! The slots of a store in memory: which block each has, and which are being read or written.

use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, Mutex};

use nixl_descriptor::file::FileRegion;
use nixl_device::locks::lock;

use super::eviction::Eviction;
use super::key::BlockKey;
use super::record::Record;

/// All slots, shared by the store and the transfers of its blocks.
#[derive(Debug)]
pub(super) struct Slots {
    state: Mutex<State>,
    /// The lock of the folder: it is kept until no transfer of a block or a record is in flight.
    _owner: FileRegion,
}

#[derive(Debug)]
struct State {
    slots: Vec<Slot>,
    index: HashMap<BlockKey, u32>,
    /// Slots without a block whose record is empty.
    free: Vec<u32>,
    /// Slots without a block whose record may have one, by its generation; 0 if it is not known.
    stale: BTreeSet<(u64, u32)>,
    /// What the record of each slot may have on the disk.
    pages: Vec<Page>,
    /// The slots with `Page::Holds`. A record may be emptied once those of its key with smaller generations are, so that none of
    /// them is found instead.
    records: BTreeSet<(BlockKey, u64, u32)>,
    eviction: Box<dyn Eviction>,
    last_generation: u64,
    /// The greatest generation of a record that was there when the store was opened.
    found_generation: u64,
    damaged: u64,
}

/// What the record of a slot may have on the disk.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Page {
    Empty,
    /// Nothing, or a damaged record.
    Unknown,
    /// A record of this key and generation, or nothing.
    Holds(BlockKey, u64),
}

#[derive(Clone, Copy, Debug)]
enum Slot {
    Free,
    /// Of a [`Reservation`].
    Reserved,
    /// In the index.
    Committed {
        record: Record,
        readers: u32,
    },
    /// No longer in the index; free once nothing reads it.
    Leaving {
        readers: u32,
    },
    /// Bytes of a block that this store has put were others: the disk is at fault, and the slot is not used again.
    Quarantined,
}

impl Slots {
    /// Slots with what their records hold, and those whose record is to be emptied: of two records of a key the later counts.
    pub(super) fn new(
        records: Vec<Option<Record>>,
        eviction: Box<dyn Eviction>,
        owner: FileRegion,
    ) -> (Arc<Self>, Vec<Reservation>) {
        let mut state = State {
            slots: vec![Slot::Free; records.len()],
            index: HashMap::new(),
            free: Vec::new(),
            stale: BTreeSet::new(),
            pages: vec![Page::Unknown; records.len()],
            records: BTreeSet::new(),
            eviction,
            last_generation: 0,
            found_generation: 0,
            damaged: 0,
        };
        let mut found: Vec<(u64, u32, Record)> = Vec::new();
        let mut superseded = Vec::new();
        for (slot, record) in (0u32..).zip(records) {
            match record {
                Some(record) => found.push((record.generation, slot, record)),
                // It may be damaged rather than empty.
                None => drop(state.stale.insert((0, slot))),
            }
        }
        found.sort_unstable_by_key(|(generation, slot, _)| (*generation, *slot));
        for (generation, slot, record) in found {
            state.last_generation = generation;
            state.set_page(slot, Page::Holds(record.key, generation));
            if let Some(lost) = state.insert(slot, record) {
                state.slots[lost as usize] = Slot::Reserved;
                superseded.push(lost);
            }
        }
        state.found_generation = state.last_generation;
        let slots = Arc::new(Self { state: Mutex::new(state), _owner: owner });
        let superseded = superseded.into_iter().map(|slot| slots.reserved(slot, 0)).collect();
        (slots, superseded)
    }

    /// A slot for a new block: a free one, or that of a block that gives way. `None` if all are in use.
    pub(super) fn reserve(self: &Arc<Self>) -> Option<Reservation> {
        let mut state = lock(&self.state);
        let slot = match state.take_free() {
            Some(free) => free,
            None => state.evict()?,
        };
        state.slots[slot as usize] = Slot::Reserved;
        state.last_generation += 1;
        let generation = state.last_generation;
        drop(state);
        Some(self.reserved(slot, generation))
    }

    /// Takes a block out of the index. Returns the slots with records of its key that can be emptied, in that order, and whether
    /// there are others, which are being read or written.
    pub(super) fn take(self: &Arc<Self>, key: &BlockKey) -> (Vec<Reservation>, bool) {
        let mut state = lock(&self.state);
        if let Some(slot) = state.index.remove(key) {
            state.eviction.removed(slot);
            match state.slots[slot as usize] {
                Slot::Committed { readers: 0, .. } => state.release(slot),
                Slot::Committed { readers, .. } => {
                    state.slots[slot as usize] = Slot::Leaving { readers };
                }
                _ => {}
            }
        }
        let of_key = (*key, 0, 0)..=(*key, u64::MAX, u32::MAX);
        let of_key: Vec<_> = state.records.range(of_key).copied().collect();
        let mut taken = Vec::with_capacity(of_key.len());
        let mut is_used = false;
        for (_, generation, slot) in of_key {
            match state.slots[slot as usize] {
                Slot::Free => {
                    state.stale.remove(&(generation, slot));
                    state.slots[slot as usize] = Slot::Reserved;
                    taken.push((slot, true));
                }
                Slot::Quarantined => taken.push((slot, false)),
                // Later ones hide this one.
                Slot::Reserved | Slot::Leaving { .. } | Slot::Committed { .. } => {
                    is_used = true;
                    break;
                }
            }
        }
        drop(state);
        let reserved = |(slot, is_reserved)| {
            let reservation = self.reserved(slot, 0);
            *lock(&reservation.is_reserved) = is_reserved;
            reservation
        };
        (taken.into_iter().map(reserved).collect(), is_used)
    }

    fn reserved(self: &Arc<Self>, slot: u32, generation: u64) -> Reservation {
        Reservation { slots: Arc::clone(self), slot, generation, is_reserved: Mutex::new(true) }
    }

    /// The slot of a block, which stays there while it is read.
    pub(super) fn read(self: &Arc<Self>, key: &BlockKey) -> Option<Reading> {
        let mut state = lock(&self.state);
        let slot = *state.index.get(key)?;
        state.eviction.used(slot);
        let Slot::Committed { record, readers } = &mut state.slots[slot as usize] else {
            return None;
        };
        *readers += 1;
        let record = *record;
        Some(Reading { slots: Arc::clone(self), slot, record })
    }

    pub(super) fn contains(&self, key: &BlockKey) -> bool {
        lock(&self.state).index.contains_key(key)
    }

    pub(super) fn len(&self) -> usize {
        lock(&self.state).index.len()
    }

    pub(super) fn damaged(&self) -> u64 {
        lock(&self.state).damaged
    }
}

impl State {
    /// Puts a block into the index. Returns the slot that has lost its block by that, this one or another, unless it is read.
    fn insert(&mut self, slot: u32, record: Record) -> Option<u32> {
        let other = self.index.get(&record.key).copied();
        let other = other.and_then(|other| match self.slots[other as usize] {
            Slot::Committed { record, readers } => Some((other, record.generation, readers)),
            _ => None,
        });
        let lost = match other {
            Some((_, generation, _)) if generation > record.generation => return Some(slot),
            Some((other, _, readers)) => {
                self.eviction.removed(other);
                self.slots[other as usize] = Slot::Leaving { readers };
                (readers == 0).then_some(other)
            }
            None => None,
        };
        self.slots[slot as usize] = Slot::Committed { record, readers: 0 };
        self.index.insert(record.key, slot);
        self.eviction.inserted(slot);
        lost
    }

    fn release(&mut self, slot: u32) {
        self.slots[slot as usize] = Slot::Free;
        match self.pages[slot as usize] {
            Page::Empty => self.free.push(slot),
            Page::Unknown => drop(self.stale.insert((0, slot))),
            Page::Holds(_, generation) => drop(self.stale.insert((generation, slot))),
        }
    }

    /// A slot without a block. Those whose record may have one are taken first, and so emptied soon.
    fn take_free(&mut self) -> Option<u32> {
        let mut stale = self.stale.iter().copied();
        let stale =
            stale.find(|&(_, slot)| is_oldest(slot, &self.pages, &self.records, &self.slots));
        if let Some(stale) = stale {
            self.stale.remove(&stale);
            return Some(stale.1);
        }
        self.free.pop()
    }

    fn set_page(&mut self, slot: u32, page: Page) {
        let before = std::mem::replace(&mut self.pages[slot as usize], page);
        if let Page::Holds(key, generation) = before {
            self.records.remove(&(key, generation, slot));
        }
        if let Page::Holds(key, generation) = page {
            self.records.insert((key, generation, slot));
        }
    }

    fn evict(&mut self) -> Option<u32> {
        let (slots, pages, records) = (&self.slots, &self.pages, &self.records);
        let may_go = |slot: u32| {
            matches!(slots.get(slot as usize), Some(Slot::Committed { readers: 0, .. }))
                && is_oldest(slot, pages, records, slots)
        };
        let slot = self.eviction.victim(&may_go).filter(|&slot| may_go(slot))?;
        self.eviction.removed(slot);
        if let Slot::Committed { record, .. } = self.slots[slot as usize] {
            self.index.remove(&record.key);
        }
        Some(slot)
    }
}

/// Whether no record of the slot's key with a smaller generation would be found instead. Those with other bytes are no block.
fn is_oldest(
    slot: u32,
    pages: &[Page],
    records: &BTreeSet<(BlockKey, u64, u32)>,
    slots: &[Slot],
) -> bool {
    let Page::Holds(key, generation) = pages[slot as usize] else { return true };
    let mut before = records.range((key, 0, 0)..(key, generation, 0));
    before.all(|&(_, _, slot)| matches!(slots[slot as usize], Slot::Quarantined))
}

/// A slot without a block in the index. Dropped, it is free; the transfers that write it own it too.
#[derive(Debug)]
pub(super) struct Reservation {
    slots: Arc<Slots>,
    slot: u32,
    generation: u64,
    /// Whether the slot is still reserved by this.
    is_reserved: Mutex<bool>,
}

impl Reservation {
    pub(super) fn slot(&self) -> usize {
        self.slot as usize
    }

    pub(super) fn generation(&self) -> u64 {
        self.generation
    }

    pub(super) fn is_erased(&self) -> bool {
        lock(&self.slots.state).pages[self.slot as usize] == Page::Empty
    }

    /// The slot's record has no block, on the disk too if that is wanted.
    pub(super) fn set_erased(&self) {
        lock(&self.slots.state).set_page(self.slot, Page::Empty);
    }

    /// The slot's record is about to be written.
    pub(super) fn set_written(&self, record: &Record) {
        let page = Page::Holds(record.key, record.generation);
        lock(&self.slots.state).set_page(self.slot, page);
    }

    /// Puts its block into the index, and returns the slot that the block before it had, unless that is read.
    pub(super) fn commit(&self, record: Record) -> Option<Self> {
        *lock(&self.is_reserved) = false;
        let mut state = lock(&self.slots.state);
        let before = state.insert(self.slot, record)?;
        state.slots[before as usize] = Slot::Reserved;
        drop(state);
        Some(self.slots.reserved(before, 0))
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        if *lock(&self.is_reserved) {
            lock(&self.slots.state).release(self.slot);
        }
    }
}

/// A block that is read. The transfers that read it own it too.
#[derive(Debug)]
pub(super) struct Reading {
    slots: Arc<Slots>,
    slot: u32,
    record: Record,
}

impl Reading {
    pub(super) fn slot(&self) -> usize {
        self.slot as usize
    }

    pub(super) fn record(&self) -> &Record {
        &self.record
    }

    /// Ends the read. Returns the slot if its block has left the index and nothing else reads it.
    pub(super) fn finish(self) -> Option<Reservation> {
        let mut state = lock(&self.slots.state);
        let slot = &mut state.slots[self.slot as usize];
        let Slot::Leaving { readers: 1 } = slot else { return None };
        *slot = Slot::Reserved;
        drop(state);
        Some(self.slots.reserved(self.slot, 0))
    }

    /// Its bytes are others: it is found no more. A block that a crash has torn leaves its slot to others.
    pub(super) fn set_damaged(&self) {
        let mut state = lock(&self.slots.state);
        state.damaged += 1;
        if state.index.get(&self.record.key) == Some(&self.slot) {
            state.index.remove(&self.record.key);
            state.eviction.removed(self.slot);
        }
        let was_found = self.record.generation <= state.found_generation;
        let slot = &mut state.slots[self.slot as usize];
        match *slot {
            Slot::Committed { readers, .. } | Slot::Leaving { readers } if was_found => {
                *slot = Slot::Leaving { readers };
            }
            _ => *slot = Slot::Quarantined,
        }
    }
}

impl Drop for Reading {
    fn drop(&mut self) {
        let mut state = lock(&self.slots.state);
        match &mut state.slots[self.slot as usize] {
            Slot::Committed { readers, .. } => *readers -= 1,
            Slot::Leaving { readers: 1 } => state.release(self.slot),
            Slot::Leaving { readers } => *readers -= 1,
            Slot::Free | Slot::Reserved | Slot::Quarantined => {}
        }
    }
}
