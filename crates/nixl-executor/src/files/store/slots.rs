//! The slots of a store in memory: which block each has, and which are being read or written.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use nixl_device::locks::lock;

use super::eviction::Eviction;
use super::key::BlockKey;
use super::record::Record;

/// All slots, shared by the store and the transfers of its blocks.
#[derive(Debug)]
pub(super) struct Slots(Mutex<State>);

#[derive(Debug)]
struct State {
    slots: Vec<Slot>,
    index: HashMap<BlockKey, u32>,
    /// Slots without a block, and whether their record has none either.
    free: Vec<(u32, bool)>,
    eviction: Box<dyn Eviction>,
    last_generation: u64,
    /// The greatest generation of a record that was there when the store was opened.
    found_generation: u64,
    damaged: u64,
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
    ) -> (Arc<Self>, Vec<Reservation>) {
        let mut state = State {
            slots: vec![Slot::Free; records.len()],
            index: HashMap::new(),
            free: Vec::new(),
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
                None => state.free.push((slot, false)),
            }
        }
        found.sort_unstable_by_key(|(generation, slot, _)| (*generation, *slot));
        for (generation, slot, record) in found {
            state.last_generation = generation;
            if let Some(lost) = state.insert(slot, record) {
                state.slots[lost as usize] = Slot::Reserved;
                superseded.push(lost);
            }
        }
        state.found_generation = state.last_generation;
        // Taken from the end.
        state.free.reverse();
        let (generation, slots) = (state.last_generation, Arc::new(Self(Mutex::new(state))));
        let reserved = |slot| {
            let (slots, held) = (Arc::clone(&slots), Mutex::new((true, false)));
            Reservation { slots, slot, generation, state: held }
        };
        let superseded = superseded.into_iter().map(reserved).collect();
        (slots, superseded)
    }

    /// A slot for a new block: a free one, or that of a block that gives way. `None` if all are in use.
    pub(super) fn reserve(self: &Arc<Self>) -> Option<Reservation> {
        let mut state = lock(&self.0);
        let (slot, is_erased) = match state.free.pop() {
            Some(free) => free,
            None => (state.evict()?, false),
        };
        state.slots[slot as usize] = Slot::Reserved;
        state.last_generation += 1;
        let generation = state.last_generation;
        let state = Mutex::new((true, is_erased));
        Some(Reservation { slots: Arc::clone(self), slot, generation, state })
    }

    /// Takes a block out of the index. Its slot is reserved, unless it is read.
    pub(super) fn take(self: &Arc<Self>, key: &BlockKey) -> Option<Reservation> {
        let mut state = lock(&self.0);
        let slot = state.index.remove(key)?;
        state.eviction.removed(slot);
        match state.slots[slot as usize] {
            Slot::Committed { readers: 0, record } => {
                state.slots[slot as usize] = Slot::Reserved;
                let held = Mutex::new((true, false));
                let (slots, generation) = (Arc::clone(self), record.generation);
                Some(Reservation { slots, slot, generation, state: held })
            }
            Slot::Committed { readers, .. } => {
                state.slots[slot as usize] = Slot::Leaving { readers };
                None
            }
            _ => None,
        }
    }

    /// The slot of a block, which stays there while it is read.
    pub(super) fn read(self: &Arc<Self>, key: &BlockKey) -> Option<Reading> {
        let mut state = lock(&self.0);
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
        lock(&self.0).index.contains_key(key)
    }

    pub(super) fn len(&self) -> usize {
        lock(&self.0).index.len()
    }

    pub(super) fn damaged(&self) -> u64 {
        lock(&self.0).damaged
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

    fn release(&mut self, slot: u32, is_erased: bool) {
        self.slots[slot as usize] = Slot::Free;
        match is_erased {
            true => self.free.push((slot, true)),
            // Those whose record has a block are taken first, and so erased soon.
            false => {
                let at = self.free.iter().position(|(_, is_erased)| !is_erased);
                self.free.insert(at.unwrap_or(self.free.len()), (slot, false));
            }
        }
    }

    fn evict(&mut self) -> Option<u32> {
        let slots = &self.slots;
        let may_go = |slot: u32| {
            matches!(slots.get(slot as usize), Some(Slot::Committed { readers: 0, .. }))
        };
        let slot = self.eviction.victim(&may_go).filter(|&slot| may_go(slot))?;
        self.eviction.removed(slot);
        if let Slot::Committed { record, .. } = self.slots[slot as usize] {
            self.index.remove(&record.key);
        }
        Some(slot)
    }
}

/// A slot without a block in the index. Dropped, it is free; the transfers that write it own it too.
#[derive(Debug)]
pub(super) struct Reservation {
    slots: Arc<Slots>,
    slot: u32,
    generation: u64,
    /// Whether the slot is still reserved by this, and whether its record has no block.
    state: Mutex<(bool, bool)>,
}

impl Reservation {
    pub(super) fn slot(&self) -> usize {
        self.slot as usize
    }

    pub(super) fn generation(&self) -> u64 {
        self.generation
    }

    pub(super) fn is_erased(&self) -> bool {
        lock(&self.state).1
    }

    /// The slot's record has no block, on the disk too if that is wanted.
    pub(super) fn set_erased(&self, is_erased: bool) {
        lock(&self.state).1 = is_erased;
    }

    /// Puts its block into the index, and returns the slot that the block before it had, unless that is read.
    pub(super) fn commit(&self, record: Record) -> Option<Self> {
        lock(&self.state).0 = false;
        let mut state = lock(&self.slots.0);
        let before = state.insert(self.slot, record)?;
        state.slots[before as usize] = Slot::Reserved;
        drop(state);
        let (slots, held) = (Arc::clone(&self.slots), Mutex::new((true, false)));
        Some(Self { slots, slot: before, generation: record.generation, state: held })
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        let (is_reserved, is_erased) = *lock(&self.state);
        if is_reserved {
            lock(&self.slots.0).release(self.slot, is_erased);
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
        let mut state = lock(&self.slots.0);
        let slot = &mut state.slots[self.slot as usize];
        let Slot::Leaving { readers: 1 } = slot else { return None };
        *slot = Slot::Reserved;
        drop(state);
        let (slots, held) = (Arc::clone(&self.slots), Mutex::new((true, false)));
        Some(Reservation {
            slots,
            slot: self.slot,
            generation: self.record.generation,
            state: held,
        })
    }

    /// Its bytes are others: it is found no more. A block that a crash has torn leaves its slot to others.
    pub(super) fn set_damaged(&self) {
        let mut state = lock(&self.slots.0);
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
        let mut state = lock(&self.slots.0);
        match &mut state.slots[self.slot as usize] {
            Slot::Committed { readers, .. } => *readers -= 1,
            Slot::Leaving { readers: 1 } => state.release(self.slot, false),
            Slot::Leaving { readers } => *readers -= 1,
            Slot::Free | Slot::Reserved | Slot::Quarantined => {}
        }
    }
}
