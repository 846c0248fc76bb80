//! The terms and the identity of a grant.

use std::fmt;
use std::num::NonZeroU32;
use std::time::Duration;

/// The capacity of a table.
#[derive(Clone, Copy, Debug)]
pub struct GrantTableOptions {
    pub(crate) slots: NonZeroU32,
}

impl Default for GrantTableOptions {
    fn default() -> Self {
        Self { slots: NonZeroU32::MIN.saturating_add(65_535) }
    }
}

impl GrantTableOptions {
    /// Capacity for so many grants.
    #[must_use]
    pub fn with_slots(mut self, slots: NonZeroU32) -> Self {
        self.slots = slots;
        self
    }

    /// The live grants at one time.
    #[must_use]
    pub fn slots(&self) -> NonZeroU32 {
        self.slots
    }
}

/// The layout of a grant's blocks, and its time to live.
#[derive(Clone, Copy, Debug)]
pub struct GrantTerms {
    pub(crate) layout: u16,
    pub(crate) time_to_live: Option<Duration>,
    pub(crate) readers: NonZeroU32,
    pub(crate) layers: u64,
}

impl GrantTerms {
    /// For one reader, without a time to live.
    pub fn new(layout: u16) -> Self {
        Self { layout, time_to_live: None, readers: NonZeroU32::MIN, layers: 0 }
    }

    /// Ends the grant after this time unless it is renewed.
    #[must_use]
    pub fn for_time(self, time_to_live: Duration) -> Self {
        Self { time_to_live: Some(time_to_live), ..self }
    }

    /// The grant is of layers below this one: until they are ready, readers' messages are taken as they come.
    #[must_use]
    pub fn of_layers_below(self, layers: u64) -> Self {
        Self { layers, ..self }
    }

    /// Ends the grant after so many readers.
    #[must_use]
    pub fn for_readers(self, readers: NonZeroU32) -> Self {
        Self { readers, ..self }
    }
}

/// The identity of a grant in its ticket.
#[derive(Clone, Copy, Eq, PartialEq)]
pub struct Granted {
    pub(crate) slot: u32,
    pub(crate) generation: u64,
    pub(crate) token: [u8; 16],
}

impl Granted {
    /// Its slot.
    #[must_use]
    pub fn slot(&self) -> u32 {
        self.slot
    }

    /// The word of the slot while it is alive. Never used again in the export.
    #[must_use]
    pub fn generation(&self) -> u64 {
        self.generation
    }

    /// Random: its holder may renew and end the grant.
    #[must_use]
    pub fn token(&self) -> [u8; 16] {
        self.token
    }
}

/// Does not print the token, which ends the grant.
impl fmt::Debug for Granted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Granted").field("slot", &self.slot).finish_non_exhaustive()
    }
}
