//! GPUs behind one trait: those of the driver, simulated ones, and none.

mod allocation;
mod cuda;
pub(crate) mod gpu_backend;
mod kind_of;
mod memory_limits;
mod no_gpus;
mod pieces;
mod simulated;
mod simulated_memory;
mod simulated_pieces;
pub(crate) mod stream_point;
mod table;

pub(crate) use allocation::allocation_of;
pub use cuda::CudaGpus;
pub use gpu_backend::{
    GpuBackend, GpuEvent, GpuStream, SharedHandle, StreamHandle, TransferBuffer,
};
pub(crate) use kind_of::kind_of;
pub use memory_limits::GpuMemoryLimits;
pub(crate) use no_gpus::NoGpus;
pub use simulated::SimulatedGpus;
pub use stream_point::{StreamPoint, StreamQueue};
