//! The table of functions and the constants of the driver, held against the bindings that cudarc has of `cuda.h`.
//!
//! Types and numbers alone: no function of cudarc's is called.

use std::alloc::Layout;
use std::collections::BTreeMap;

use cudarc::driver::sys;

use super::{api, attributes, capture, device, error, event, pool_memory, virtual_memory};

/// The sizes and alignments of what a function takes, and of what it returns.
trait Signature {
    fn layouts(self) -> Vec<Layout>;
}

macro_rules! signatures {
    ($(($($argument:ident),*))*) => {
        $(
            impl<R, $($argument),*> Signature for unsafe fn($($argument),*) -> R {
                fn layouts(self) -> Vec<Layout> {
                    vec![$(Layout::new::<$argument>(),)* Layout::new::<R>()]
                }
            }
        )*
    };
}

signatures! {
    () (A) (A, B) (A, B, C) (A, B, C, D) (A, B, C, D, E) (A, B, C, D, E, F)
    (A, B, C, D, E, F, G, H, I, J, K)
}

macro_rules! bindings {
    ($($name:ident($($argument:tt),*);)*) => {
        BTreeMap::from([$(
            (stringify!($name), {
                let function: unsafe fn($($argument),*) -> _ = sys::$name;
                function.layouts()
            }),
        )*])
    };
}

/// Those that `cuda.h` has under another name or signature in some versions, of which the build of cudarc finds one.
const OF_SOME_VERSIONS: [&str; 3] =
    ["cuDeviceGetUuid", "cuMemcpyBatchAsync", "cuMemcpyBatchAsync_v2"];

#[test]
fn functions_take_and_return_what_the_bindings_say() {
    let theirs = bindings! {
        cuInit(_);
        cuDriverGetVersion(_);
        cuDeviceGetCount(_);
        cuGetErrorName(_, _);
        cuDeviceGet(_, _);
        cuDeviceGetName(_, _, _);
        cuDeviceGetAttribute(_, _, _);
        cuDeviceGetPCIBusId(_, _, _);
        cuDeviceTotalMem_v2(_, _);
        cuDeviceCanAccessPeer(_, _, _);
        cuDeviceGetP2PAttribute(_, _, _, _);
        cuDevicePrimaryCtxRetain(_, _);
        cuThreadExchangeStreamCaptureMode(_);
        cuCtxGetCurrent(_);
        cuCtxSetCurrent(_);
        cuCtxSynchronize();
        cuCtxGetStreamPriorityRange(_, _);
        cuCtxEnablePeerAccess(_, _);
        cuMemGetInfo_v2(_, _);
        cuMemAlloc_v2(_, _);
        cuMemFree_v2(_);
        cuMemGetAddressRange_v2(_, _, _);
        cuMemHostAlloc(_, _, _);
        cuMemFreeHost(_);
        cuMemHostRegister_v2(_, _, _);
        cuMemHostUnregister(_);
        cuMemcpyAsync(_, _, _, _);
        cuMemsetD8Async(_, _, _, _);
        cuStreamCreateWithPriority(_, _, _);
        cuStreamDestroy_v2(_);
        cuStreamQuery(_);
        cuStreamSynchronize(_);
        cuStreamWaitEvent(_, _, _);
        cuStreamIsCapturing(_, _);
        cuStreamAddCallback(_, _, _, _);
        cuEventCreate(_, _);
        cuEventDestroy_v2(_);
        cuEventRecord(_, _);
        cuEventQuery(_);
        cuEventSynchronize(_);
        cuIpcGetMemHandle(_, _);
        cuIpcOpenMemHandle_v2(_, _, _);
        cuIpcCloseMemHandle(_);
        cuIpcGetEventHandle(_, _);
        cuIpcOpenEventHandle(_, _);
        cuModuleLoadDataEx(_, _, _, _, _);
        cuModuleUnload(_);
        cuModuleGetFunction(_, _, _);
        cuLaunchKernel(_, _, _, _, _, _, _, _, _, _, _);
        cuPointerGetAttributes(_, _, _, _);
        cuDeviceGetUuid_v2(_, _);
        cuMemPoolExportToShareableHandle(_, _, _, _);
        cuMemPoolImportFromShareableHandle(_, _, _, _);
        cuMemPoolExportPointer(_, _);
        cuMemPoolImportPointer(_, _, _);
        cuMemPoolSetAccess(_, _, _);
        cuMemPoolDestroy(_);
        cuMemGetAllocationGranularity(_, _, _);
        cuMemCreate(_, _, _, _);
        cuMemRetainAllocationHandle(_, _);
        cuMemGetAllocationPropertiesFromHandle(_, _);
        cuMemExportToShareableHandle(_, _, _, _);
        cuMemImportFromShareableHandle(_, _, _);
        cuMemRelease(_);
        cuMemAddressReserve(_, _, _, _, _);
        cuMemAddressFree(_, _);
        cuMemMap(_, _, _, _, _);
        cuMemUnmap(_, _);
        cuMemSetAccess(_, _, _, _);
    };
    let mut compared = 0;
    for (symbol, ours) in api::layouts() {
        let symbol = symbol.to_str().unwrap();
        if !OF_SOME_VERSIONS.contains(&symbol) {
            assert_eq!(theirs.get(symbol), Some(&ours), "{symbol}");
            compared += 1;
        }
    }
    assert_eq!(compared, theirs.len());
}

