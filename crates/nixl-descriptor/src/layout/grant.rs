//! Grants of blocks: what peers may read until their grant ends.

use std::ops::Range;
use std::sync::Arc;

use super::lease::BlockLeaseError;
use super::local::Layout;
use crate::block_selection::BlockSelection;
use crate::block_set::BlockIds;
use crate::granted::{Counts, GrantedHere, Refused};
use crate::lease::{LeaseMode, LeaseSet};
use crate::region::RegionId;

/// Why blocks were not granted. None of them was.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum BlockGrantError {
    /// No block was named.
    #[error("no blocks are to be granted: give at least one block id")]
    NoBlocks,
    /// There is no such block.
    #[error("block {block} is out of range: the layout has {blocks} blocks")]
    OutOfRange {
        /// Requested block.
        block: u32,
        /// Number of blocks.
        blocks: usize,
    },
    /// A block was named twice.
    #[error("block {block} is to be granted more than once by one grant: give each block once")]
    Duplicate {
        /// Which block.
        block: u32,
    },
    /// More grants cover the block than are counted.
    #[error("block {block} has as many grants as can be counted: end some")]
    TooMany {
        /// Which block.
        block: u32,
    },
    /// An operation in flight writes some of the bytes.
    #[error(
        "an operation in flight writes some of the blocks in {region}: wait for it to complete"
    )]
    Leased {
        /// The first byte that both have.
        region: RegionId,
    },
}

/// The grants on the blocks of a layout.
///
/// As long as one covers a block, copies by the host and leases of operations that would write it are refused. What that costs
/// them does not depend on the number of grants.
#[derive(Debug)]
pub struct BlockGrants(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    layout: Layout,
    counts: Arc<Counts>,
}

/// Blocks that are granted until this is dropped.
#[derive(Debug)]
#[must_use = "dropping it ends the grant"]
pub struct BlockGrant {
    of: Arc<Inner>,
    blocks: Box<[u32]>,
}

impl Layout {
    /// Makes the blocks grantable, whole blocks with all their layers. Keeps the memory alive, and takes no lease.
    ///
    /// Layouts that share bytes can each be made grantable, and one layout twice: grants do not get in each other's way. Panics:
    /// never.
    #[must_use]
    pub fn grantable(&self) -> BlockGrants {
        let counts = Arc::new(Counts::new(self.geometry().blocks()));
        let layers = self.geometry().layers();
        for (region, block_extents) in self.footprints() {
            let (block_extents, counts) = (Arc::clone(block_extents), Arc::clone(&counts));
            region.range_locks().attach(GrantedHere { block_extents, layers, counts });
        }
        BlockGrants(Arc::new(Inner { layout: self.clone(), counts }))
    }
}

impl BlockGrants {
    /// Grants the blocks, or none. A block may be granted more than once.
    ///
    /// Takes some nanoseconds for each block, and more for each region of the layout that an operation uses or a copy is under way
    /// in. May wait for a host copy of the same bytes, as
    /// [`Leases::acquire`](crate::Leases::acquire). Panics: never.
    ///
    /// # Errors
    /// [`BlockGrantError`], with the first block that cannot be granted.
    pub fn grant(&self, blocks: Box<[u32]>) -> Result<BlockGrant, BlockGrantError> {
        if blocks.is_empty() {
            return Err(BlockGrantError::NoBlocks);
        }
        let busy = self.0.counts.begin(&blocks).map_err(|refused| self.explained(refused))?;
        // From here on, dropping it ends the grant.
        let grant = BlockGrant { of: Arc::clone(&self.0), blocks };
        if busy {
            grant.admit()?;
        }
        Ok(grant)
    }

    /// Which layout.
    #[must_use]
    pub fn layout(&self) -> &Layout {
        &self.0.layout
    }

    /// Whether a grant covers the block. Not if there is no such block.
    #[must_use]
    pub fn is_granted(&self, block: u32) -> bool {
        self.0.counts.is_granted(block)
    }

    /// Number of blocks that are granted.
    #[must_use]
    pub fn granted(&self) -> usize {
        self.0.counts.granted()
    }

    fn explained(&self, refused: Refused) -> BlockGrantError {
        match refused {
            Refused::OutOfRange { block } => {
                BlockGrantError::OutOfRange { block, blocks: self.0.counts.blocks() }
            }
            Refused::Duplicate { block } => BlockGrantError::Duplicate { block },
            Refused::TooMany { block } => BlockGrantError::TooMany { block },
        }
    }
}

impl BlockGrant {
    /// The blocks, in the order given.
    #[must_use]
    pub fn blocks(&self) -> &[u32] {
        &self.blocks
    }

    /// Leases some layers of the blocks for a reader in this process. Panics: never.
    ///
    /// # Errors
    /// As [`Layout::lease`].
    pub fn lease(&self, layers: Range<usize>) -> Result<LeaseSet, BlockLeaseError> {
        let layout = &self.of.layout;
        layout.placement().check_layers(&layers)?;
        Ok(layout.lease_set(self.ids(), layers, LeaseMode::Read)?)
    }

    /// Ends the grant, and returns its blocks.
    pub fn end(mut self) -> Box<[u32]> {
        self.finish();
        std::mem::take(&mut self.blocks)
    }

    /// Waits for copies under way, and looks for leases.
    fn admit(&self) -> Result<(), BlockGrantError> {
        let layout = &self.of.layout;
        let (ids, layers) = (self.ids(), layout.geometry().layers());
        let busy = layout.footprints().iter().filter(|(region, _)| !region.range_locks().is_idle());
        for (region, block_extents) in busy {
            let used = BlockSelection::new(Arc::clone(block_extents), 0..layers, Arc::clone(&ids));
            if !region.range_locks().admit_grant(&used) {
                return Err(BlockGrantError::Leased { region: region.id() });
            }
        }
        Ok(())
    }

    fn ids(&self) -> Arc<BlockIds> {
        let bound = self.of.counts.blocks() as u64;
        Arc::new(BlockIds::new(self.blocks.as_ref().into(), bound))
    }

    fn finish(&self) {
        self.of.counts.end(&self.blocks);
    }
}

impl Drop for BlockGrant {
    /// After [`end`](Self::end) there are no blocks left.
    fn drop(&mut self) {
        if !self.blocks.is_empty() {
            self.finish();
        }
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        for (region, _) in self.layout.footprints() {
            region.range_locks().detach(&self.counts);
        }
    }
}
