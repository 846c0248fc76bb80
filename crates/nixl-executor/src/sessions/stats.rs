//! The counts of what staging holds.

use super::Sessions;
use crate::pinned_slots::{BudgetStats, SlotPools, SlotStats};

/// What staging holds.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct StagingStats {
    pub(crate) outgoing: SlotStats,
    pub(crate) incoming: SlotStats,
    pub(crate) on_gpus: SlotStats,
    pub(crate) budget: BudgetStats,
    pub(crate) sessions: usize,
    pub(crate) strangers: u64,
    pub(crate) waiting_messages: usize,
}

impl StagingStats {
    /// Of connections that share the pools.
    pub(crate) fn of<'a>(
        pools: &SlotPools,
        connections: impl Iterator<Item = &'a Sessions>,
    ) -> Self {
        let (outgoing, incoming) = (pools.outgoing.stats(), pools.incoming.stats());
        let (on_gpus, budget) = (pools.on_gpus.stats(), pools.budget());
        let none = Self { outgoing, incoming, on_gpus, budget, ..Self::default() };
        connections.fold(none, |sum, sessions| Self {
            sessions: sum.sessions + sessions.len(),
            strangers: sum.strangers + sessions.strangers(),
            waiting_messages: sum.waiting_messages + sessions.waiting(),
            ..sum
        })
    }

    /// Slots by which bytes leave.
    #[must_use]
    pub fn outgoing(&self) -> SlotStats {
        self.outgoing
    }

    /// Slots by which bytes arrive.
    #[must_use]
    pub fn incoming(&self) -> SlotStats {
        self.incoming
    }

    /// Slots on GPUs, out of which peers copy.
    #[must_use]
    pub fn on_gpus(&self) -> SlotStats {
        self.on_gpus
    }

    /// Memory of the slots of all executors of this process, and its bound.
    #[must_use]
    pub fn budget(&self) -> BudgetStats {
        self.budget
    }

    /// Transfers under way in which the peer takes part, of both sides.
    #[must_use]
    pub fn sessions(&self) -> usize {
        self.sessions
    }

    /// Requests by senders that hold no offer of this side; nothing was done for them.
    #[must_use]
    pub fn strangers(&self) -> u64 {
        self.strangers
    }

    /// Messages of peers that wait for transfers under way.
    #[must_use]
    pub fn waiting_messages(&self) -> usize {
        self.waiting_messages
    }
}
