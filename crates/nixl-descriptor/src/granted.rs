//! Counts of the grants that cover each block of a layout, in constant time however many grants there are.
//!
//! Grants are for reading: they conflict with uses that write, and not with each other.
//!
//! One cell for each block serves the layout's grants, and the copies and leases in every region that the layout lies in.
//! A grant takes no lock of a region: it raises its cells, and then sees by one number whether any copy or lease is under
//! way that has not seen them. Copies and leases do the reverse. A fence between the two on the one side, and sequentially
//! consistent accesses on the other, make at least one see the other.

#[cfg(all(test, loom))]
mod loom_model;

use std::ops::RangeInclusive;
use std::sync::Arc;
use std::sync::atomic::Ordering;
#[cfg(not(all(test, loom)))]
use std::sync::{
    Mutex, MutexGuard,
    atomic::{AtomicU32, AtomicUsize, fence},
};

#[cfg(all(test, loom))]
use loom_model::{AtomicU32, AtomicUsize, Mutex, MutexGuard, fence, lock};
#[cfg(not(all(test, loom)))]
use nixl_device::locks::lock;

use crate::block_selection::{BlockExtents, BlockSelection};
use crate::extent::Extent;

/// The grants on the blocks of one layout.
#[derive(Debug)]
pub(crate) struct Counts {
    /// The number of grants on each block.
    cells: Box<[AtomicU32]>,
    /// Blocks that are granted.
    granted: AtomicUsize,
    /// Copies and leases under way in the regions of the layout, and layouts that share bytes with it.
    busy: AtomicUsize,
    /// Held where cells are changed.
    changing: Mutex<()>,
}

/// Why blocks were not counted as granted. None of them was.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Refused {
    OutOfRange { block: u32 },
    Duplicate { block: u32 },
    TooMany { block: u32 },
}

impl Counts {
    /// Set while a grant is checked, on the blocks that were.
    const MARK: u32 = 1 << 31;
    /// The most grants on a block.
    const MOST: u32 = Self::MARK - 1;

    /// No grants on `blocks` blocks.
    pub(crate) fn new(blocks: usize) -> Self {
        Self {
            cells: (0..blocks).map(|_| AtomicU32::new(0)).collect(),
            granted: AtomicUsize::new(0),
            busy: AtomicUsize::new(0),
            changing: Mutex::new(()),
        }
    }

    /// Number of blocks.
    pub(crate) fn blocks(&self) -> usize {
        self.cells.len()
    }

    /// Number of blocks that are granted.
    pub(crate) fn granted(&self) -> usize {
        self.granted.load(Ordering::Relaxed)
    }

    /// Whether the block is granted.
    pub(crate) fn is_granted(&self, block: u32) -> bool {
        let cell = self.cells.get(block as usize);
        cell.is_some_and(|cell| is_granted(cell.load(Ordering::Acquire)))
    }

    /// Counts one more grant on these blocks, or returns the reason against the first that it cannot cover. Returns whether a copy or
    /// lease may be under way that has not seen it.
    pub(crate) fn begin(&self, blocks: &[u32]) -> Result<bool, Refused> {
        let changing = self.lock();
        for (at, &block) in blocks.iter().enumerate() {
            if let Err(refused) = self.mark(block) {
                blocks[..at]
                    .iter()
                    .for_each(|&block| self.change(block, |cell| cell & !Self::MARK));
                return Err(refused);
            }
        }
        let mut new = 0;
        for &block in blocks {
            self.change(block, |cell| {
                let cell = cell & !Self::MARK;
                new += usize::from(cell == 0);
                cell + 1
            });
        }
        self.granted.store(self.granted() + new, Ordering::Relaxed);
        drop(changing);
        // Pairs with `enter` and the loads in `first_granted`.
        fence(Ordering::SeqCst);
        // Acquire: the bytes that ended copies have written are there before the grant is used.
        Ok(self.busy.load(Ordering::Acquire) > 0)
    }

    /// Ends a grant that began with the same blocks.
    pub(crate) fn end(&self, blocks: &[u32]) {
        let _changing = self.lock();
        let mut free = 0;
        for &block in blocks {
            self.change(block, |cell| {
                free += usize::from(cell == 1);
                cell - 1
            });
        }
        // Release: as in `change`, for those that look no further.
        self.granted.store(self.granted() - free, Ordering::Release);
    }

