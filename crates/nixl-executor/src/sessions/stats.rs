//! The counts of what staging holds.

use super::Sessions;
use crate::pinned_slots::{SlotPools, SlotStats};

/// What staging holds.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
#[non_exhaustive]
pub struct StagingStats {
    /// Slots by which bytes leave.
    pub outgoing: SlotStats,
    /// Slots by which bytes arrive.
    pub incoming: SlotStats,
    /// Transfers under way in which the peer takes part, of both sides.
    pub sessions: usize,
    /// Requests by senders that hold no offer of this side; nothing was done for them.
    pub strangers: u64,
    /// Messages of peers that wait for transfers under way.
    pub waiting_messages: usize,
}

impl StagingStats {
    /// Of connections that share the pools.
    pub(crate) fn of<'a>(
        pools: &SlotPools,
        connections: impl Iterator<Item = &'a Sessions>,
    ) -> Self {
        let (outgoing, incoming) = (pools.outgoing.stats(), pools.incoming.stats());
        let none = Self { outgoing, incoming, ..Self::default() };
        connections.fold(none, |sum, sessions| Self {
            sessions: sum.sessions + sessions.len(),
            strangers: sum.strangers + sessions.strangers(),
            waiting_messages: sum.waiting_messages + sessions.waiting(),
            ..sum
        })
    }
}
