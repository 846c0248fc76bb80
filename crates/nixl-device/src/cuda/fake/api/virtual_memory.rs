//! The VMM API of the fake driver.

use std::ffi::c_void;
use std::fs::File;
use std::io::Write as _;
use std::os::fd::{BorrowedFd, IntoRawFd};
use std::os::unix::fs::FileExt as _;

use rustix::fs::MemfdFlags;

use super::super::super::api::{
    AccessDescription, Address, AllocationHandle, AllocationProperties, MemLocation, PointerBytes,
};
use super::super::{call, current_world, put};

/// What a descriptor of an allocation reads as, before the number of the allocation.
const MARK: &[u8; 8] = b"fakegpu:";
const INVALID_VALUE: i32 = 1;
/// Allocations have multiples of so many bytes.
const UNIT: usize = 2 << 20;
/// `CU_MEM_HANDLE_TYPE_FABRIC`
const FABRIC: u32 = 8;
/// `CUDA_ERROR_INVALID_HANDLE`, for a descriptor of something else
const INVALID_HANDLE: i32 = 400;

fn ok(is_ok: bool) -> i32 {
    if is_ok { 0 } else { INVALID_VALUE }
}

pub(super) unsafe extern "C" fn mem_get_allocation_granularity(
    out: *mut usize,
    _: *const AllocationProperties,
    _: u32,
) -> i32 {
    call(current_world(), "cuMemGetAllocationGranularity", |_| put(out, UNIT))
}

pub(super) unsafe extern "C" fn mem_create(
    out: *mut AllocationHandle,
    len: usize,
    properties: *const AllocationProperties,
    _: u64,
) -> i32 {
    // SAFETY: callers pass a live variable.
    let AllocationProperties { kind, handle_types, location, flags, .. } =
        unsafe { properties.read() };
    call(current_world(), "cuMemCreate", |state| {
        if kind != 1 || location.kind != 1 || len == 0 || !len.is_multiple_of(UNIT) {
            return INVALID_VALUE;
        }
        state.created_for_rdma += u64::from(flags[1]);
        put(out, state.physical.create_with_handle(len, handle_types))
    })
}

pub(super) unsafe extern "C" fn mem_retain_allocation_handle(
    out: *mut AllocationHandle,
    address: *mut c_void,
) -> i32 {
    call(current_world(), "cuMemRetainAllocationHandle", |state| {
        let mapped = state.physical.mapped_at(address.addr() as Address);
        let handle = mapped.and_then(|mapped| state.physical.retain(mapped.id));
        handle.map_or(INVALID_VALUE, |handle| put(out, handle))
    })
}

pub(super) unsafe extern "C" fn mem_get_allocation_properties(
    out: *mut AllocationProperties,
    handle: AllocationHandle,
) -> i32 {
    call(current_world(), "cuMemGetAllocationPropertiesFromHandle", |state| {
        let Some((_, handle_types)) = state.physical.of_handle(handle) else {
            return INVALID_VALUE;
        };
        let location = MemLocation { kind: 1, id: 0 };
        let (windows, flags) = (0, [0; 8]);
        put(out, AllocationProperties { kind: 1, handle_types, location, windows, flags })
    })
}

pub(super) unsafe extern "C" fn mem_export_handle(
    out: *mut c_void,
    handle: AllocationHandle,
    kind: u32,
    _: u64,
) -> i32 {
    call(current_world(), "cuMemExportToShareableHandle", |state| {
        let Some((allocation, types)) = state.physical.of_handle(handle) else {
            return INVALID_VALUE;
        };
        if types & kind == 0 {
            return INVALID_VALUE;
        }
        if kind == FABRIC {
            let mut bytes = [0xFA; 64];
            bytes[..8].copy_from_slice(&allocation.to_ne_bytes());
            return put(out.cast(), bytes);
        }
        let mut file = File::from(rustix::fs::memfd_create("fake", MemfdFlags::empty()).unwrap());
        file.write_all(MARK).unwrap();
        file.write_all(&allocation.to_ne_bytes()).unwrap();
        put(out.cast::<i32>(), file.into_raw_fd())
    })
}

pub(super) unsafe extern "C" fn mem_import_handle(
    out: *mut AllocationHandle,
    descriptor: *mut c_void,
    kind: u32,
) -> i32 {
    call(current_world(), "cuMemImportFromShareableHandle", |state| {
        if kind == FABRIC {
            // SAFETY: callers pass 64 bytes.
            let bytes = unsafe { descriptor.cast::<PointerBytes>().read() };
            let number = u64::from_ne_bytes(bytes[..8].try_into().unwrap());
            let handle = state.physical.retain(number).filter(|_| bytes[8..] == [0xFA; 56]);
            return handle.map_or(INVALID_HANDLE, |handle| put(out, handle));
        }
        // SAFETY: callers pass an open descriptor.
        let file = unsafe { BorrowedFd::borrow_raw(descriptor.addr() as i32) };
        let file = File::from(file.try_clone_to_owned().unwrap());
        let mut bytes = [0; 16];
        if file.read_exact_at(&mut bytes, 0).is_err() || !bytes.starts_with(MARK) {
            return INVALID_HANDLE;
        }
        let number = u64::from_ne_bytes(bytes[8..].try_into().unwrap());
        state.physical.retain(number).map_or(INVALID_HANDLE, |handle| put(out, handle))
    })
}

pub(super) unsafe extern "C" fn mem_release(handle: AllocationHandle) -> i32 {
    call(current_world(), "cuMemRelease", |state| match state.physical.release(handle) {
        true => 0,
        false => state.fault(format!("the handle {handle} is released twice")),
    })
}

pub(super) unsafe extern "C" fn mem_address_reserve(
    out: *mut Address,
    len: usize,
    _: usize,
    _: Address,
    _: u64,
) -> i32 {
    call(current_world(), "cuMemAddressReserve", |state| {
        let address = (state.next_address + 1).next_multiple_of(1 << 30);
        state.next_address = address + len as u64;
        state.physical.reserve(address, len);
        put(out, address)
    })
}

pub(super) unsafe extern "C" fn mem_address_free(address: Address, len: usize) -> i32 {
    call(current_world(), "cuMemAddressFree", |state| match state.physical.free(address, len) {
        true => 0,
        false => state.fault(format!("{address:#x} is not reserved, or something is mapped there")),
    })
}

pub(super) unsafe extern "C" fn mem_map(
    address: Address,
    len: usize,
    offset: usize,
    handle: AllocationHandle,
    _: u64,
) -> i32 {
    call(current_world(), "cuMemMap", |state| {
        ok(offset == 0 && state.physical.map(address, len, handle))
    })
}

pub(super) unsafe extern "C" fn mem_unmap(address: Address, len: usize) -> i32 {
    call(current_world(), "cuMemUnmap", |state| match state.physical.unmap(address, len) {
        true => {
            state.check_idle(address, len);
            0
        }
        false => state.fault(format!("{address:#x} is not mapped as a whole")),
    })
}

pub(super) unsafe extern "C" fn mem_set_access(
    address: Address,
    len: usize,
    access: *const AccessDescription,
    count: usize,
) -> i32 {
    // SAFETY: callers pass a live variable.
    let AccessDescription { location, flags } = unsafe { access.read() };
    call(current_world(), "cuMemSetAccess", |state| {
        ok(count == 1
            && location.kind == 1
            && flags == 3
            && state.physical.set_access(address, len))
    })
}