    /// Counts copies and leases that are under way, before they look for grants.
    pub(crate) fn enter(&self, uses: usize) {
        self.busy.fetch_add(uses, Ordering::SeqCst);
    }

    /// The reverse of [`enter`](Self::enter).
    pub(crate) fn leave(&self, uses: usize) {
        // Release: pairs with the load in `begin`.
        self.busy.fetch_sub(uses, Ordering::Release);
    }

    /// Whether any block may be granted.
    fn any(&self) -> bool {
        self.granted.load(Ordering::SeqCst) > 0
    }

    /// The first of these blocks that is granted, if any is.
    fn first_granted(&self, blocks: RangeInclusive<u32>) -> Option<u32> {
        let cells = self.cells.get(*blocks.start() as usize..=*blocks.end() as usize)?;
        let mut cells = cells.iter().zip(blocks);
        cells.find_map(|(cell, block)| is_granted(cell.load(Ordering::SeqCst)).then_some(block))
    }

    fn mark(&self, block: u32) -> Result<(), Refused> {
        let cell = self.cells.get(block as usize).ok_or(Refused::OutOfRange { block })?;
        let count = cell.load(Ordering::Relaxed);
        if count & Self::MARK != 0 {
            return Err(Refused::Duplicate { block });
        }
        if count == Self::MOST {
            return Err(Refused::TooMany { block });
        }
        cell.store(count | Self::MARK, Ordering::Relaxed);
        Ok(())
    }

    /// Changes the cell of a block that exists, while the lock is held.
    fn change(&self, block: u32, to: impl FnOnce(u32) -> u32) {
        if let Some(cell) = self.cells.get(block as usize) {
            // Release: what ended before the grant did, its word raised, is seen by copies that see the cell.
            cell.store(to(cell.load(Ordering::Relaxed)), Ordering::Release);
        }
    }

    fn lock(&self) -> MutexGuard<'_, ()> {
        lock(&self.changing)
    }
}

fn is_granted(cell: u32) -> bool {
    cell & Counts::MOST != 0
}

/// Orders what a copy or lease does after the ends of grants that it has seen, for readers without a lock too.
pub(crate) fn seen() {
    fence(Ordering::AcqRel);
}

/// What a layout has in one region, and the grants on it.
#[derive(Clone, Debug)]
pub(crate) struct GrantedHere {
    pub(crate) block_extents: Arc<BlockExtents>,
    pub(crate) layers: usize,
    pub(crate) counts: Arc<Counts>,
}

impl GrantedHere {
    /// A block with some of these bytes that is granted, if there is one: they must not be written.
    pub(crate) fn granted_bytes(&self, extent: Extent) -> Option<u32> {
        if !self.counts.any() {
            return None;
        }
        let bytes = extent.start as u64..extent.end as u64;
        let blocks = self.counts.blocks() as u64;
        let strided = self.block_extents.strided_near(self.layers, blocks, bytes.clone());
        strided
            .filter_map(|strided| strided.blocks_in(blocks, &bytes))
            .find_map(|blocks| self.counts.first_granted(blocks))
    }

    /// As [`granted_bytes`](Self::granted_bytes), for blocks of this or another layout.
    pub(crate) fn granted_blocks(&self, used: &BlockSelection) -> Option<u32> {
        if !self.counts.any() {
            return None;
        }
        match used.ids_in(&self.block_extents) {
            Some(ids) => ids.iter().find_map(|&id| self.counts.first_granted(id..=id)),
            None => used.extents().find_map(|extent| self.granted_bytes(extent)),
        }
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn the_most_grants_of_a_block_are_a_limit() {
        let counts = Counts::new(2);
        counts.cells[1].store(Counts::MOST - 1, Ordering::Relaxed);
        assert!(counts.begin(&[0, 1]).is_ok());
        let refused = Err(Refused::TooMany { block: 1 });
        assert_eq!(counts.begin(&[0, 1]), refused);
        assert_eq!(counts.cells[0].load(Ordering::Relaxed), 1);
        assert!(counts.is_granted(1));
        counts.end(&[0, 1]);
        assert_eq!([0, 1].map(|block| counts.is_granted(block)), [false, true]);
    }
}
