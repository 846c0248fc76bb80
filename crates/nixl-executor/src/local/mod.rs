//! Copies of KV-cache blocks between memories of this process.

mod block_copy;
mod block_plan;
mod costs;
mod cuda;
mod engine;
mod error;
mod execution;
mod executor;
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
mod rings;
mod seams;
mod simulated;
mod simulated_memory;
mod strategy;
mod stream_point;
mod streaming;
mod table;

pub use block_copy::{BlockCopy, BlockSide, CopyOp, Piece};
pub use block_plan::BlockPlan;
pub use costs::{Cost, Costs, CostsError, Route};
pub use cuda::CudaGpus;
pub use engine::{Buffer, Gpus, Lane, Mark, SharedHandle, StreamHandle};
pub use error::{BlockError, GpuError};
pub use executor::{BlockExecutor, BlockOptions};
pub use memory::MemoryKind;
pub use plan::Plan;
pub use policy::StrategyPolicy;
pub use progress::Progress;
pub use simulated::SimulatedGpus;
pub use strategy::{Abilities, Strategy};
pub use stream_point::StreamPoint;

pub(crate) use execution::Threads;
pub(crate) use list::{ListCopy, Tools};
pub(crate) use memory::kind_of;
pub(crate) use no_gpus::NoGpus;
pub(crate) use seams::{Seams, starts};
