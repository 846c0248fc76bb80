//! The driver's functions, found once and called by address.
//!
//! Every function returns a `CUresult`, kept as a number because a driver may be newer than any list of its codes.
//! Opaque handles are kept as numbers too: they have the size and the calling convention of the pointers they are, and
//! nothing here may follow them.

#[cfg(test)]
use std::alloc::Layout;
use std::ffi::{CStr, c_char, c_void};
use std::mem::ManuallyDrop;

use libloading::Library;

use super::unavailable::CudaUnavailable;

/// `CUcontext`, `CUstream`, `CUevent`, `CUmodule` or `CUfunction`.
pub(super) type Handle = usize;
/// `CUdeviceptr`. With unified addressing, which every 64-bit system has, host pointers are such addresses too.
pub(super) type Address = u64;
/// `CUdevice`.
pub(super) type DeviceNumber = i32;

/// `CUstreamCallback`.
pub(super) type StreamCallback =
    unsafe extern "C" fn(stream: Handle, status: i32, data: *mut c_void);

/// `CUipcMemHandle` and `CUipcEventHandle`: 64 bytes, passed by value.
#[derive(Clone, Copy)]
#[repr(C)]
pub(super) struct IpcBytes(pub(super) [u8; 64]);

/// `CUmemLocation`. All zero means no hint.
#[derive(Clone, Copy, Default)]
#[repr(C)]
pub(super) struct MemLocation {
    pub(super) kind: u32,
    pub(super) id: i32,
}

/// `CUmemcpyAttributes`.
#[derive(Clone, Copy)]
#[repr(C)]
pub(super) struct CopyAttributes {
    pub(super) source_access_order: u32,
    pub(super) source_hint: MemLocation,
    pub(super) destination_hint: MemLocation,
    pub(super) flags: u32,
}

/// `CUmemPoolPtrExportData` and `CUmemFabricHandle`.
pub(super) type PointerBytes = [u8; 64];

/// `CUmemGenericAllocationHandle`: a physical allocation.
pub(super) type AllocationHandle = u64;

/// `CUmemAllocationProp`.
#[derive(Clone, Copy)]
#[repr(C)]
pub(super) struct AllocationProperties {
    pub(super) kind: u32,
    pub(super) handle_types: u32,
    pub(super) location: MemLocation,
    pub(super) windows: usize,
    /// Compression, GPUDirect RDMA, usage (2 bytes), and bytes that must be zero.
    pub(super) flags: [u8; 8],
}

/// `CUmemAccessDesc`.
#[derive(Clone, Copy)]
#[repr(C)]
pub(super) struct AccessDescription {
    pub(super) location: MemLocation,
    pub(super) flags: u32,
}

macro_rules! api {
    (
        required { $($field:ident = $symbol:literal ($($kind:ty),* $(,)?);)* }
        optional { $($maybe:ident = $maybe_symbol:literal ($($maybe_kind:ty),* $(,)?);)* }
    ) => {
        /// The functions. Each has the signature that `cuda.h` gives for its symbol. They are called through
        /// [`Functions`](super::functions::Functions) alone.
        #[derive(Clone)]
        pub(super) struct Api {
            $(pub(super) $field: unsafe extern "C" fn($($kind),*) -> i32,)*
            $(pub(super) $maybe: Option<unsafe extern "C" fn($($maybe_kind),*) -> i32>,)*
        }

        /// The sizes and alignments of what each function takes, and of what it returns.
        #[cfg(test)]
        pub(super) fn layouts() -> Vec<(&'static CStr, Vec<Layout>)> {
            vec![
                $(($symbol, vec![$(Layout::new::<$kind>(),)* Layout::new::<i32>()]),)*
                $(($maybe_symbol, vec![$(Layout::new::<$maybe_kind>(),)* Layout::new::<i32>()]),)*
            ]
        }

        fn resolve(library: &ManuallyDrop<Library>) -> Result<Api, CudaUnavailable> {
            Ok(Api {
                $($field: {
                    // SAFETY: the type is the symbol's signature in `cuda.h`, where handles are pointers and
                    // enumerations have the size of an int. The library is never closed.
                    let found = unsafe { symbol(library, $symbol) };
                    found.ok_or_else(|| missing($symbol))?
                },)*
                // SAFETY: as above.
                $($maybe: unsafe { symbol(library, $maybe_symbol) },)*
            })
        }
    };
}

