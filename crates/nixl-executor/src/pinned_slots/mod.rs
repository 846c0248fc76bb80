//! Slots, through which staged transfers move their chunks, and the configuration of staging.
//!
//! Slots are one [piece of pinned memory](pool) for each direction, and one of [each GPU's](gpu_slots) memory; [admission] shares them
//! fairly among sessions, and [budget] bounds the memory over all executors.

mod admission;
mod budget;
mod config;
mod gpu_slots;
mod pool;
mod pools;

pub use budget::{BudgetStats, StagingBudget};
pub use config::StagingConfig;
pub(crate) use gpu_slots::{GpuMember, GpuSlotPool, GpuSlots};
pub use pool::SlotStats;
pub(crate) use pool::{Member, RegisteredSlots, Slot};
pub(crate) use pools::SlotPools;
