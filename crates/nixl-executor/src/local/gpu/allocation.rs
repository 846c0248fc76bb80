//! The look-up of the allocation under a region.
#![allow(unsafe_code, reason = "asserts that a back end looks up the driver's attributes")]

use nixl_descriptor::{GpuAllocation, Region};
use nixl_device::DeviceKind;

use super::gpu_backend::GpuBackend;

/// The allocation under a region of GPU memory, queried from the driver once.
pub(crate) fn allocation_of<'a>(
    gpus: &dyn GpuBackend,
    region: &'a Region,
) -> Option<&'a GpuAllocation> {
    let device = region.device();
    if device.kind() != DeviceKind::Cuda {
        return None;
    }
    let look_up = || {
        let found = gpus.allocation(device.index(), region.address());
        found
            .inspect_err(|error| tracing::debug!(%error, ?region, "memory of an unknown kind"))
            .ok()
    };
    // SAFETY: a back end vouches for its attributes of the memory of a live region.
    unsafe { region.allocation_or_look_up(look_up) }
}
