//! Configuration of staging: memory and time-outs.

use std::time::Duration;

/// How transfers are staged.
///
/// Both sides of a transfer must agree on [`slot_bytes`](Self::slot_bytes): a side refuses chunks that do not fit its
/// slots.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub struct StagingConfig {
    /// Bytes of a slot, and of a chunk.
    pub slot_bytes: usize,
    /// Slots for each direction, which all connections of an executor share. With [`slot_bytes`](Self::slot_bytes), the bound
    /// on pinned memory. They are allocated when an operation may need them, and go back when none has for half a minute.
    pub slots: usize,
    /// The most chunks of one transfer that are under way at a time.
    pub window: usize,
    /// After so long without a message of its own, a side sends one that says only that it is there.
    pub ping: Duration,
    /// After so long without a message from the peer, a side gives the transfer up. The peer may use the memory that it has exported until
    /// the peer answers or its process ends.
    pub silence: Duration,
}

impl Default for StagingConfig {
    fn default() -> Self {
        Self {
            slot_bytes: 1 << 20,
            slots: 16,
            window: 8,
            ping: Duration::from_secs(1),
            silence: Duration::from_secs(30),
        }
    }
}

impl StagingConfig {
    /// The most slots of a pool: their numbers travel in sixteen bits.
    pub const MAX_SLOTS: usize = 1 << 12;

    /// The same, with every number within what works.
    pub(crate) fn checked(mut self) -> Self {
        self.slot_bytes = self.slot_bytes.max(1);
        self.slots = self.slots.clamp(1, Self::MAX_SLOTS);
        self.window = self.window.clamp(1, Self::MAX_SLOTS);
        self
    }
}
