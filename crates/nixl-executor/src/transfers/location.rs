//! The location of one side's memory: the host, or one GPU of this process.

use nixl_descriptor::DescriptorList;
use nixl_device::Device;
use nixl_ops::TransportError;

use crate::local::{GpuBackend, can_access};
use crate::sessions::failed;

/// Where one side's memory is.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum MemoryLocation {
    Host,
    Gpu(u32),
}

impl MemoryLocation {
    /// Where all of a list is.
    ///
    /// # Errors
    ///
    /// It is of several devices, or of one that is not here.
    pub(super) fn of(list: &DescriptorList, gpus: &dyn GpuBackend) -> Result<Self, TransportError> {
        let mut devices = list.iter().map(|d| d.device());
        let first = devices.next().unwrap_or(Device::HOST);
        if devices.any(|device| device != first) {
            let reason = "one operation cannot mix memory of several devices on one side; split it";
            return Err(failed("begin", reason));
        }
        match first {
            device if device.is_host() => Ok(Self::Host),
            device if can_access(gpus, device) => Ok(Self::Gpu(device.index())),
            device => Err(failed("begin", format!("there is no {device} here"))),
        }
    }
}
