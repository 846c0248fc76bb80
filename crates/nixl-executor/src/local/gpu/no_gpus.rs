//! The GPU back end of a machine without GPUs.
#![allow(unsafe_code, reason = "implements a trait that is trusted with memory")]

use nixl_descriptor::Region;
use nixl_device::{Device, SharedError};

use super::gpu_backend::{GpuBackend, GpuStream, TransferBuffer};
use crate::local::plan::strategy::GpuCapabilities;
use crate::local::{GpuError, MemoryKind};

/// No GPUs: all memory is the host's, and pageable.
#[derive(Debug, Default)]
pub(crate) struct NoGpus(GpuCapabilities);

impl NoGpus {
    fn none<T>(ordinal: u32) -> Result<T, GpuError> {
        Err(GpuError::NoDevice { ordinal, reason: SharedError::text("this process has no GPU") })
    }
}

// SAFETY: it gives out no memory, stream or event. The processor reaches memory of a host region; GPUs that a region may name
// do not exist by `capabilities`, so no strategy uses one.
unsafe impl GpuBackend for NoGpus {
    fn capabilities(&self) -> &GpuCapabilities {
        &self.0
    }

    fn memory_kind(&self, device: Device, _: u64) -> MemoryKind {
        match device.is_host() {
            true => MemoryKind::Pageable,
            false => MemoryKind::Gpu(device.index()),
        }
    }

    fn create_stream(&self, gpu: u32) -> Result<Box<dyn GpuStream>, GpuError> {
        Self::none(gpu)
    }

    fn pinned(&self, gpu: u32, _: usize) -> Result<Box<dyn TransferBuffer>, GpuError> {
        Self::none(gpu)
    }

    fn pinned_region(&self, gpu: u32, _: usize) -> Result<Region, GpuError> {
        Self::none(gpu)
    }

    fn scratch(&self, gpu: u32, _: usize) -> Result<Box<dyn TransferBuffer>, GpuError> {
        Self::none(gpu)
    }
}