#[test]
fn error_codes_are_those_of_the_bindings() {
    use sys::CUresult as Code;
    for (ours, theirs) in [
        (error::INVALID_VALUE, Code::CUDA_ERROR_INVALID_VALUE),
        (error::OUT_OF_MEMORY, Code::CUDA_ERROR_OUT_OF_MEMORY),
        (error::NOT_INITIALIZED, Code::CUDA_ERROR_NOT_INITIALIZED),
        (error::NO_DEVICE, Code::CUDA_ERROR_NO_DEVICE),
        (error::INVALID_DEVICE, Code::CUDA_ERROR_INVALID_DEVICE),
        (error::PEER_ACCESS_UNSUPPORTED, Code::CUDA_ERROR_PEER_ACCESS_UNSUPPORTED),
        (error::NOT_READY, Code::CUDA_ERROR_NOT_READY),
        (error::PEER_ACCESS_ALREADY_ENABLED, Code::CUDA_ERROR_PEER_ACCESS_ALREADY_ENABLED),
        (error::NOT_PERMITTED, Code::CUDA_ERROR_NOT_PERMITTED),
        (error::NOT_SUPPORTED, Code::CUDA_ERROR_NOT_SUPPORTED),
        (error::STREAM_CAPTURE_IMPLICIT, Code::CUDA_ERROR_STREAM_CAPTURE_IMPLICIT),
    ] {
        assert_eq!(ours, theirs as i32, "{theirs:?}");
    }
}

#[test]
fn attributes_are_those_of_the_bindings() {
    use sys::CUdevice_attribute as Device;
    use sys::CUpointer_attribute as Pointer;
    let asked = [
        Pointer::CU_POINTER_ATTRIBUTE_MEMORY_TYPE,
        Pointer::CU_POINTER_ATTRIBUTE_IS_MANAGED,
        Pointer::CU_POINTER_ATTRIBUTE_IS_LEGACY_CUDA_IPC_CAPABLE,
        Pointer::CU_POINTER_ATTRIBUTE_RANGE_START_ADDR,
        Pointer::CU_POINTER_ATTRIBUTE_RANGE_SIZE,
        Pointer::CU_POINTER_ATTRIBUTE_ALLOWED_HANDLE_TYPES,
        Pointer::CU_POINTER_ATTRIBUTE_ACCESS_FLAGS,
        Pointer::CU_POINTER_ATTRIBUTE_MEMPOOL_HANDLE,
    ];
    assert_eq!(attributes::ASKED, asked.map(|attribute| attribute as i32));
    let of_mappings = [
        Pointer::CU_POINTER_ATTRIBUTE_ALLOWED_HANDLE_TYPES,
        Pointer::CU_POINTER_ATTRIBUTE_MEMPOOL_HANDLE,
        Pointer::CU_POINTER_ATTRIBUTE_MAPPING_SIZE,
        Pointer::CU_POINTER_ATTRIBUTE_MAPPING_BASE_ADDR,
        Pointer::CU_POINTER_ATTRIBUTE_MEMORY_BLOCK_ID,
    ];
    assert_eq!(virtual_memory::ASKED, of_mappings.map(|attribute| attribute as i32));
    let of_pools = [
        Pointer::CU_POINTER_ATTRIBUTE_BUFFER_ID,
        Pointer::CU_POINTER_ATTRIBUTE_RANGE_START_ADDR,
        Pointer::CU_POINTER_ATTRIBUTE_RANGE_SIZE,
        Pointer::CU_POINTER_ATTRIBUTE_MEMPOOL_HANDLE,
    ];
    assert_eq!(pool_memory::ASKED, of_pools.map(|attribute| attribute as i32));
    assert_eq!(attributes::HOST, sys::CUmemorytype::CU_MEMORYTYPE_HOST as u64);
    assert_eq!(attributes::READ, sys::CUmemAccess_flags::CU_MEM_ACCESS_FLAGS_PROT_READ as u32);
    for (ours, theirs) in [
        (device::MULTIPROCESSOR_COUNT, Device::CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT),
        (device::ASYNC_ENGINE_COUNT, Device::CU_DEVICE_ATTRIBUTE_ASYNC_ENGINE_COUNT),
        (device::COMPUTE_CAPABILITY_MAJOR, Device::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR),
        (device::COMPUTE_CAPABILITY_MINOR, Device::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR),
        (
            device::RDMA_WITH_VIRTUAL_MEMORY,
            Device::CU_DEVICE_ATTRIBUTE_GPU_DIRECT_RDMA_WITH_CUDA_VMM_SUPPORTED,
        ),
    ] {
        assert_eq!(ours, theirs as i32, "{theirs:?}");
    }
}

