//! Leases of blocks.

use std::ops::Range;
use std::sync::Arc;

use super::local::Layout;
use super::placement::SelectionError;
use crate::lease::{LeaseError, LeaseMode, LeaseSet};

/// Why blocks could not be leased. Nothing was leased.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum BlockLeaseError {
    /// There are no such blocks or layers.
    #[error(transparent)]
    Selection(#[from] SelectionError),
    /// A block would be written twice.
    #[error("block {block} is to be written more than once: give each block once")]
    Duplicate {
        /// Which block.
        block: usize,
    },
    /// The memory is in use, or cannot be written.
    #[error(transparent)]
    Lease(#[from] LeaseError),
}

impl Layout {
    /// Leases `layers` of `blocks`, or nothing: exactly their bytes, and nothing of the padding between blocks.
    ///
    /// Conflicts with leases of descriptors, of blocks of this or another layout, and host copies as
    /// [`Leases::acquire`](crate::Leases::acquire) with the same bytes would, and waits for no more than that does. Takes
    /// a nanosecond or so for each block and some ten for each region, however many bytes that is. A block to be read
    /// that is there more than once counts once. Panics: never.
    ///
    /// # Errors
    /// [`BlockLeaseError`]: no such blocks or layers, or none at all; for [`LeaseMode::Write`], a block is there twice
    /// or the memory is read-only; another operation's lease conflicts.
    pub fn lease(
        &self,
        blocks: &[usize],
        layers: Range<usize>,
        mode: LeaseMode,
    ) -> Result<LeaseSet, BlockLeaseError> {
        let selected = self.placement().select(blocks)?;
        self.placement().check_layers(&layers)?;
        if mode == LeaseMode::Write && selected.set().len() < selected.ids().len() {
            return Err(BlockLeaseError::Duplicate { block: duplicate(blocks) });
        }
        Ok(self.lease_set(Arc::new(selected), layers, mode)?)
    }
}

/// The lowest of the ids that are there more than once.
pub(super) fn duplicate(ids: &[usize]) -> usize {
    let mut sorted = ids.to_vec();
    sorted.sort_unstable();
    sorted.windows(2).find(|pair| pair[0] == pair[1]).map_or(0, |pair| pair[0])
}
