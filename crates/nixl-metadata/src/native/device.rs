//! The numbers of devices: a kind, and which one of it. Dynamo's kinds: 1 host, 2 CUDA, 3 XPU.

use nixl_device::{Device, DeviceKind};

/// None for a kind that has no number.
pub(super) const fn to_wire(device: Device) -> Option<(u8, u32)> {
    let kind = match device.kind() {
        DeviceKind::Host => 1,
        DeviceKind::Cuda => 2,
        DeviceKind::Xpu => 3,
        _ => return None,
    };
    Some((kind, device.index()))
}

/// None for a kind that is unknown, and for host memory other than the first.
pub(super) const fn from_wire(kind: u8, index: u32) -> Option<Device> {
    match (kind, index) {
        (1, 0) => Some(Device::HOST),
        (2, index) => Some(Device::cuda(index)),
        (3, index) => Some(Device::xpu(index)),
        _ => None,
    }
}