#[test]
fn flags_are_those_of_the_bindings() {
    use sys::CUevent_flags as Event;
    let descriptor = sys::CUmemAllocationHandleType::CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR;
    let access = sys::CUmemAccess_flags::CU_MEM_ACCESS_FLAGS_PROT_READWRITE;
    assert_eq!(virtual_memory::DESCRIPTOR, descriptor.0);
    assert_eq!(virtual_memory::READ_AND_WRITE, access as u32);
    assert_eq!(virtual_memory::FABRIC, sys::CUmemAllocationHandleType::CU_MEM_HANDLE_TYPE_FABRIC.0);
    assert_eq!(size_of::<api::PointerBytes>(), size_of::<sys::CUmemPoolPtrExportData>());
    let on_device = sys::CUmemLocationType::CU_MEM_LOCATION_TYPE_DEVICE;
    assert_eq!(virtual_memory::ON_DEVICE, on_device as u32);
    let properties = std::mem::offset_of!(sys::CUmemAllocationProp, location);
    assert_eq!(std::mem::offset_of!(api::AllocationProperties, location), properties);
    assert_eq!(size_of::<api::AllocationProperties>(), size_of::<sys::CUmemAllocationProp>());
    let flags = std::mem::offset_of!(sys::CUmemAllocationProp, allocFlags);
    assert_eq!(std::mem::offset_of!(api::AllocationProperties, flags), flags);
    let capable =
        std::mem::offset_of!(sys::CUmemAllocationProp_st__bindgen_ty_1, gpuDirectRDMACapable);
    assert_eq!(virtual_memory::RDMA_CAPABLE, capable);
    let pinned = sys::CUmemAllocationType::CU_MEM_ALLOCATION_TYPE_PINNED;
    assert_eq!(virtual_memory::PINNED, pinned as u32);
    let minimum = sys::CUmemAllocationGranularity_flags::CU_MEM_ALLOC_GRANULARITY_MINIMUM;
    assert_eq!(virtual_memory::MINIMUM, minimum as u32);
    assert_eq!(size_of::<api::AccessDescription>(), size_of::<sys::CUmemAccessDesc>());
    let relaxed = sys::CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_RELAXED;
    assert_eq!(capture::RELAXED, relaxed as i32);
    for (ours, theirs) in [
        (event::BLOCKING_SYNC, Event::CU_EVENT_BLOCKING_SYNC),
        (event::DISABLE_TIMING, Event::CU_EVENT_DISABLE_TIMING),
        (event::INTERPROCESS, Event::CU_EVENT_INTERPROCESS),
    ] {
        assert_eq!(ours, theirs as u32, "{theirs:?}");
    }
}
