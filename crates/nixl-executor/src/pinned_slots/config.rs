//! Configuration of staging: memory and time-outs.

use std::time::Duration;

/// How transfers are staged.
///
/// Both sides of a transfer must agree on [bytes of a slot](Self::slot_bytes): a side refuses chunks that do not fit its
/// slots.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct StagingConfig {
    pub(crate) slot_bytes: usize,
    pub(crate) slots: usize,
    /// The most chunks of one transfer in pinned slots at a time. More leave fewer slots for other transfers.
    pub(crate) window: usize,
    pub(crate) gpu_slot_bytes: usize,
    pub(crate) gpu_slots: usize,
    pub(crate) ping: Duration,
    pub(crate) silence: Duration,
}

impl Default for StagingConfig {
    fn default() -> Self {
        Self {
            slot_bytes: 1 << 20,
            slots: 16,
            window: 8,
            // On two H200s slots of 8 MiB carry 266 GB/s, those of 1 to 4 MiB less: each costs a message and its answer. Four bridge
            // that time, and as many are left for other transfers.
            gpu_slot_bytes: 8 << 20,
            gpu_slots: 8,
            ping: Duration::from_secs(1),
            silence: Duration::from_secs(30),
        }
    }
}

impl StagingConfig {
    /// The most slots of a pool: their numbers travel in sixteen bits.
    pub const MAX_SLOTS: usize = 1 << 12;

    /// A side that sent more often would be busy with it.
    const SHORTEST_PING: Duration = Duration::from_millis(10);

    /// The same, with every number within what works.
    pub(crate) fn checked(mut self) -> Self {
        self.slot_bytes = self.slot_bytes.max(1);
        self.slots = self.slots.clamp(1, Self::MAX_SLOTS);
        self.window = self.window.clamp(1, Self::MAX_SLOTS);
        self.gpu_slot_bytes = self.gpu_slot_bytes.max(1);
        self.gpu_slots = self.gpu_slots.clamp(1, Self::MAX_SLOTS);
        self.ping = self.ping.max(Self::SHORTEST_PING);
        // A peer with nothing else to send is not silent.
        self.silence = self.silence.max(self.ping.saturating_mul(2));
        self
    }

    /// Bytes of a slot, and of a chunk. Default: 1 MiB. Smaller chunks fill the pipeline sooner, and cost a message each.
    #[must_use]
    pub const fn slot_bytes(mut self, bytes: usize) -> Self {
        self.slot_bytes = bytes;
        self
    }

    /// Slots for each direction, which all connections of an executor share. Default: 16. With
    /// [`slot_bytes`](Self::slot_bytes), the bound on pinned memory of the executor; [`StagingBudget`](super::StagingBudget)
    /// bounds all executors together. They are allocated when an operation may need
    /// them, and go back when none has for half a minute.
    #[must_use]
    pub const fn slots(mut self, slots: usize) -> Self {
        self.slots = slots;
        self
    }

    /// So many slots of so many bytes on each GPU, which all connections of an executor share. Default: 8 of 8 MiB. They are the bound
    /// on GPU memory that is taken for transfers between GPU memories of which no other process can open either, and are allocated by
    /// the first of these. They stay as long as the executor and its connections, since peers have them open.
    #[must_use]
    pub const fn gpu_slots(mut self, slots: usize, bytes: usize) -> Self {
        (self.gpu_slots, self.gpu_slot_bytes) = (slots, bytes);
        self
    }

    /// Chunks of one transfer that are in slots on a GPU at a time: half of the slots, and two at least.
    pub(crate) fn gpu_window(&self) -> usize {
        self.gpu_slots.div_ceil(2).max(2)
    }

    /// The time without a message of its own after which a side sends a keep-alive message. Default: 1 s; at least
    /// 10 ms. Keep it well below the peer's [silence](Self::silence).
    #[must_use]
    pub const fn ping(mut self, ping: Duration) -> Self {
        self.ping = ping;
        self
    }

    /// After so long without a message from the peer, a side gives the transfer up. Default: 30 s; at least twice the
    /// [ping](Self::ping). The peer may use the memory that it has exported until the peer answers or its process ends.
    #[must_use]
    pub const fn silence(mut self, silence: Duration) -> Self {
        self.silence = silence;
        self
    }
}
