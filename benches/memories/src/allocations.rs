//! GPU memory as frameworks allocate it: of the driver's pool, of the VMM API, and managed.
#![allow(unsafe_code, reason = "the driver's functions, and regions of what they allocate")]

use std::ffi::{c_int, c_void};
use std::ptr::{self, NonNull};
use std::sync::OnceLock;

use anyhow::{Context as _, Result, anyhow, bail};
use libloading::Library;
use nixl_descriptor::{Access, Region};
use nixl_device::Device;
use nixl_device::cuda::Context;

type Address = u64;
type Stream = *mut c_void;

/// `CUmemAllocationProp` and `CUmemAccessDesc` begin with these fields.
const PINNED_ON_DEVICE: c_int = 1;
const READ_AND_WRITE: c_int = 3;

/// `CUmemAllocationProp` of memory of a device.
#[repr(C)]
struct AllocationProp {
    kind: c_int,
    handle_types: c_int,
    location: Location,
    win32: *mut c_void,
    flags: u64,
}

/// `CUmemLocation`
#[repr(C)]
#[derive(Clone, Copy)]
struct Location {
    kind: c_int,
    id: c_int,
}

/// `CUmemAccessDesc`
#[repr(C)]
struct AccessDesc {
    location: Location,
    flags: c_int,
}

macro_rules! functions {
    ($($name:ident = $symbol:literal ($($kind:ty),*);)*) => {
        struct Functions {
            $($name: unsafe extern "C" fn($($kind),*) -> c_int,)*
        }

        impl Functions {
            fn load() -> Result<Self> {
                // SAFETY: the driver is made to be loaded at any time.
                let library = unsafe { Library::new("libcuda.so.1") }?;
                let functions = Self {
                    // SAFETY: the type is the symbol's signature in `cuda.h`, where handles are pointers or 64 bits.
                    $($name: *unsafe { library.get($symbol) }?,)*
                };
                // What was found must stay.
                std::mem::forget(library);
                Ok(functions)
            }
        }
    };
}

functions! {
    alloc_async = b"cuMemAllocAsync\0" (*mut Address, usize, Stream);
    alloc_managed = b"cuMemAllocManaged\0" (*mut Address, usize, u32);
    free = b"cuMemFree_v2\0" (Address);
    free_async = b"cuMemFreeAsync\0" (Address, Stream);
    stream_synchronize = b"cuStreamSynchronize\0" (Stream);
    granularity = b"cuMemGetAllocationGranularity\0" (*mut usize, *const AllocationProp, c_int);
    create = b"cuMemCreate\0" (*mut u64, usize, *const AllocationProp, u64);
    reserve = b"cuMemAddressReserve\0" (*mut Address, usize, usize, Address, u64);
    map = b"cuMemMap\0" (Address, usize, usize, u64, u64);
    set_access = b"cuMemSetAccess\0" (Address, usize, *const AccessDesc, usize);
    unmap = b"cuMemUnmap\0" (Address, usize);
    release = b"cuMemRelease\0" (u64);
    address_free = b"cuMemAddressFree\0" (Address, usize);
}

fn functions() -> Result<&'static Functions> {
    static FUNCTIONS: OnceLock<Result<Functions, String>> = OnceLock::new();
    let functions = FUNCTIONS.get_or_init(|| Functions::load().map_err(|e| format!("{e:#}")));
    functions.as_ref().map_err(|reason| anyhow!("the driver lacks a function: {reason}"))
}

fn check(call: &str, code: c_int) -> Result<()> {
    match code {
        0 => Ok(()),
        code => bail!("{call} failed with error {code}"),
    }
}

/// Memory of the driver's pool, as of `cudaMallocAsync`.
pub(crate) fn pool(context: &Context, gpu: u32, len: usize) -> Result<Region> {
    let (functions, _current) = (functions()?, context.enter()?);
    let mut address = 0;
    // SAFETY: the address is written during the call only; the default stream exists.
    check("cuMemAllocAsync", unsafe {
        (functions.alloc_async)(&raw mut address, len, ptr::null_mut())
    })?;
    let owner = Pooled { context: *context, address };
    // SAFETY: as above. Afterwards the memory is there for all streams.
    check("cuStreamSynchronize", unsafe { (functions.stream_synchronize)(ptr::null_mut()) })?;
    region(address, gpu, len, owner)
}

