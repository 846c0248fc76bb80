//! Handles between processes of the fake driver.

use super::super::super::api::{Address, Handle, IpcBytes};
use super::super::{call, current_world, put};

const OPENED_AT: u64 = 1 << 50;

pub(super) unsafe extern "C" fn ipc_get_mem_handle(out: *mut IpcBytes, address: Address) -> i32 {
    let mut bytes = IpcBytes([0xA5; 64]);
    bytes.0[..8].copy_from_slice(&address.to_le_bytes());
    call(current_world(), "cuIpcGetMemHandle", |state| {
        if state.kinds.contains_key(&address) { 1 } else { put(out, bytes) }
    })
}

pub(super) unsafe extern "C" fn ipc_open_mem_handle(
    out: *mut Address,
    handle: IpcBytes,
    _: u32,
) -> i32 {
    call(current_world(), "cuIpcOpenMemHandle", |state| {
        let mut address = [0; 8];
        address.copy_from_slice(&handle.0[..8]);
        let address = u64::from_le_bytes(address);
        let Some(&len) = state.device.get(&address) else {
            return 1;
        };
        match state.opened.insert(address + OPENED_AT, len) {
            None => put(out, address + OPENED_AT),
            Some(_) => state.fault(format!("{address:#x} is opened twice")),
        }
    })
}

pub(super) unsafe extern "C" fn ipc_close_mem_handle(address: Address) -> i32 {
    call(current_world(), "cuIpcCloseMemHandle", |state| match state.opened.remove(&address) {
        Some(_) => 0,
        None => state.fault(format!("{address:#x} is closed twice")),
    })
}

pub(super) unsafe extern "C" fn ipc_get_event_handle(out: *mut IpcBytes, _: Handle) -> i32 {
    call(current_world(), "cuIpcGetEventHandle", |_| put(out, IpcBytes([1; 64])))
}

pub(super) unsafe extern "C" fn ipc_open_event_handle(_: *mut Handle, _: IpcBytes) -> i32 {
    call(current_world(), "cuIpcOpenEventHandle", |_| 201)
}
