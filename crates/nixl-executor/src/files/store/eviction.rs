//! Eviction: which block gives way to a new one.

use std::collections::{BTreeMap, HashMap};
use std::fmt;

/// The order in which blocks of a full store give way. Slots are numbers from 0 to the capacity.
pub trait Eviction: fmt::Debug + Send {
    /// A slot has a block.
    fn inserted(&mut self, slot: u32);

    /// The block of a slot was found.
    fn used(&mut self, slot: u32);

    /// A slot has its block no longer.
    fn removed(&mut self, slot: u32);

    /// The slot to be emptied, of those that `may_go`: a block that is being read may not.
    fn victim(&mut self, may_go: &dyn Fn(u32) -> bool) -> Option<u32>;
}

/// The block that was not found for the longest time gives way.
#[derive(Debug, Default)]
pub struct LeastRecentlyUsed {
    last: u64,
    times: HashMap<u32, u64>,
    slots: BTreeMap<u64, u32>,
}

impl Eviction for LeastRecentlyUsed {
    fn inserted(&mut self, slot: u32) {
        self.removed(slot);
        self.last += 1;
        self.times.insert(slot, self.last);
        self.slots.insert(self.last, slot);
    }

    fn used(&mut self, slot: u32) {
        if self.times.contains_key(&slot) {
            self.inserted(slot);
        }
    }

    fn removed(&mut self, slot: u32) {
        if let Some(time) = self.times.remove(&slot) {
            self.slots.remove(&time);
        }
    }

    fn victim(&mut self, may_go: &dyn Fn(u32) -> bool) -> Option<u32> {
        self.slots.values().copied().find(|&slot| may_go(slot))
    }
}
