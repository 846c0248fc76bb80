//! Slots, through which staged transfers move their chunks, and the configuration of staging.
//!
//! Slots are one [piece of pinned memory](pool) for each direction, and one of [each GPU's](gpu_slots) memory; [admission] shares them
//! fairly among sessions, and [budget] bounds the memory over all executors.

mod admission;
mod budget;
mod config;
mod failure;
mod gpu_slots;
mod member;
mod pool;
mod pools;
mod registered;
mod slot;
mod stats;
#[cfg(test)]
mod tests;

pub use budget::{BudgetStats, StagingBudget};
pub use config::StagingConfig;
pub(crate) use gpu_slots::{GpuMember, GpuSlotPool, GpuSlots};
pub(crate) use member::Member;
pub(crate) use pools::SlotPools;
pub(crate) use registered::RegisteredSlots;
pub(crate) use slot::Slot;
pub use stats::SlotStats;
