//! Copies of granted blocks that this process makes for a reader in another.

use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use nixl_descriptor::Leased;
use nixl_metadata::Ticket;

use super::super::check::{StaleRead, WordCheck};
use super::super::error::GrantError;
use super::super::metrics::LiveGauges;
use super::super::waiters::WrittenBlocks;
use super::GrantTable;

/// Blocks of a ticket that this process copies for its reader. Until it is dropped they are leased, and
/// [not free](GrantTable::free_blocks), also if their grant ends meanwhile.
///
/// Field order: the lease ends before the blocks are free.
pub struct GrantedCopy {
    leased: Leased,
    in_use: WrittenBlocks,
}

impl GrantTable {
    /// Leases some layers of the blocks of a reader's ticket, for a copy by this process. The ticket is a peer's: its token, its digest
    /// and its blocks are compared with the grant.
    ///
    /// The grant may end during the copy: [`check_copied`](Self::check_copied) follows it.
    ///
    /// # Errors
    ///
    /// As [`lease`](Self::lease).
    pub fn begin_copy(
        self: &Arc<Self>,
        ticket: &Ticket,
        layers: Range<usize>,
    ) -> Result<GrantedCopy, GrantError> {
        let (slot, generation) = (ticket.slot(), ticket.generation());
        let now = self.clock.now();
        let lease = self.change(|changes| {
            let grant = changes.valid(slot, generation, ticket.token(), now)?;
            let last = grant.last;
            // Its holder may have computed the digest anew.
            let is_granted = grant.layout == ticket.layout()
                && grant.blocks.blocks() == ticket.blocks()
                && layers.end as u64 <= last;
            if !is_granted {
                return Err(GrantError::NotGranted { slot });
            }
            let leased = grant.lease(slot, ticket.digest(), layers)?;
            changes.state.waiters.write_begins(ticket.layout(), ticket.blocks());
            Ok(leased)
        })?;
        let blocks = (ticket.layout(), ticket.blocks().into());
        let in_use = WrittenBlocks::new(Arc::clone(self), blocks, LiveGauges::default());
        Ok(GrantedCopy { leased: Leased::from(lease), in_use })
    }

    /// Checks the words after a copy by this process, whose GPU or threads have ended it.
    ///
    /// # Errors
    ///
    /// [`StaleRead`]: the copied bytes may be of a later use of the blocks.
    pub fn check_copied(&self, check: &WordCheck) -> Result<(), StaleRead> {
        self.words.check(check)
    }
}

impl GrantedCopy {
    /// A GPU may still read the blocks, for good: they stay leased, and are never free.
    pub fn leak(self) {
        let Self { leased, in_use } = self;
        leased.leak();
        std::mem::forget(in_use);
    }
}

impl fmt::Debug for GrantedCopy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("GrantedCopy").field("in_use", &self.in_use).finish_non_exhaustive()
    }
}
