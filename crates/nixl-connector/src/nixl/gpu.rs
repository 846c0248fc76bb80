//! The CUDA context for NIXL's calls: without it current on the thread, UCX takes GPU memory for host memory.

use nixl_device::cuda::{Context, Current};
use nixl_device::{Device, DeviceKind};

/// Makes the context of the first GPU among `devices` current until the guard is dropped. `None` without a GPU among them, or
/// if its context cannot be made: the engine then reports the fault.
pub(super) fn enter(devices: impl IntoIterator<Item = Device>) -> Option<Current> {
    let gpu = devices.into_iter().find(|device| device.kind() == DeviceKind::Cuda)?;
    Context::primary(gpu.index()).ok()?.enter().ok()
}
