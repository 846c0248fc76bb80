//! Pinned slots, through which staged transfers move their chunks, and the configuration of staging.
//!
//! Slots are one [piece of memory](pool) for each direction, and [admission] shares them fairly among sessions.

mod admission;
mod config;
mod pool;

pub use config::StagingConfig;
pub use pool::SlotStats;
pub(crate) use pool::{Member, RegisteredSlots, Slot, SlotPools};