api! {
    required {
        init = c"cuInit" (u32);
        driver_get_version = c"cuDriverGetVersion" (*mut i32);
        device_get_count = c"cuDeviceGetCount" (*mut i32);
        get_error_name = c"cuGetErrorName" (i32, *mut *const c_char);

        device_get = c"cuDeviceGet" (*mut DeviceNumber, i32);
        device_get_name = c"cuDeviceGetName" (*mut c_char, i32, DeviceNumber);
        device_get_uuid = c"cuDeviceGetUuid" (*mut [u8; 16], DeviceNumber);
        device_get_attribute = c"cuDeviceGetAttribute" (*mut i32, i32, DeviceNumber);
        device_get_pci_bus_id = c"cuDeviceGetPCIBusId" (*mut c_char, i32, DeviceNumber);
        device_total_mem = c"cuDeviceTotalMem_v2" (*mut usize, DeviceNumber);
        device_can_access_peer = c"cuDeviceCanAccessPeer" (*mut i32, DeviceNumber, DeviceNumber);
        device_get_p2p_attribute = c"cuDeviceGetP2PAttribute" (*mut i32, i32, DeviceNumber, DeviceNumber);
        device_primary_ctx_retain = c"cuDevicePrimaryCtxRetain" (*mut Handle, DeviceNumber);

        // Since 10.1. The new mode, in place of which it leaves the one before.
        thread_exchange_stream_capture_mode = c"cuThreadExchangeStreamCaptureMode" (*mut i32);

        ctx_get_current = c"cuCtxGetCurrent" (*mut Handle);
        ctx_set_current = c"cuCtxSetCurrent" (Handle);
        ctx_synchronize = c"cuCtxSynchronize" ();
        ctx_get_stream_priority_range = c"cuCtxGetStreamPriorityRange" (*mut i32, *mut i32);
        ctx_enable_peer_access = c"cuCtxEnablePeerAccess" (Handle, u32);

        mem_get_info = c"cuMemGetInfo_v2" (*mut usize, *mut usize);
        mem_alloc = c"cuMemAlloc_v2" (*mut Address, usize);
        mem_free = c"cuMemFree_v2" (Address);
        mem_get_address_range = c"cuMemGetAddressRange_v2" (*mut Address, *mut usize, Address);
        mem_host_alloc = c"cuMemHostAlloc" (*mut *mut c_void, usize, u32);
        mem_free_host = c"cuMemFreeHost" (*mut c_void);
        mem_host_register = c"cuMemHostRegister_v2" (*mut c_void, usize, u32);
        mem_host_unregister = c"cuMemHostUnregister" (*mut c_void);

        memcpy_async = c"cuMemcpyAsync" (Address, Address, usize, Handle);
        memset_d8_async = c"cuMemsetD8Async" (Address, u8, usize, Handle);

        stream_create_with_priority = c"cuStreamCreateWithPriority" (*mut Handle, u32, i32);
        stream_destroy = c"cuStreamDestroy_v2" (Handle);
        stream_query = c"cuStreamQuery" (Handle);
        stream_synchronize = c"cuStreamSynchronize" (Handle);
        stream_wait_event = c"cuStreamWaitEvent" (Handle, Handle, u32);
        stream_is_capturing = c"cuStreamIsCapturing" (Handle, *mut i32);
        stream_add_callback = c"cuStreamAddCallback" (Handle, StreamCallback, *mut c_void, u32);

        event_create = c"cuEventCreate" (*mut Handle, u32);
        event_destroy = c"cuEventDestroy_v2" (Handle);
        event_record = c"cuEventRecord" (Handle, Handle);
        event_query = c"cuEventQuery" (Handle);
        event_synchronize = c"cuEventSynchronize" (Handle);

        ipc_get_mem_handle = c"cuIpcGetMemHandle" (*mut IpcBytes, Address);
        ipc_open_mem_handle = c"cuIpcOpenMemHandle_v2" (*mut Address, IpcBytes, u32);
        ipc_close_mem_handle = c"cuIpcCloseMemHandle" (Address);
        ipc_get_event_handle = c"cuIpcGetEventHandle" (*mut IpcBytes, Handle);
        ipc_open_event_handle = c"cuIpcOpenEventHandle" (*mut Handle, IpcBytes);

        module_load_data_ex = c"cuModuleLoadDataEx" (*mut Handle, *const c_void, u32, *mut i32, *mut *mut c_void);
        module_unload = c"cuModuleUnload" (Handle);
        module_get_function = c"cuModuleGetFunction" (*mut Handle, Handle, *const c_char);
        launch_kernel = c"cuLaunchKernel" (
            Handle, u32, u32, u32, u32, u32, u32, u32, Handle, *mut *mut c_void, *mut *mut c_void,
        );
    }
    optional {
        // Count, attributes, where each goes, address. Unlike cuPointerGetAttribute it takes unknown addresses.
        pointer_get_attributes = c"cuPointerGetAttributes" (u32, *mut i32, *mut *mut c_void, Address);
        // Of the VMM API. Since 11.0 the one that finds the handle; the others are older.
        mem_get_allocation_granularity = c"cuMemGetAllocationGranularity" (*mut usize, *const AllocationProperties, u32);
        mem_create = c"cuMemCreate" (*mut AllocationHandle, usize, *const AllocationProperties, u64);
        mem_retain_allocation_handle = c"cuMemRetainAllocationHandle" (*mut AllocationHandle, *mut c_void);
        mem_get_allocation_properties = c"cuMemGetAllocationPropertiesFromHandle" (*mut AllocationProperties, AllocationHandle);
        mem_export_handle = c"cuMemExportToShareableHandle" (*mut c_void, AllocationHandle, u32, u64);
        mem_import_handle = c"cuMemImportFromShareableHandle" (*mut AllocationHandle, *mut c_void, u32);
        mem_release = c"cuMemRelease" (AllocationHandle);
        mem_address_reserve = c"cuMemAddressReserve" (*mut Address, usize, usize, Address, u64);
        mem_address_free = c"cuMemAddressFree" (Address, usize);
        mem_map = c"cuMemMap" (Address, usize, usize, AllocationHandle, u64);
        mem_unmap = c"cuMemUnmap" (Address, usize);
        mem_set_access = c"cuMemSetAccess" (Address, usize, *const AccessDescription, usize);
        // Of pools, since 11.2.
        mem_pool_export_handle = c"cuMemPoolExportToShareableHandle" (*mut c_void, Handle, u32, u64);
        mem_pool_import_handle = c"cuMemPoolImportFromShareableHandle" (*mut Handle, *mut c_void, u32, u64);
        mem_pool_export_pointer = c"cuMemPoolExportPointer" (*mut PointerBytes, Address);
        mem_pool_import_pointer = c"cuMemPoolImportPointer" (*mut Address, Handle, *mut PointerBytes);
        mem_pool_set_access = c"cuMemPoolSetAccess" (Handle, *const AccessDescription, usize);
        mem_pool_destroy = c"cuMemPoolDestroy" (Handle);
        // Since 11.4; distinguishes MIG devices of one GPU.
        device_get_uuid_v2 = c"cuDeviceGetUuid_v2" (*mut [u8; 16], DeviceNumber);
        // Since 12.8: destinations, sources, sizes, count, attributes, their first indices, their count, index of the
        // copy at fault, stream.
        memcpy_batch_async = c"cuMemcpyBatchAsync" (
            *const Address, *const Address, *const usize, usize, *const CopyAttributes, *const usize, usize, *mut usize,
            Handle,
        );
        // Since 13.0: the same without the index of the copy at fault.
        memcpy_batch_async_v2 = c"cuMemcpyBatchAsync_v2" (
            *const Address, *const Address, *const usize, usize, *const CopyAttributes, *const usize, usize, Handle,
        );
    }
}

