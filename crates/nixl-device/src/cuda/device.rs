//! CUDA devices and their properties.

use std::ffi::{CStr, c_char};
use std::fmt;

use serde::{Serialize, Serializer};

use super::api::{Api, DeviceNumber};
use super::driver::Driver;
use super::error::{CudaError, DeviceError};
use super::gpu_direct::GpuDirectAttributes;
use super::nvml::Nvml;
use super::probe::loaded;
use crate::system::Topology;
use crate::system::pci::PciAddress;

/// A CUDA device. Being described, it takes no memory and has no context.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct CudaDevice {
    pub(crate) ordinal: u32,
    uuid: DeviceUuid,
    name: String,
    pub(crate) pci: Option<PciAddress>,
    numa_node: Option<u32>,
    total_memory: u64,
    free_memory: Option<u64>,
    compute_capability: (u32, u32),
    multiprocessors: u32,
    copy_engines: u32,
    pub(crate) gpu_direct: GpuDirectAttributes,
}

impl CudaDevice {
    /// Its number in this process, as in `cuda:N`.
    #[must_use]
    pub fn ordinal(&self) -> u32 {
        self.ordinal
    }

    /// Names it on every machine and in every process.
    #[must_use]
    pub fn uuid(&self) -> DeviceUuid {
        self.uuid
    }

    /// The name of its model.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Where it is on the PCI bus. `None` if the driver does not report it.
    #[must_use]
    pub fn pci(&self) -> Option<PciAddress> {
        self.pci
    }

    /// The NUMA node it is attached to. `None` if neither the kernel nor the driver reports it.
    #[must_use]
    pub fn numa_node(&self) -> Option<u32> {
        self.numa_node
    }

    /// Bytes of memory.
    #[must_use]
    pub fn total_memory(&self) -> u64 {
        self.total_memory
    }

    /// Bytes that were free when this was read. `None` without NVML; [`Context::memory_info`](super::Context)
    /// tells too.
    #[must_use]
    pub fn free_memory(&self) -> Option<u64> {
        self.free_memory
    }

    /// Compute capability, major and minor: (9, 0) for Hopper.
    #[must_use]
    pub fn compute_capability(&self) -> (u32, u32) {
        self.compute_capability
    }

    /// Streaming multiprocessors.
    #[must_use]
    pub fn multiprocessors(&self) -> u32 {
        self.multiprocessors
    }

    /// How many engines copy while kernels run.
    #[must_use]
    pub fn copy_engines(&self) -> u32 {
        self.copy_engines
    }

    /// What it can do for GPU Direct.
    #[must_use]
    pub fn gpu_direct(&self) -> GpuDirectAttributes {
        self.gpu_direct
    }
}

/// All devices of this process, by ordinal.
///
/// Reads files and queries the driver, which takes milliseconds after the probe. Makes no context.
///
/// # Errors
///
/// [`DeviceError`]
pub fn devices() -> Result<Vec<CudaDevice>, DeviceError> {
    describe_all(loaded()?, &Topology::discover())
}

pub(super) fn describe_all(
    driver: &Driver,
    topology: &Topology,
) -> Result<Vec<CudaDevice>, DeviceError> {
    (0..driver.facts().device_count).map(|ordinal| describe(driver, topology, ordinal)).collect()
}

// Numbers of `CUdevice_attribute`.
pub(super) const MULTIPROCESSOR_COUNT: i32 = 16;
pub(super) const ASYNC_ENGINE_COUNT: i32 = 40;
pub(super) const COMPUTE_CAPABILITY_MAJOR: i32 = 75;
pub(super) const COMPUTE_CAPABILITY_MINOR: i32 = 76;
pub(super) const RDMA_WITH_VIRTUAL_MEMORY: i32 = 110;
const HOST_NUMA_ID: i32 = 134;

