//! The look-up of the allocation under a region.
#![allow(unsafe_code, reason = "asserts that a back end looks up the driver's attributes")]

use std::sync::Arc;

use nixl_descriptor::{AllocationKind, GpuAllocation, Region, SharedPieces};
use nixl_device::DeviceKind;

use super::gpu_backend::GpuBackend;

/// `CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR`
pub(super) const DESCRIPTOR: u32 = 1;
/// With it, `CU_MEM_HANDLE_TYPE_FABRIC`
pub(super) const SHAREABLE: u32 = DESCRIPTOR | 8;

/// The allocation under a region of GPU memory, queried from the driver once.
pub(crate) fn allocation_of<'a>(
    gpus: &dyn GpuBackend,
    region: &'a Region,
) -> Option<&'a GpuAllocation> {
    if region.device().kind() != DeviceKind::Cuda {
        return None;
    }
    // SAFETY: a back end vouches for its attributes of the memory of a live region.
    unsafe { region.allocation_or_look_up(|| look_up(gpus, region)) }
}

fn look_up(
    gpus: &dyn GpuBackend,
    region: &Region,
) -> Option<(GpuAllocation, Option<Arc<SharedPieces>>)> {
    let gpu = region.device().index();
    let found = gpus.allocation(gpu, region.address());
    let found = found
        .inspect_err(|error| tracing::debug!(%error, ?region, "memory of an unknown kind"))
        .ok()?;
    let may_be_shared = match found.kind() {
        AllocationKind::Virtual => found.handle_types() & SHAREABLE != 0,
        // The driver does not tell the types of a pool.
        AllocationKind::Pool => true,
        _ => false,
    };
    if !may_be_shared {
        return Some((found, None));
    }
    // Other paths remain.
    let shared = gpus.share_pieces(gpu, region.address(), region.len() as u64);
    let shared = shared
        .inspect_err(|error| tracing::debug!(%error, ?region, "memory that cannot be shared"));
    Some(match shared {
        Ok((base, pieces)) => (found.in_pieces(base, pieces.handle()), Some(pieces)),
        Err(_) => (found, None),
    })
}
