//! Expiry of grants.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::time::Duration;

/// The deadlines of grants, by time. Ended and renewed grants are detected when their entry is due.
#[derive(Debug, Default)]
pub(super) struct Expiries {
    heap: BinaryHeap<Reverse<Expiry>>,
}

#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
struct Expiry {
    at: Duration,
    slot: u32,
    generation: u64,
}

impl Expiries {
    /// The excess of entries over live grants at which stale ones are removed.
    const SPARE: usize = 64;

    pub(super) fn add(&mut self, at: Duration, slot: u32, generation: u64) {
        self.heap.push(Reverse(Expiry { at, slot, generation }));
    }

    /// The earliest deadline. `deadline` is that of a grant, if it is alive and has one.
    pub(super) fn next(
        &mut self,
        deadline: impl Fn(u32, u64) -> Option<Duration>,
    ) -> Option<Duration> {
        while let Some(mut top) = self.heap.peek_mut() {
            let Reverse(first) = *top;
            match deadline(first.slot, first.generation) {
                None => {
                    std::collections::binary_heap::PeekMut::pop(top);
                }
                Some(at) if at == first.at => return Some(at),
                Some(at) => top.0.at = at,
            }
        }
        None
    }

    /// Takes a grant whose deadline is at or before `now`.
    pub(super) fn take_due(
        &mut self,
        now: Duration,
        deadline: impl Fn(u32, u64) -> Option<Duration>,
    ) -> Option<u32> {
        self.next(deadline).filter(|at| *at <= now)?;
        self.heap.pop().map(|Reverse(first)| first.slot)
    }

    /// Removes the entries of ended grants, if they outnumber the others.
    pub(super) fn trim(&mut self, alive: usize, deadline: impl Fn(u32, u64) -> Option<Duration>) {
        if self.heap.len() > 2 * alive + Self::SPARE {
            self.heap.retain(|Reverse(entry)| deadline(entry.slot, entry.generation).is_some());
        }
    }

    #[cfg(all(test, not(loom)))]
    pub(super) fn len(&self) -> usize {
        self.heap.len()
    }
}