fn describe(driver: &Driver, topology: &Topology, ordinal: u32) -> Result<CudaDevice, DeviceError> {
    let device = driver.device(ordinal)?;
    let pci = pci_address(driver, device)?;
    let number = |which| {
        attribute(driver, device, which).and_then(|value| u32::try_from(value).ok()).unwrap_or(0)
    };
    let numa_node = topology
        .gpus
        .iter()
        .find(|gpu| Some(gpu.address) == pci)
        .and_then(|gpu| gpu.numa_node)
        .or_else(|| u32::try_from(attribute(driver, device, HOST_NUMA_ID)?).ok());
    Ok(CudaDevice {
        ordinal,
        uuid: uuid(driver, device)?,
        name: name(driver, device)?,
        pci,
        numa_node,
        total_memory: total_memory(driver, device)?,
        free_memory: pci.and_then(|pci| Nvml::get().ok()?.free_memory(pci)),
        compute_capability: (number(COMPUTE_CAPABILITY_MAJOR), number(COMPUTE_CAPABILITY_MINOR)),
        multiprocessors: number(MULTIPROCESSOR_COUNT),
        copy_engines: number(ASYNC_ENGINE_COUNT),
        gpu_direct: GpuDirectAttributes::read(|which| attribute(driver, device, which)),
    })
}

/// An attribute of a device. `None` if the driver does not know it.
pub(super) fn attribute(driver: &Driver, device: DeviceNumber, which: i32) -> Option<i32> {
    let mut value = 0;
    // SAFETY: the pointer is to a live integer, written during the call only.
    let code = driver
        .functions
        .call(|api| unsafe { (api.device_get_attribute)(&raw mut value, which, device) });
    (code == 0).then_some(value)
}

fn uuid(driver: &Driver, device: DeviceNumber) -> Result<DeviceUuid, CudaError> {
    let mut bytes = [0; 16];
    let code = driver.functions.call(|api| {
        let get = api.device_get_uuid_v2.unwrap_or(api.device_get_uuid);
        // SAFETY: the pointer is to 16 live bytes, written during the call only.
        unsafe { get(&raw mut bytes, device) }
    });
    driver.check("cuDeviceGetUuid", code)?;
    Ok(DeviceUuid(bytes))
}

fn name(driver: &Driver, device: DeviceNumber) -> Result<String, CudaError> {
    text("cuDeviceGetName", driver, |api, buffer, len| {
        // SAFETY: the pointer is to as many live bytes as the length says, written during the call only.
        unsafe { (api.device_get_name)(buffer, len, device) }
    })
}

fn total_memory(driver: &Driver, device: DeviceNumber) -> Result<u64, CudaError> {
    let mut bytes = 0;
    // SAFETY: the pointer is to a live variable, written during the call only.
    let code =
        driver.functions.call(|api| unsafe { (api.device_total_mem)(&raw mut bytes, device) });
    driver.check("cuDeviceTotalMem", code)?;
    Ok(bytes as u64)
}

/// A device's PCI address. `None` if the driver's text is none.
pub(super) fn pci_address(
    driver: &Driver,
    device: DeviceNumber,
) -> Result<Option<PciAddress>, CudaError> {
    let text = text("cuDeviceGetPCIBusId", driver, |api, buffer, len| {
        // SAFETY: the pointer is to as many live bytes as the length says, written during the call only.
        unsafe { (api.device_get_pci_bus_id)(buffer, len, device) }
    })?;
    Ok(text.parse().ok())
}

/// A text that the driver writes into a buffer.
fn text(
    call: &'static str,
    driver: &Driver,
    get: impl FnOnce(&Api, *mut c_char, i32) -> i32,
) -> Result<String, CudaError> {
    const LEN: u8 = 255;
    let mut buffer = [0_u8; LEN as usize + 1];
    let start = buffer.as_mut_ptr().cast();
    let code = driver.functions.call(|api| get(api, start, i32::from(LEN)));
    driver.check(call, code)?;
    Ok(match CStr::from_bytes_until_nul(&buffer) {
        Ok(text) => text.to_string_lossy().into_owned(),
        Err(_) => String::new(),
    })
}

