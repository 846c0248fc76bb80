//! Terms and identity of a grant.

use std::fmt;
use std::num::NonZeroU32;
use std::time::Duration;

use crate::clock::Clock;

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

/// Until when a reader of a ticket may begin. A step of the wall clock makes one of the two the later.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct TicketEnd {
    pub(crate) unix_millis: u64,
    pub(crate) time: Duration,
}

impl TicketEnd {
    /// For a grant without a time to live.
    const NEVER: Self = Self { unix_millis: u64::MAX, time: Duration::MAX };

    /// After this time from now.
    pub(super) fn after(time_to_live: Option<Duration>, clock: &dyn Clock) -> Self {
        let Some(time_to_live) = time_to_live else { return Self::NEVER };
        let unix = clock.unix_time().saturating_add(time_to_live).as_millis();
        Self {
            unix_millis: u64::try_from(unix).unwrap_or(u64::MAX),
            time: clock.now().saturating_add(time_to_live),
        }
    }

    /// The later by each clock.
    pub(super) fn max(self, other: Self) -> Self {
        Self {
            unix_millis: self.unix_millis.max(other.unix_millis),
            time: self.time.max(other.time),
        }
    }

    /// In milliseconds since 1970.
    #[must_use]
    pub fn unix_millis(&self) -> u64 {
        self.unix_millis
    }

    /// By the clock of the table.
    #[must_use]
    pub fn time(&self) -> Duration {
        self.time
    }

    /// When no reader begins any more, on the clock of the table: `skew` later than either clock says. Of a time that is over by
    /// the wall clock alone, now.
    pub(crate) fn is_over_at(
        &self,
        (now, unix_now): (Duration, Duration),
        skew: Duration,
    ) -> Duration {
        let unix = Duration::from_millis(self.unix_millis).saturating_add(skew);
        let by_unix = now.saturating_add(unix.saturating_sub(unix_now));
        by_unix.max(self.time.saturating_add(skew))
    }
}

/// The identity of a grant in its ticket.
#[derive(Clone, Copy, Eq, PartialEq)]
pub struct Granted {
    pub(crate) slot: u32,
    pub(crate) generation: u64,
    pub(crate) token: [u8; 16],
    pub(crate) end: TicketEnd,
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

    /// Until when a reader may begin, unless the grant is renewed.
    #[must_use]
    pub fn end(&self) -> TicketEnd {
        self.end
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
