//! Copies of KV-cache blocks between memories of this process.

mod block_copy;
mod block_plan;
mod boundaries;
mod costs;
mod cuda;
mod error;
mod execution;
mod executor;
mod gpu_backend;
mod groups;
mod host_copy;
mod list;
mod memory;
mod no_gpus;
mod packed;
mod plan;
mod policy;
mod progress;
mod ring;
mod ring_driver;
mod simulated;
mod simulated_memory;
mod strategy;
mod stream_point;
mod streaming;
mod table;

pub use block_copy::{BlockCopy, BlockSide, CopyOp, Piece};
pub use block_plan::BlockPlan;
pub use costs::{CopyRoute, Cost, Costs, CostsError};
pub use cuda::CudaGpus;
pub use error::{BlockError, GpuError};
pub use executor::{BlockExecutor, BlockOptions};
pub use gpu_backend::{
    GpuBackend, GpuEvent, GpuStream, SharedHandle, StreamHandle, TransferBuffer,
};
pub use memory::MemoryKind;
pub use plan::Plan;
pub use policy::StrategyPolicy;
pub use progress::Progress;
pub use simulated::SimulatedGpus;
pub use strategy::{GpuCapabilities, Strategy};
pub use stream_point::{StreamPoint, StreamQueue};

pub(crate) use boundaries::{AllocationBoundaries, starts};
pub(crate) use execution::CopyWorkers;
pub(crate) use list::{CopyContext, ListCopy};
pub(crate) use memory::kind_of;
pub(crate) use no_gpus::NoGpus;
