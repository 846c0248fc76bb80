//! Grants of blocks: what peers may read or write until their grant ends.

use std::ops::Range;
use std::sync::Arc;

use super::lease::BlockLeaseError;
use super::local::Layout;
use crate::block_selection::BlockSelection;
use crate::block_set::BlockIds;
use crate::granted::{Counts, GrantedHere, Refused};
use crate::leaked;
use crate::lease::{LeaseMode, LeaseSet};
use crate::range_locks::Conflict;
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
        /// Block asked for.
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
    /// Another grant covers the block, and one of the two is for writing.
    #[error("block {block} is granted for {} already: end its grants, or wait until it is free", held.purpose())]
    Granted {
        /// Which block; of another layout, if two that can be granted share bytes.
        block: u32,
        /// What the other grant allows.
        held: LeaseMode,
    },
    /// More grants cover the block than are counted.
    #[error("block {block} has as many grants as are counted: end some")]
    TooMany {
        /// Which block.
        block: u32,
    },
    /// An operation in flight uses some of the bytes.
    #[error(
        "an operation in flight holds a {held} lease on some of the blocks in {region}: wait for it to complete"
    )]
    Leased {
        /// The first byte that both have.
        region: RegionId,
        /// What the operation may do.
        held: LeaseMode,
    },
    /// The layout lies in memory that must not change.
    #[error("{region} is read-only: its blocks cannot be granted for writing")]
    ReadOnly {
        /// Which region.
        region: RegionId,
    },
}

/// The grants on the blocks of a layout.
///
/// As long as one covers a block, copies by the host and leases of operations that would get in its way are refused: those that
/// write the block, and for a grant to write also those that read it. What that costs them does not depend on the number of
/// grants.
#[derive(Debug)]
pub struct BlockGrants(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    layout: Layout,
    counts: Arc<Counts>,
    /// A region that cannot be written, if there is one.
    read_only: Option<RegionId>,
}

/// Blocks that are granted until this is dropped.
#[derive(Debug)]
#[must_use = "dropping it ends the grant"]
pub struct BlockGrant {
    of: Arc<Inner>,
    mode: LeaseMode,
    blocks: Box<[u32]>,
}

impl Layout {
    /// Makes the blocks grantable, whole blocks with all their layers. Keeps the memory alive, and takes no lease.
    ///
    /// Grants of two layouts that share bytes, or of one layout that was made grantable twice, respect each other, but each of
    /// them costs some hundred nanoseconds for each region. Panics: never.
    #[must_use]
    pub fn grantable(&self) -> BlockGrants {
        let counts = Arc::new(Counts::new(self.geometry().blocks()));
        let layers = self.geometry().layers();
        for (region, block_extents) in self.footprints() {
            let (block_extents, counts) = (Arc::clone(block_extents), Arc::clone(&counts));
            region.range_locks().attach(GrantedHere { block_extents, layers, counts });
        }
        let mut regions = self.footprints().iter().map(|(region, _)| region);
        let read_only = regions.find(|region| !region.is_writable()).map(|region| region.id());
        BlockGrants(Arc::new(Inner { layout: self.clone(), counts, read_only }))
    }
}

impl BlockGrants {
    /// Grants the blocks, or none. Those to be read may be granted more than once.
    ///
    /// Takes some nanoseconds for each block, and more for each region of the layout that an operation uses or a copy is under way
    /// in. May wait for a host copy of the same bytes, as
    /// [`Leases::acquire`](crate::Leases::acquire). Panics: never.
    ///
    /// # Errors
    /// [`BlockGrantError`], with the first block that cannot be granted.
    pub fn grant(
        &self,
        blocks: Box<[u32]>,
        mode: LeaseMode,
    ) -> Result<BlockGrant, BlockGrantError> {
        let Inner { counts, read_only, .. } = &*self.0;
        if blocks.is_empty() {
            return Err(BlockGrantError::NoBlocks);
        }
        if let (LeaseMode::Write, Some(region)) = (mode, *read_only) {
            return Err(BlockGrantError::ReadOnly { region });
        }
        let busy = counts.begin(&blocks, mode).map_err(|refused| self.explained(refused))?;
        // From here on, dropping it ends the grant.
        let grant = BlockGrant { of: Arc::clone(&self.0), mode, blocks };
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

    /// What the grants that cover the block allow; `None` if there are none, or no such block.
    #[must_use]
    pub fn held(&self, block: u32) -> Option<LeaseMode> {
        self.0.counts.held(block)
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
            Refused::Held { block, held } => BlockGrantError::Granted { block, held },
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

    /// What it allows.
    #[must_use]
    pub fn mode(&self) -> LeaseMode {
        self.mode
    }

    /// Leases some layers of the blocks in the mode of the grant, for this process to carry out what was granted. Panics: never.
    ///
    /// # Errors
    /// As [`Layout::lease`], other than for this layout's own grants.
    pub fn lease(&self, layers: Range<usize>) -> Result<LeaseSet, BlockLeaseError> {
        let Inner { layout, counts, .. } = &*self.of;
        layout.placement().check_layers(&layers)?;
        Ok(layout.lease_set(self.ids(), layers, self.mode, Some(counts))?)
    }

    /// Ends the grant, and returns its blocks.
    pub fn end(mut self) -> Box<[u32]> {
        self.finish();
        std::mem::take(&mut self.blocks)
    }

    /// Never ends the grant: the blocks stay granted and their memory allocated until the process ends. For a grant to a writer
    /// that is not known to be quiet. Counted in [`leaked`](crate::leaked()).
    pub fn leak(self) {
        let block = self.of.layout.geometry().block_len();
        leaked::count_lease((block as u64).saturating_mul(self.blocks.len() as u64));
        std::mem::forget(self);
    }

    /// Waits for copies under way, and looks for leases and for grants of other layouts.
    fn admit(&self) -> Result<(), BlockGrantError> {
        let Inner { layout, counts, .. } = &*self.of;
        let (ids, layers) = (self.ids(), layout.geometry().layers());
        let busy = layout.footprints().iter().filter(|(region, _)| !region.range_locks().is_idle());
        for (region, block_extents) in busy {
            let used = BlockSelection::new(Arc::clone(block_extents), 0..layers, Arc::clone(&ids));
            let admitted = region.range_locks().admit_grant(self.mode, &used, counts);
            admitted.map_err(|conflict| match conflict {
                Conflict::Lease(held) => BlockGrantError::Leased { region: region.id(), held },
                Conflict::Grant { block, held } => BlockGrantError::Granted { block, held },
            })?;
        }
        Ok(())
    }

    fn ids(&self) -> Arc<BlockIds> {
        let bound = self.of.counts.blocks() as u64;
        Arc::new(BlockIds::new(self.blocks.as_ref().into(), bound))
    }

    fn finish(&self) {
        self.of.counts.end(&self.blocks, self.mode);
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
