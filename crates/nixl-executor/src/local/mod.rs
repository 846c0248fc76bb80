//! Copies between memories of this process: KV-cache blocks, lists of ranges, and offers of this process.
//!
//! Nothing here accesses other processes. The re-exports at the end of this file are its interface to the layers above.

mod blocking;
mod error;
mod executor;
mod gpu;
mod host;
mod offers;
mod plan;
mod run;

pub use blocking::shared_pinned;
pub use error::{BlockError, GpuError};
pub use executor::{BlockExecutor, BlockOptions};
pub use gpu::{
    CudaGpus, GpuBackend, GpuEvent, GpuMemoryLimits, GpuStream, SharedHandle, SimulatedGpus,
    StreamHandle, StreamPoint, StreamQueue, TransferBuffer,
};
pub use host::Progress;
pub use offers::DirectExecutor;
pub use plan::{
    BlockCopy, BlockSide, CopyOp, CopyRoute, Cost, Costs, CostsError, GpuCapabilities, MemoryKind,
    Piece, Plan, Strategy, StrategyPolicy,
};
pub use run::BlockPlan;

pub(crate) use blocking::{on_a_thread, thread_error};
pub(crate) use gpu::{NoGpus, allocation_of, kind_of};
pub(crate) use offers::{ProcessOffers, begin, can_access, is_host, is_local};
pub(crate) use plan::{AllocationBoundaries, starts};
pub(crate) use run::{CopyContext, CopyWorkers, ListCopy};