/// Names a device. Printed and serialised as `nvidia-smi` does, for example
/// `GPU-8a5d0f2c-1b5e-6f5d-9a37-3a1f0a0b1c2d`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DeviceUuid([u8; 16]);

impl DeviceUuid {
    /// The bytes.
    #[must_use]
    pub const fn to_bytes(self) -> [u8; 16] {
        self.0
    }
}

impl fmt::Display for DeviceUuid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("GPU")?;
        for (index, byte) in self.0.iter().enumerate() {
            if matches!(index, 0 | 4 | 6 | 8 | 10) {
                f.write_str("-")?;
            }
            write!(f, "{byte:02x}")?;
        }
        Ok(())
    }
}

impl Serialize for DeviceUuid {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

#[cfg(test)]
mod tests {
    use super::super::fake::{self, Fake};
    use super::super::{DeviceMemory, Stream, VirtualMemory};
    use super::*;

    #[test]
    fn devices_are_described() {
        let fake = Fake::new();
        let root = tempfile::tempdir().unwrap();
        let topology = Topology::discover_in(root.path());
        let devices = describe_all(fake.driver(), &topology).unwrap();
        assert_eq!(devices.len(), 2);
        let second = &devices[1];
        assert_eq!(second.ordinal, 1);
        assert_eq!(second.name, "Fake 1");
        assert_eq!(second.pci, "0000:02:00.0".parse().ok());
        assert_eq!(second.uuid.to_string(), "GPU-01010101-0101-0101-0101-010101010101");
        assert_eq!(second.compute_capability, (9, 0));
        assert_eq!((second.multiprocessors, second.copy_engines), (132, 3));
        assert_eq!(second.total_memory, 1 << 30);
        assert_eq!(second.numa_node, None);
        assert_eq!(fake.count("cuDevicePrimaryCtxRetain"), 0);
    }

    #[test]
    fn devices_of_one_gpu_differ_by_the_names_that_the_driver_has_for_parts() {
        unsafe extern "C" fn of_part(out: *mut [u8; 16], device: DeviceNumber) -> i32 {
            // SAFETY: callers pass a live variable.
            unsafe { out.write([0xA0 + device as u8; 16]) };
            0
        }
        let fake = Fake::with(Api { device_get_uuid_v2: Some(of_part), ..fake::api() });
        let root = tempfile::tempdir().unwrap();
        let devices = describe_all(fake.driver(), &Topology::discover_in(root.path())).unwrap();
        let found: Vec<_> = devices.iter().map(|device| device.uuid.to_bytes()).collect();
        assert_eq!(found, [[0xA0; 16], [0xA1; 16]]);
    }

    #[test]
    fn work_on_one_device_makes_no_context_of_another() {
        let fake = Fake::new();
        let root = tempfile::tempdir().unwrap();
        describe_all(fake.driver(), &Topology::discover_in(root.path())).unwrap();
        assert!(fake.contexts().is_empty());
        let context = fake.context(1);
        let memory = VirtualMemory::new(&context, 1).unwrap();
        drop((memory, DeviceMemory::new(&context, 1).unwrap(), Stream::new(&context).unwrap()));
        assert_eq!(fake.contexts(), [1]);
        assert_eq!(fake.count("cuDevicePrimaryCtxRetain"), 1);
    }

    #[test]
    fn a_device_that_cannot_be_described_is_an_error() {
        let fake = Fake::new();
        let root = tempfile::tempdir().unwrap();
        let topology = Topology::discover_in(root.path());
        fake.fail("cuDeviceGetName", 101, 1);
        let error = describe_all(fake.driver(), &topology).unwrap_err();
        assert!(
            matches!(&error, DeviceError::Cuda(error) if error.call == "cuDeviceGetName"),
            "{error:?}"
        );
    }
}
