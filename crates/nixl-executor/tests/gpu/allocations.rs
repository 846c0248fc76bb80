//! GPU memory as other allocators make it.

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

/// How a framework allocates memory.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Made {
    /// `cuMemAlloc`
    Legacy,
    /// `cuMemAllocAsync`
    Pool,
    /// `cuMemAllocFromPoolAsync`, of a pool with file descriptors
    SharedPool,
    /// `cuMemCreate`
    Virtual,
    /// `cuMemCreate` with file descriptors, three allocations
    SharedVirtual,
    /// `cuMemAllocManaged`
    Managed,
}

impl Made {
    pub(crate) const ALL: [Self; 6] = [
        Self::Legacy,
        Self::Pool,
        Self::SharedPool,
        Self::Virtual,
        Self::SharedVirtual,
        Self::Managed,
    ];

    pub(crate) fn kind(self) -> AllocationKind {
        match self {
            Self::Legacy => AllocationKind::Legacy,
            Self::Pool | Self::SharedPool => AllocationKind::Pool,
            Self::Virtual | Self::SharedVirtual => AllocationKind::Virtual,
            Self::Managed => AllocationKind::Managed,
        }
    }

    /// Whether other processes can open it.
    pub(crate) fn is_shared(self) -> bool {
        matches!(self, Self::Legacy | Self::SharedPool | Self::SharedVirtual)
    }
}

/// `CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR`
const DESCRIPTOR: c_int = 1;

/// `CUmemPoolProps`
#[repr(C)]
struct PoolProps {
    kind: c_int,
    handle_types: c_int,
    location: [c_int; 2],
    win32: *mut c_void,
    max_size: usize,
    rest: [u8; 56],
}

/// `CUmemAllocationProp` of memory of a device.
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
    pool_create = b"cuMemPoolCreate\0" (*mut usize, *const PoolProps);
    alloc_from_pool = b"cuMemAllocFromPoolAsync\0" (*mut u64, usize, usize, usize);
    alloc = b"cuMemAlloc_v2\0" (*mut u64, usize);
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

/// Memory on a GPU, allocated as a framework does. That of `cuMemCreate`, and pools, stay until the process ends.
pub(crate) fn region(made: Made, gpu: u32, len: usize) -> Region {
    let context = Context::primary(gpu).unwrap();
    let _current = context.enter().unwrap();
    let calls = calls();
    let mut address = 0;
    match made {
        Made::Legacy => {
            // SAFETY: the address is written during the call only.
            assert_eq!(unsafe { (calls.alloc)(&raw mut address, len) }, 0);
        }
        Made::SharedPool => {
            let pool = shared_pool(calls, gpu);
            // SAFETY: as above; the pool and the default stream exist.
            assert_eq!(unsafe { (calls.alloc_from_pool)(&raw mut address, len, pool, 0) }, 0);
            // SAFETY: as above.
            assert_eq!(unsafe { (calls.stream_synchronize)(0) }, 0);
        }
        Made::Pool => {
            // SAFETY: the address is written during the call only; the default stream exists.
            assert_eq!(unsafe { (calls.alloc_async)(&raw mut address, len, 0) }, 0);
            // SAFETY: as above.
            assert_eq!(unsafe { (calls.stream_synchronize)(0) }, 0);
        }
        Made::Managed => {
            // SAFETY: the address is written during the call only.
            let code = unsafe { (calls.alloc_managed)(&raw mut address, len, ATTACH_GLOBAL) };
            assert_eq!(code, 0);
        }
        Made::Virtual => address = mapped(calls, gpu, (len, 1), 0),
        Made::SharedVirtual => address = mapped(calls, gpu, (len, 3), DESCRIPTOR),
    }
    let base = NonNull::new(address as *mut u8).unwrap();
    let is_freed = made.kind() != AllocationKind::Virtual;
    let owner = Owner { context, address: is_freed.then_some(address) };
    // SAFETY: the owner has `len` bytes of this GPU at `base` until it is dropped, and nothing else uses them.
    unsafe { Region::from_raw_parts(base, len, Device::cuda(gpu), Access::ReadWrite, owner) }
        .unwrap()
}

/// A pool whose memory other processes open.
fn shared_pool(calls: &Calls, gpu: u32) -> usize {
    let location = [PINNED_ON_DEVICE, gpu as c_int];
    let (kind, win32, max_size, rest) = (PINNED_ON_DEVICE, ptr::null_mut(), 0, [0; 56]);
    let props = PoolProps { kind, handle_types: DESCRIPTOR, location, win32, max_size, rest };
    let mut pool = 0;
    // SAFETY: both pointers are to live variables, used during the call only.
    assert_eq!(unsafe { (calls.pool_create)(&raw mut pool, &raw const props) }, 0);
    pool
}

/// So many allocations one behind the other.
fn mapped(calls: &Calls, gpu: u32, (len, count): (usize, usize), handle_types: c_int) -> u64 {
    let location = [PINNED_ON_DEVICE, gpu as c_int];
    let (kind, win32) = (PINNED_ON_DEVICE, ptr::null_mut());
    let prop = AllocationProp { kind, handle_types, location, win32, flags: 0 };
    let (mut unit, mut address) = (0, 0);
    // SAFETY: all pointers are to live variables, used during the call only.
    assert_eq!(unsafe { (calls.granularity)(&raw mut unit, &raw const prop, 0) }, 0);
    let piece = len.div_ceil(count).next_multiple_of(unit);
    let len = piece * count;
    // SAFETY: as above.
    assert_eq!(unsafe { (calls.reserve)(&raw mut address, len, 0, 0, 0) }, 0);
    for at in (0..len).step_by(piece) {
        let mut handle = 0;
        // SAFETY: as above.
        assert_eq!(unsafe { (calls.create)(&raw mut handle, piece, &raw const prop, 0) }, 0);
        // SAFETY: the range was reserved, and is as long as the allocation.
        assert_eq!(unsafe { (calls.map)(address + at as u64, piece, 0, handle, 0) }, 0);
    }
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
