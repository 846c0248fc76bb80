//! Counts of the grants that cover each block of a layout, in constant time however many grants there are.
//!
//! One cell for each block serves the layout's grants, and the copies and leases in every region that the layout lies in.
//! A grant takes no lock of a region: it raises its cells, and then sees by one number whether any copy or lease is under
//! way that has not seen them. Copies and leases do the reverse. A fence between the two on the one side, and sequentially
//! consistent accesses on the other, make at least one see the other.

use std::ops::RangeInclusive;
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering, fence};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::block_selection::{BlockExtents, BlockSelection};
use crate::block_set::BlockIds;
use crate::extent::Extent;
use crate::lease::LeaseMode;

/// The grants on the blocks of one layout.
#[derive(Debug)]
pub(crate) struct Counts {
    /// A block's readers, or [`WRITE`](Self::WRITE).
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
    Held { block: u32, held: LeaseMode },
    TooMany { block: u32 },
}

impl Counts {
    const WRITE: u32 = 1 << 31;
    /// Set while a grant is checked, on the blocks that were.
    const MARK: u32 = 1 << 30;
    /// The most readers.
    const READERS: u32 = Self::MARK - 1;

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

    /// How the block is granted, if it is.
    pub(crate) fn held(&self, block: u32) -> Option<LeaseMode> {
        held(self.cells.get(block as usize)?.load(Ordering::Acquire))
    }

    /// Counts one more grant on these blocks, or says what is in the way of the first that it cannot cover. Returns whether a
    /// copy or lease may be under way that has not seen it.
    pub(crate) fn begin(&self, blocks: &[u32], mode: LeaseMode) -> Result<bool, Refused> {
        let changing = self.lock();
        for (at, &block) in blocks.iter().enumerate() {
            if let Err(refused) = self.mark(block, mode) {
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
                match mode {
                    LeaseMode::Read => cell + 1,
                    LeaseMode::Write => Self::WRITE,
                }
            });
        }
        self.granted.store(self.granted() + new, Ordering::Relaxed);
        drop(changing);
        // Pairs with `enter` and the loads in `conflict`.
        fence(Ordering::SeqCst);
        // Acquire: the bytes that ended copies have written are there before the grant is used.
        Ok(self.busy.load(Ordering::Acquire) > 0)
    }

    /// Ends a grant that began with the same arguments.
    pub(crate) fn end(&self, blocks: &[u32], mode: LeaseMode) {
        let _changing = self.lock();
        let mut free = 0;
        for &block in blocks {
            self.change(block, |cell| {
                let cell = match mode {
                    LeaseMode::Read => cell - 1,
                    LeaseMode::Write => 0,
                };
                free += usize::from(cell == 0);
                cell
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

    /// The grant, if any, on one of these blocks that a use would get in the way of.
    fn conflict(&self, mode: LeaseMode, blocks: RangeInclusive<u32>) -> Option<(u32, LeaseMode)> {
        let cells = self.cells.get(*blocks.start() as usize..=*blocks.end() as usize)?;
        cells.iter().zip(blocks).find_map(|(cell, block)| {
            let held = held(cell.load(Ordering::SeqCst))?;
            mode.conflicts(held).then_some((block, held))
        })
    }

    fn mark(&self, block: u32, mode: LeaseMode) -> Result<(), Refused> {
        let cell = self.cells.get(block as usize).ok_or(Refused::OutOfRange { block })?;
        let count = cell.load(Ordering::Relaxed);
        if count & Self::MARK != 0 {
            return Err(Refused::Duplicate { block });
        }
        if let Some(held) = held(count).filter(|held| mode.conflicts(*held)) {
            return Err(Refused::Held { block, held });
        }
        if count == Self::READERS {
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
        self.changing.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn held(cell: u32) -> Option<LeaseMode> {
    if cell & Counts::WRITE != 0 {
        return Some(LeaseMode::Write);
    }
    (cell & Counts::READERS != 0).then_some(LeaseMode::Read)
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
    /// The grant, if any, that a use of these bytes would get in the way of.
    pub(crate) fn conflict(&self, mode: LeaseMode, extent: Extent) -> Option<(u32, LeaseMode)> {
        if !self.counts.any() {
            return None;
        }
        let bytes = extent.start as u64..extent.end as u64;
        let blocks = self.counts.blocks() as u64;
        let strided = self.block_extents.strided_near(self.layers, blocks, bytes.clone());
        strided
            .filter_map(|strided| strided.blocks_in(blocks, &bytes))
            .find_map(|blocks| self.counts.conflict(mode, blocks))
    }

    /// As [`conflict`](Self::conflict), for blocks of this or another layout.
    pub(crate) fn conflict_with_blocks(
        &self,
        mode: LeaseMode,
        used: &BlockSelection,
    ) -> Option<(u32, LeaseMode)> {
        if !self.counts.any() {
            return None;
        }
        match used.ids_in(&self.block_extents) {
            Some(ids) => ids.iter().find_map(|&id| self.counts.conflict(mode, id..=id)),
            None => used.extents().find_map(|extent| self.conflict(mode, extent)),
        }
    }

    /// Whether both layouts have some byte.
    pub(crate) fn meets(&self, other: &Self) -> bool {
        let whole = |here: &Self| {
            // At most 2^32 blocks.
            let ids = (0..here.counts.blocks()).map(|id| id as u32).collect();
            let ids = Arc::new(BlockIds::new(ids, here.counts.blocks() as u64));
            BlockSelection::new(Arc::clone(&here.block_extents), 0..here.layers, ids)
        };
        Arc::ptr_eq(&self.block_extents, &other.block_extents) || whole(self).meets(&whole(other))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_most_readers_of_a_block_are_a_limit() {
        let counts = Counts::new(2);
        counts.cells[1].store(Counts::READERS - 1, Ordering::Relaxed);
        assert!(counts.begin(&[0, 1], LeaseMode::Read).is_ok());
        let refused = Err(Refused::TooMany { block: 1 });
        assert_eq!(counts.begin(&[0, 1], LeaseMode::Read), refused);
        assert_eq!(counts.cells[0].load(Ordering::Relaxed), 1);
        assert_eq!(counts.held(1), Some(LeaseMode::Read));
    }
}
