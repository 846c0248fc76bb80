//! GPU memory of other allocators, of which no other process can open any.

use std::ffi::{c_int, c_void};
use std::ptr::{self, NonNull};
use std::sync::OnceLock;

use libloading::Library;
use nixl_descriptor::{Access, AllocationKind, Region};
use nixl_device::Device;
use nixl_device::cuda::Context;

/// `CU_MEM_ATTACH_GLOBAL`
const ATTACH_GLOBAL: u32 = 1;
/// `CU_MEM_ALLOCATION_TYPE_PINNED` and `CU_MEM_LOCATION_TYPE_DEVICE`
const PINNED_ON_DEVICE: c_int = 1;
/// `CU_MEM_ACCESS_FLAGS_PROT_READWRITE`
const READ_AND_WRITE: c_int = 3;

/// `CUmemAllocationProp` of memory of a device without a handle type.
#[repr(C)]
struct AllocationProp {
    kind: c_int,
    handle_types: c_int,
    location: [c_int; 2],
    win32: *mut c_void,
    flags: u64,
}

/// `CUmemAccessDesc`
#[repr(C)]
struct AccessDesc {
    location: [c_int; 2],
    flags: c_int,
}

macro_rules! calls {
    ($($name:ident = $symbol:literal ($($kind:ty),*);)*) => {
        struct Calls {
            $($name: unsafe extern "C" fn($($kind),*) -> c_int,)*
        }

        impl Calls {
            fn load() -> Self {
                // SAFETY: the driver's initialisers may run at any time.
                let library = unsafe { Library::new("libcuda.so.1") }.unwrap();
                let calls = Self {
                    // SAFETY: the type is the symbol's signature in `cuda.h`, where handles are pointers or 64 bits.
                    $($name: *unsafe { library.get($symbol) }.unwrap(),)*
                };
                // What was found must stay.
                std::mem::forget(library);
                calls
            }
        }
    };
}

calls! {
    alloc_async = b"cuMemAllocAsync\0" (*mut u64, usize, usize);
    alloc_managed = b"cuMemAllocManaged\0" (*mut u64, usize, u32);
    free = b"cuMemFree_v2\0" (u64);
    stream_synchronize = b"cuStreamSynchronize\0" (usize);
    granularity = b"cuMemGetAllocationGranularity\0" (*mut usize, *const AllocationProp, c_int);
    create = b"cuMemCreate\0" (*mut u64, usize, *const AllocationProp, u64);
    reserve = b"cuMemAddressReserve\0" (*mut u64, usize, usize, u64, u64);
    map = b"cuMemMap\0" (u64, usize, usize, u64, u64);
    set_access = b"cuMemSetAccess\0" (u64, usize, *const AccessDesc, usize);
}

fn calls() -> &'static Calls {
    static CALLS: OnceLock<Calls> = OnceLock::new();
    CALLS.get_or_init(Calls::load)
}

/// Memory of a kind on a GPU, allocated as a framework does. That of `cuMemCreate` stays until the process ends.
pub(crate) fn region(kind: AllocationKind, gpu: u32, len: usize) -> Region {
    let context = Context::primary(gpu).unwrap();
    let _current = context.enter().unwrap();
    let calls = calls();
    let mut address = 0;
    match kind {
        AllocationKind::Pool => {
            // SAFETY: the address is written during the call only; the default stream exists.
            assert_eq!(unsafe { (calls.alloc_async)(&raw mut address, len, 0) }, 0);
            // SAFETY: as above.
            assert_eq!(unsafe { (calls.stream_synchronize)(0) }, 0);
        }
        AllocationKind::Managed => {
            // SAFETY: the address is written during the call only.
            let code = unsafe { (calls.alloc_managed)(&raw mut address, len, ATTACH_GLOBAL) };
            assert_eq!(code, 0);
        }
        AllocationKind::Virtual => address = mapped(calls, gpu, len),
        other => panic!("{other} is nixl-device's"),
    }
    let base = NonNull::new(address as *mut u8).unwrap();
    let is_freed = kind != AllocationKind::Virtual;
    let owner = Owner { context, address: is_freed.then_some(address) };
    // SAFETY: the owner has `len` bytes of this GPU at `base` until it is dropped, and nothing else uses them.
    unsafe { Region::from_raw_parts(base, len, Device::cuda(gpu), Access::ReadWrite, owner) }
        .unwrap()
}

fn mapped(calls: &Calls, gpu: u32, len: usize) -> u64 {
    let location = [PINNED_ON_DEVICE, gpu as c_int];
    let (kind, win32) = (PINNED_ON_DEVICE, ptr::null_mut());
    let prop = AllocationProp { kind, handle_types: 0, location, win32, flags: 0 };
    let (mut unit, mut address, mut handle) = (0, 0, 0);
    // SAFETY: all pointers are to live variables, used during the call only.
    assert_eq!(unsafe { (calls.granularity)(&raw mut unit, &raw const prop, 0) }, 0);
    let len = len.next_multiple_of(unit);
    // SAFETY: as above.
    assert_eq!(unsafe { (calls.reserve)(&raw mut address, len, 0, 0, 0) }, 0);
    // SAFETY: as above.
    assert_eq!(unsafe { (calls.create)(&raw mut handle, len, &raw const prop, 0) }, 0);
    // SAFETY: the range was reserved, and is as long as the allocation.
    assert_eq!(unsafe { (calls.map)(address, len, 0, handle, 0) }, 0);
    let access = AccessDesc { location, flags: READ_AND_WRITE };
    // SAFETY: the range is mapped; the description is used during the call only.
    assert_eq!(unsafe { (calls.set_access)(address, len, &raw const access, 1) }, 0);
    address
}

struct Owner {
    context: Context,
    address: Option<u64>,
}

impl Drop for Owner {
    fn drop(&mut self) {
        if let (Some(address), Ok(_current)) = (self.address, self.context.enter()) {
            // SAFETY: allocated by `region`, whose last use is over. It frees memory of pools, too.
            let _ = unsafe { (calls().free)(address) };
        }
    }
}
