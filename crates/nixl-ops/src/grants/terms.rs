//! The terms of a grant and its name.

use std::fmt;
use std::num::NonZeroU32;
use std::time::Duration;

use nixl_descriptor::LeaseMode;

/// How many grants a table has room for.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct GrantTableOptions {
    /// Grants that are alive at one time: 65,536 unless set. Each takes 32 bytes of shared memory once it is used.
    pub slots: NonZeroU32,
    /// Whether blocks can be granted for writing: not unless set.
    pub writable: bool,
}

impl Default for GrantTableOptions {
    fn default() -> Self {
        Self { slots: NonZeroU32::MIN.saturating_add(65_535), writable: false }
    }
}

impl GrantTableOptions {
    /// Room for so many grants.
    #[must_use]
    pub fn with_slots(self, slots: NonZeroU32) -> Self {
        Self { slots, ..self }
    }

    /// Blocks can be granted for writing.
    #[must_use]
    pub fn writable(self) -> Self {
        Self { writable: true, ..self }
    }
}

/// What a grant is for, and how long it lives.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct GrantTerms {
    /// Which layout of the export.
    pub layout: u16,
    /// What the peer may do.
    pub mode: LeaseMode,
    /// After which time the grant ends unless it is renewed; never, without one.
    pub time_to_live: Option<Duration>,
    /// Readers after whose word it ends: one unless set.
    pub readers: NonZeroU32,
}

impl GrantTerms {
    /// For one reader, without a time to live.
    pub fn read(layout: u16) -> Self {
        Self { layout, mode: LeaseMode::Read, time_to_live: None, readers: NonZeroU32::MIN }
    }

    /// For a writer, without a time to live.
    pub fn write(layout: u16) -> Self {
        Self { mode: LeaseMode::Write, ..Self::read(layout) }
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
#[non_exhaustive]
pub struct Granted {
    /// Its slot.
    pub slot: u32,
    /// The word of the slot while it is alive. Never used again in the export.
    pub generation: u64,
    /// Random: its holder may renew, claim and end the grant.
    pub token: [u8; 16],
}

/// Shows nothing that ends the grant.
impl fmt::Debug for Granted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Granted").field("slot", &self.slot).finish_non_exhaustive()
    }
}
