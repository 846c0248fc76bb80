//! Counters of a table.

use nixl_descriptor::layout::BlockGrants;

use super::GrantTable;

/// Counters of a table.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct GrantStats {
    pub(crate) alive: usize,
    pub(crate) blocks: usize,
    pub(crate) waiting: usize,
}

impl GrantStats {
    /// Grants that have not ended.
    #[must_use]
    pub fn alive(&self) -> usize {
        self.alive
    }

    /// Blocks that a grant covers.
    #[must_use]
    pub fn blocks(&self) -> usize {
        self.blocks
    }

    /// Tasks that wait for free blocks.
    #[must_use]
    pub fn waiting(&self) -> usize {
        self.waiting
    }
}

impl GrantTable {
    /// The counters.
    pub fn stats(&self) -> GrantStats {
        let state = self.lock();
        GrantStats {
            alive: state.alive(),
            blocks: self.layouts.iter().map(BlockGrants::granted).sum(),
            waiting: state.waiters.len(),
        }
    }
}
