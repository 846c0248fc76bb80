//! Executions of plans: on streams of a GPU, through a ring of pinned slots, or on threads of the host.

pub(crate) mod block_plan;
pub(crate) mod execution;
pub(crate) mod groups;
mod host_list;
mod list;
mod packed;
mod ring;
mod ring_driver;

pub use block_plan::BlockPlan;
pub(crate) use execution::CopyWorkers;
pub(crate) use list::{CopyContext, ListCopy};
