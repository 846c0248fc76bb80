//! Facts from NVIDIA's management library (NVML). It is optional: the facts are unknown without it.

use std::ffi::{CString, c_char};
use std::mem::ManuallyDrop;
use std::sync::OnceLock;

use libloading::Library;

use super::api::symbol;
use crate::system::pci::PciAddress;
use crate::system::process::enter_libraries;

/// `nvmlDevice_t`.
type Handle = usize;

/// `nvmlMemory_t`.
#[derive(Default)]
#[repr(C)]
struct Memory {
    total: u64,
    free: u64,
    used: u64,
}

/// The functions. Each returns an `nvmlReturn_t`, 0 for success.
pub(super) struct Nvml {
    handle_by_pci: unsafe extern "C" fn(*const c_char, *mut Handle) -> i32,
    p2p_status: unsafe extern "C" fn(Handle, Handle, i32, *mut i32) -> i32,
    memory_info: unsafe extern "C" fn(Handle, *mut Memory) -> i32,
}

/// How two devices are linked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum LinkKind {
    Nvidia,
    Pcie,
    None,
}

impl Nvml {
    /// The library, loaded and initialised once; or why it is not there.
    pub(super) fn get() -> Result<&'static Self, &'static str> {
        static NVML: OnceLock<Result<Nvml, String>> = OnceLock::new();
        NVML.get_or_init(Self::load).as_ref().map_err(String::as_str)
    }

    fn load() -> Result<Self, String> {
        const NAME: &str = "libnvidia-ml.so.1";
        let _at_work = enter_libraries().ok_or("a thread held a lock of the loader at the fork")?;
        // SAFETY: as for the driver's library, of which this is a part.
        let library = unsafe { Library::new(NAME) }.map_err(|_| format!("there is no {NAME}"))?;
        // Never closed: it may have threads of its own.
        let library = ManuallyDrop::new(library);
        let missing = || format!("{NAME} lacks a function");
        // SAFETY: the signature is `nvmlReturn_t nvmlInit_v2(void)`.
        let init = unsafe { symbol::<unsafe extern "C" fn() -> i32>(&library, c"nvmlInit_v2") }
            .ok_or_else(missing)?;
        let nvml = Self {
            // SAFETY: the type is the signature in `nvml.h`, where handles are pointers.
            handle_by_pci: unsafe { symbol(&library, c"nvmlDeviceGetHandleByPciBusId_v2") }
                .ok_or_else(missing)?,
            // SAFETY: as above, and enumerations have the size of an int.
            p2p_status: unsafe { symbol(&library, c"nvmlDeviceGetP2PStatus") }
                .ok_or_else(missing)?,
            // SAFETY: as above.
            memory_info: unsafe { symbol(&library, c"nvmlDeviceGetMemoryInfo") }
                .ok_or_else(missing)?,
        };
        // SAFETY: takes nothing, and may be called from any thread.
        match unsafe { init() } {
            0 => Ok(nvml),
            code => Err(format!("nvmlInit failed with code {code}")),
        }
    }

    fn device(&self, address: PciAddress) -> Option<Handle> {
        let address = CString::new(address.to_string()).ok()?;
        let mut handle = 0;
        // SAFETY: the text ends in zero; the pointer is to a live variable, written during the call only.
        let code = unsafe { (self.handle_by_pci)(address.as_ptr(), &raw mut handle) };
        (code == 0).then_some(handle)
    }

    /// The type of link between two devices; `None` if it is unknown.
    pub(super) fn link(&self, a: PciAddress, b: PciAddress) -> Option<LinkKind> {
        const NVLINK: i32 = 2;
        const PCI: i32 = 4;
        let (a, b) = (self.device(a)?, self.device(b)?);
        let has = |capability| {
            let mut status = -1;
            // SAFETY: the handles are the library's own; the pointer is to a live variable, written during the call
            // only.
            let code = unsafe { (self.p2p_status)(a, b, capability, &raw mut status) };
            (code == 0).then_some(status == 0)
        };
        match (has(NVLINK), has(PCI)) {
            (Some(true), _) => Some(LinkKind::Nvidia),
            (Some(false), Some(true)) => Some(LinkKind::Pcie),
            (Some(false), Some(false)) => Some(LinkKind::None),
            _ => None,
        }
    }

    /// Free bytes of a device, without making a context on it.
    pub(super) fn free_memory(&self, address: PciAddress) -> Option<u64> {
        let device = self.device(address)?;
        let mut memory = Memory::default();
        // SAFETY: as above.
        let code = unsafe { (self.memory_info)(device, &raw mut memory) };
        (code == 0).then_some(memory.free)
    }
}
