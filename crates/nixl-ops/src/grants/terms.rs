//! The terms of a grant, and what names it.

use std::fmt;
use std::num::NonZeroU32;
use std::time::Duration;

/// How many grants a table has room for.
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
    /// Room for so many grants.
    #[must_use]
    pub fn with_slots(mut self, slots: NonZeroU32) -> Self {
        self.slots = slots;
        self
    }

    /// Grants that are alive at one time.
    #[must_use]
    pub fn slots(&self) -> NonZeroU32 {
        self.slots
    }
}

/// Of which layout a grant's blocks are, and how long it lives.
#[derive(Clone, Copy, Debug)]
pub struct GrantTerms {
    pub(crate) layout: u16,
    pub(crate) time_to_live: Option<Duration>,
    pub(crate) readers: NonZeroU32,
}

impl GrantTerms {
    /// For one reader, without a time to live.
    pub fn new(layout: u16) -> Self {
        Self { layout, time_to_live: None, readers: NonZeroU32::MIN }
    }

    /// It ends after this time unless it is renewed.
    #[must_use]
    pub fn for_time(self, time_to_live: Duration) -> Self {
        Self { time_to_live: Some(time_to_live), ..self }
    }

    /// It ends when so many readers are done.
    #[must_use]
    pub fn for_readers(self, readers: NonZeroU32) -> Self {
        Self { readers, ..self }
    }
}

/// What names a grant in its ticket.
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

/// Shows nothing that ends the grant.
impl fmt::Debug for Granted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Granted").field("slot", &self.slot).finish_non_exhaustive()
    }
}