impl Api {
    /// Loads a driver for good: once initialised it has threads of its own, so its code must stay.
    pub(super) fn load(name: &str) -> Result<Self, CudaUnavailable> {
        // SAFETY: loading runs the library's initialisers. The name is the driver's, which is made to be loaded at any
        // time from any thread; an attacker that can replace the library controls the process anyway.
        let library = unsafe { Library::new(name) }
            .map_err(|error| CudaUnavailable::not_found(name, &error))?;
        resolve(&ManuallyDrop::new(library))
    }
}

/// A function of the library; `None` if it has none of this name.
///
/// # Safety
///
/// `F` must be a function pointer of the signature that the symbol has, and the library must never be closed.
pub(super) unsafe fn symbol<F: Copy>(library: &Library, name: &CStr) -> Option<F> {
    // SAFETY: the caller vouches for the type.
    let symbol = unsafe { library.get::<F>(name) };
    symbol.ok().map(|symbol| *symbol)
}

fn missing(name: &CStr) -> CudaUnavailable {
    CudaUnavailable::MissingSymbol { name: name.to_string_lossy().into_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_library_is_an_error_that_names_it() {
        let name = "libnixl-device-has-no-such-library.so.1";
        let error = Api::load(name).err();
        assert!(
            matches!(&error, Some(CudaUnavailable::LibraryNotFound { tried, message }) if tried == name && message.contains(name)),
            "{error:?}"
        );
    }

    #[test]
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    fn a_library_that_is_not_the_driver_is_an_error_that_names_the_symbol() {
        assert_eq!(
            Api::load("libc.so.6").err(),
            Some(CudaUnavailable::MissingSymbol { name: "cuInit".to_owned() })
        );
    }

    #[test]
    fn structures_have_the_layout_that_the_driver_expects() {
        assert_eq!((size_of::<IpcBytes>(), align_of::<IpcBytes>()), (64, 1));
        assert_eq!((size_of::<CopyAttributes>(), align_of::<CopyAttributes>()), (24, 4));
        assert_eq!(size_of::<Handle>(), size_of::<*mut c_void>());
    }
}
