//! Pools of the fake driver: number 1 is the default pool, number 2 was made with file descriptors.

use std::ffi::c_void;
use std::fs::File;
use std::io::Write as _;
use std::os::fd::{BorrowedFd, IntoRawFd};
use std::os::unix::fs::FileExt as _;

use rustix::fs::MemfdFlags;

use super::super::super::api::{AccessDescription, Address, Handle, PointerBytes};
use super::super::{FakeMemory, call, current_world, put};

const MARK: &[u8; 8] = b"fakepool";
const OPENED_AT: u64 = 1 << 51;
const INVALID_VALUE: i32 = 1;

pub(super) unsafe extern "C" fn mem_pool_export_handle(
    out: *mut c_void,
    pool: Handle,
    kind: u32,
    _: u64,
) -> i32 {
    call(current_world(), "cuMemPoolExportToShareableHandle", |_| {
        if pool != 2 || kind != 1 {
            return INVALID_VALUE;
        }
        let mut file = File::from(rustix::fs::memfd_create("pool", MemfdFlags::empty()).unwrap());
        file.write_all(MARK).unwrap();
        put(out.cast::<i32>(), file.into_raw_fd())
    })
}

pub(super) unsafe extern "C" fn mem_pool_import_handle(
    out: *mut Handle,
    descriptor: *mut c_void,
    kind: u32,
    _: u64,
) -> i32 {
    call(current_world(), "cuMemPoolImportFromShareableHandle", |state| {
        // SAFETY: callers pass an open descriptor.
        let file = unsafe { BorrowedFd::borrow_raw(descriptor.addr() as i32) };
        let file = File::from(file.try_clone_to_owned().unwrap());
        let mut bytes = [0; 8];
        if kind != 1 || file.read_exact_at(&mut bytes, 0).is_err() || bytes != *MARK {
            return INVALID_VALUE;
        }
        state.last_id += 1;
        let pool = state.last_id as Handle;
        state.pools.push(pool);
        put(out, pool)
    })
}

pub(super) unsafe extern "C" fn mem_pool_export_pointer(
    out: *mut PointerBytes,
    address: Address,
) -> i32 {
    call(current_world(), "cuMemPoolExportPointer", |state| {
        if state.kinds.get(&address) != Some(&FakeMemory::SharedPool) {
            return INVALID_VALUE;
        }
        let mut bytes = [0x5A; 64];
        bytes[..8].copy_from_slice(&address.to_ne_bytes());
        put(out, bytes)
    })
}

pub(super) unsafe extern "C" fn mem_pool_import_pointer(
    out: *mut Address,
    pool: Handle,
    bytes: *mut PointerBytes,
) -> i32 {
    // SAFETY: callers pass a live variable.
    let bytes = unsafe { bytes.read() };
    call(current_world(), "cuMemPoolImportPointer", |state| {
        let address = u64::from_ne_bytes(bytes[..8].try_into().unwrap());
        let Some(len) = state.device.get(&address).copied() else { return INVALID_VALUE };
        if !state.pools.contains(&pool) || bytes[8..] != [0x5A; 56] {
            return INVALID_VALUE;
        }
        match state.of_pools.insert(address + OPENED_AT, len) {
            None => put(out, address + OPENED_AT),
            Some(_) => state.fault(format!("{address:#x} is opened twice")),
        }
    })
}

pub(super) unsafe extern "C" fn mem_pool_set_access(
    pool: Handle,
    access: *const AccessDescription,
    count: usize,
) -> i32 {
    // SAFETY: callers pass a live variable.
    let AccessDescription { location, flags } = unsafe { access.read() };
    call(current_world(), "cuMemPoolSetAccess", |state| {
        let is_right = count == 1 && location.kind == 1 && flags == 3;
        if is_right && state.pools.contains(&pool) { 0 } else { INVALID_VALUE }
    })
}

pub(super) unsafe extern "C" fn mem_pool_destroy(pool: Handle) -> i32 {
    call(current_world(), "cuMemPoolDestroy", |state| {
        match state.pools.iter().position(|known| *known == pool) {
            Some(index) => {
                state.pools.swap_remove(index);
                0
            }
            None => state.fault(format!("the pool {pool} is destroyed twice")),
        }
    })
}
