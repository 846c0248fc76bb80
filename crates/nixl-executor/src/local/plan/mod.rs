//! Plans of copies within this process: a strategy and a cost for each group of bytes.

pub(crate) mod block_copy;
pub(crate) mod boundaries;
pub(crate) mod copy_plan;
pub(crate) mod costs;
pub(crate) mod memory;
pub(crate) mod policy;
pub(crate) mod strategy;

pub use block_copy::{BlockCopy, BlockSide, CopyOp, Piece};
pub(crate) use boundaries::{AllocationBoundaries, starts};
pub use copy_plan::Plan;
pub use costs::{CopyRoute, Cost, Costs, CostsError};
pub use memory::MemoryKind;
pub use policy::StrategyPolicy;
pub use strategy::{GpuCapabilities, Strategy};