/// Managed memory, which lies on the GPU once that has written it.
pub(crate) fn managed(context: &Context, gpu: u32, len: usize) -> Result<Region> {
    /// `CU_MEM_ATTACH_GLOBAL`
    const ATTACH_GLOBAL: u32 = 1;
    let (functions, _current) = (functions()?, context.enter()?);
    let mut address = 0;
    // SAFETY: the address is written during the call only.
    check("cuMemAllocManaged", unsafe {
        (functions.alloc_managed)(&raw mut address, len, ATTACH_GLOBAL)
    })?;
    region(address, gpu, len, Managed { context: *context, address })
}

/// `CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR`
pub(crate) const DESCRIPTOR: c_int = 1;

/// Memory of the VMM API with these types of handle; without any, as that of PyTorch's expandable segments.
pub(crate) fn vmm(context: &Context, gpu: u32, len: usize, handle_types: c_int) -> Result<Region> {
    let (functions, _current) = (functions()?, context.enter()?);
    let location = Location { kind: PINNED_ON_DEVICE, id: gpu as c_int };
    let prop = AllocationProp {
        kind: PINNED_ON_DEVICE,
        handle_types,
        location,
        win32: ptr::null_mut(),
        flags: 0,
    };
    let mut unit = 0;
    // SAFETY: all pointers are to live variables, used during the call only.
    check("cuMemGetAllocationGranularity", unsafe {
        (functions.granularity)(&raw mut unit, &raw const prop, 0)
    })?;
    let whole = len.next_multiple_of(unit.max(1));
    let mut mapped =
        Mapped { context: *context, address: 0, handle: None, len: whole, is_mapped: false };
    // SAFETY: as above.
    check("cuMemAddressReserve", unsafe {
        (functions.reserve)(&raw mut mapped.address, whole, 0, 0, 0)
    })?;
    let mut handle = 0;
    // SAFETY: as above.
    check("cuMemCreate", unsafe {
        (functions.create)(&raw mut handle, whole, &raw const prop, 0)
    })?;
    mapped.handle = Some(handle);
    // SAFETY: the range was reserved, and is as long as the allocation.
    check("cuMemMap", unsafe { (functions.map)(mapped.address, whole, 0, handle, 0) })?;
    mapped.is_mapped = true;
    let access = AccessDesc { location, flags: READ_AND_WRITE };
    // SAFETY: the range is mapped; the description is used during the call only.
    check("cuMemSetAccess", unsafe {
        (functions.set_access)(mapped.address, whole, &raw const access, 1)
    })?;
    region(mapped.address, gpu, len, mapped)
}

fn region(
    address: Address,
    gpu: u32,
    len: usize,
    owner: impl std::any::Any + Send + Sync,
) -> Result<Region> {
    let base = NonNull::new(address as *mut u8).context("the driver allocated nothing")?;
    // SAFETY: the owner has `len` bytes of this GPU at `base` until it is dropped, and nothing else uses them.
    Ok(unsafe { Region::from_raw_parts(base, len, Device::cuda(gpu), Access::ReadWrite, owner) }?)
}

struct Pooled {
    context: Context,
    address: Address,
}

impl Drop for Pooled {
    fn drop(&mut self) {
        let (Ok(functions), Ok(_current)) = (functions(), self.context.enter()) else { return };
        // SAFETY: allocated by `pool`; the region's last use is over.
        let _ = unsafe { (functions.free_async)(self.address, ptr::null_mut()) };
    }
}

struct Managed {
    context: Context,
    address: Address,
}

impl Drop for Managed {
    fn drop(&mut self) {
        let (Ok(functions), Ok(_current)) = (functions(), self.context.enter()) else { return };
        // SAFETY: allocated by `managed`; the region's last use is over.
        let _ = unsafe { (functions.free)(self.address) };
    }
}

struct Mapped {
    context: Context,
    address: Address,
    handle: Option<u64>,
    len: usize,
    is_mapped: bool,
}

impl Drop for Mapped {
    fn drop(&mut self) {
        let (Ok(functions), Ok(_current)) = (functions(), self.context.enter()) else { return };
        if self.is_mapped {
            // SAFETY: mapped by `vmm`; the region's last use is over.
            let _ = unsafe { (functions.unmap)(self.address, self.len) };
        }
        if let Some(handle) = self.handle {
            // SAFETY: created by `vmm`, and not mapped any more.
            let _ = unsafe { (functions.release)(handle) };
        }
        if self.address != 0 {
            // SAFETY: reserved by `vmm`, and nothing is mapped there any more.
            let _ = unsafe { (functions.address_free)(self.address, self.len) };
        }
    }
}
