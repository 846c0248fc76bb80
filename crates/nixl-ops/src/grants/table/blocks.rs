//! Blocks that are free, or granted for reading or writing.

use std::sync::Arc;

use nixl_descriptor::layout::BlockGrantError;

use super::super::error::GrantError;
use super::super::waiters::{FreeBlocks, Waiters, WrittenBlocks};
use super::GrantTable;

impl GrantTable {
    /// Has [`free_blocks`](Self::free_blocks) wait for blocks that are granted for writing, until the result is dropped.
    ///
    /// # Errors
    ///
    /// As there.
    pub fn write_begins(
        self: &Arc<Self>,
        layout: u16,
        blocks: &[u32],
    ) -> Result<WrittenBlocks, GrantError> {
        self.check_blocks(layout, blocks)?;
        self.lock().waiters.write_begins(layout, blocks);
        let live = self.metrics.writing(blocks.len());
        Ok(WrittenBlocks::new(Arc::clone(self), (layout, blocks.into()), live))
    }

    pub(in crate::grants) fn write_ended(&self, layout: u16, blocks: &[u32]) {
        self.change(|changes| {
            let waiters = &mut changes.state.waiters;
            waiters.write_ended(layout, blocks);
            changes.wakers.extend(waiters.freed(layout, blocks, self.held(layout)));
        });
    }

    /// Resolves when no grant of this table covers any of the blocks, and none to write either
    /// ([`write_begins`](Self::write_begins)). Another task may have granted them by then.
    ///
    /// # Errors
    ///
    /// [`GrantError::NoLayout`], [`GrantError::Blocks`] for a block that does not exist.
    pub fn free_blocks(
        self: &Arc<Self>,
        layout: u16,
        blocks: &[u32],
    ) -> Result<FreeBlocks, GrantError> {
        self.check_blocks(layout, blocks)?;
        Ok(FreeBlocks::new(Arc::clone(self), layout, blocks.into()))
    }

    fn check_blocks(&self, layout: u16, blocks: &[u32]) -> Result<(), GrantError> {
        let count = self.layout(layout)?.layout().geometry().blocks();
        match blocks.iter().find(|block| **block as usize >= count) {
            Some(&block) => Err(BlockGrantError::OutOfRange { block, blocks: count }.into()),
            None => Ok(()),
        }
    }

    /// Whether a block of the layout is granted.
    pub(in crate::grants) fn held(&self, layout: u16) -> impl Fn(u32) -> bool {
        let layout = self.layouts.get(usize::from(layout));
        move |block| layout.is_some_and(|layout| layout.is_granted(block))
    }

    /// The result of `change` is dropped without the lock.
    pub(in crate::grants) fn waiters<R>(&self, change: impl FnOnce(&mut Waiters) -> R) -> R {
        change(&mut self.lock().waiters)
    }
}
